"""Ask a prediction service about image files, with grpcio and generated stubs alone.

Nothing of keras_cls is imported, nor TensorFlow; the same works against TensorFlow Serving. In the
repository's root, with grpcio and grpcio-tools installed::

    sh examples/clients/make_stubs.sh stubs
    python examples/clients/ask.py --stubs stubs --model pets --address localhost:8500 cat.jpg

The server decodes JPEG, PNG, GIF and BMP; ``keras_cls.Client`` turns other formats into PNG, goes
on where a server was away, and names the one bad file of many.
"""

import argparse
import sys
from pathlib import Path

import grpc


def main() -> None:
    """Send all images in one call; print the best classes of each."""
    parser = argparse.ArgumentParser(description="Ask a prediction service about image files.")
    parser.add_argument("images", nargs="+", type=Path)
    parser.add_argument("--model", required=True, help="the model's name on the server")
    parser.add_argument("--address", default="localhost:8500", help="host and port")
    parser.add_argument("--stubs", default="stubs", help="the folder that make_stubs.sh wrote")
    parser.add_argument("--tls-ca", type=Path, help="certificates (PEM) that vouch for the server")
    options = parser.parse_args()

    sys.path.insert(0, options.stubs)
    from keras_cls.contract.protos import predict_pb2, services_pb2_grpc, tensor_pb2

    request = predict_pb2.PredictRequest(output_filter=["classes", "scores"])
    request.model_spec.name = options.model
    images = request.inputs["image_bytes"]
    images.dtype = tensor_pb2.DT_STRING
    images.tensor_shape.dim.add(size=len(options.images))
    images.string_val.extend(path.read_bytes() for path in options.images)

    with open_channel(options.address, options.tls_ca) as channel:
        service = services_pb2_grpc.PredictionServiceStub(channel)
        try:
            response = service.Predict(request, timeout=10)
        except grpc.RpcError as error:
            sys.exit(f"{options.address}: {error.code().name}: {error.details()}")

    classes, scores = response.outputs["classes"], response.outputs["scores"]
    per_image = classes.tensor_shape.dim[1].size
    for row, path in enumerate(options.images):
        print(path)
        for place in range(row * per_image, (row + 1) * per_image):
            print(f"  {scores.float_val[place]:.4f}  {classes.string_val[place].decode()}")


def open_channel(address: str, authority: Path | None) -> grpc.Channel:
    """Plain, or TLS where there is a file of certificates to trust."""
    if authority is None:
        return grpc.insecure_channel(address)
    return grpc.secure_channel(address, grpc.ssl_channel_credentials(authority.read_bytes()))


if __name__ == "__main__":
    main()
