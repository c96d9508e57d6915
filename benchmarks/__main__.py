"""Runs the benchmarks: all of them, or those named."""

import sys
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
    "compression_cost": "what int8 and zeros cost ResNet-20 and ResNet-56 in accuracy",
    "deep_compression": "how small LeNet-5, AlexNet and ResNet-56 become, beside Deep Compression",
    "client": "time and memory to import the client, beside TensorFlow Serving's stubs",
    "serving": "the embedded server beside FastAPI, LitServe, KServe and MLServer",
    "serving_soak": "half an hour of steady load, and a hundred hot swaps under load",
}


def main(names: list[str]) -> int:
    unknown = set(names) - set(BENCHMARKS)
    if unknown or "--help" in names:
        for name, summary in BENCHMARKS.items():
            print(f"  {name:<18}{summary}")
        return 2 if unknown else 0
    for name in names or BENCHMARKS:
        print(f"== {name}: {BENCHMARKS[name]}", flush=True)
        import_module(f"benchmarks.{name}").main()
    return 0


sys.exit(main(sys.argv[1:]))
