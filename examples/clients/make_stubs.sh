#!/bin/sh
# Generate Python stubs from the .proto files: sh examples/clients/make_stubs.sh FOLDER
# Needs grpcio-tools; PYTHON names another interpreter than python3.
set -eu
stubs=$(mkdir -p "${1:?the folder to write to}" && cd "$1" && pwd)
cd "$(dirname "$0")/../.."
"${PYTHON:-python3}" -m grpc_tools.protoc -I. --python_out="$stubs" --grpc_python_out="$stubs" \
    keras_cls/contract/protos/*.proto
# The stubs lie in a package of the files' own path; this lets them win where keras_cls is installed.
touch "$stubs/keras_cls/__init__.py"
