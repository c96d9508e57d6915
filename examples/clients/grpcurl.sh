#!/bin/sh
# One image by gRPC: sh examples/clients/grpcurl.sh IMAGE MODEL [HOST:PORT]
# JSON has no bytes: grpcurl takes the image, and gives the names of the classes, in base64.
set -eu
image=$(cd "$(dirname "${1:?an image file}")" && pwd)/$(basename "$1")
model=${2:?the name of the model} server=${3:-localhost:8500}
cd "$(dirname "$0")/../.."
{
    printf '{"model_spec": {"name": "%s"}, "inputs": {"image_bytes": {"dtype": "DT_STRING",' "$model"
    printf ' "tensor_shape": {"dim": [{"size": 1}]}, "string_val": ["'
    base64 < "$image" | tr -d '\n'
    printf '"]}}}'
} | grpcurl -plaintext -import-path . -proto keras_cls/contract/protos/services.proto -d @ \
    "$server" tensorflow.serving.PredictionService/Predict
