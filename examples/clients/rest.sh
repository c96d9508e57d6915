#!/bin/sh
# One image by REST: sh examples/clients/rest.sh IMAGE MODEL [HOST:PORT]
# Answers {"predictions": [{"classes": [...], "scores": [...]}]}. The image goes through pipes: on a
# command line it would be too long.
set -eu
image=${1:?an image file} model=${2:?the name of the model} server=${3:-localhost:8501}
{
    printf '{"instances": [{"b64": "'
    base64 < "$image" | tr -d '\n'
    printf '"}]}'
} | curl --silent --show-error --fail-with-body --header 'Content-Type: application/json' \
    --data-binary @- "http://$server/v1/models/$model:predict"
