"""Runs the benchmarks: all of them, or those named."""

import argparse
from importlib import import_module

BENCHMARKS = {
    "networks": "the registry's table in the README",
    "weights": "the tables of published weights in docs/weights.md",
    "recipes": "the table of recipes in docs/training.md",
    "layers": "fused batch normalization and grouped convolution against those of Keras",
    "speed": "building, answer and training step of every network against keras.applications",
    "input_pipeline": "images a second from full-size photos against torch's DataLoader",
    "training": "the training step against PyTorch and plain Keras 3",
    "time_to_accuracy": "minutes to 90 % and 94 % on CIFAR-10 against PyTorch",
    "inference": "int8 and bfloat16 SavedModels beside OpenVINO, ONNX Runtime, LiteRT and torch",
    "loading": "seconds and memory until a SavedModel answers, beside Keras' own export",
    "every_export": "every network as a SavedModel: its size, how near to Keras, what is in bytes",
    "compression_cost": "what int8 and zeros cost ResNet-20 and ResNet-56 in accuracy",
    "deep_compression": "how small LeNet-5, AlexNet and ResNet-56 become, beside Deep Compression",
    "client": "time and memory to import the client, beside TensorFlow Serving's stubs",
    "serving": "the embedded server beside FastAPI, LitServe, KServe and MLServer",
    "serving_soak": "half an hour of steady load, and a hundred hot swaps under load",
}


def main() -> None:
    listed = "\n".join(f"  {name:<18}{summary}" for name, summary in BENCHMARKS.items())
    parser = argparse.ArgumentParser(
        "python -m benchmarks", description=__doc__, epilog=listed,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("name", nargs="*", help="one of these; all without one")
    names = parser.parse_args().name
    if unknown := set(names) - set(BENCHMARKS):
        parser.error(f"no benchmark is called {', '.join(sorted(unknown))}; there are\n{listed}")
    for name in names or BENCHMARKS:
        print(f"== {name}: {BENCHMARKS[name]}", flush=True)
        import_module(f"benchmarks.{name}").main()


main()
