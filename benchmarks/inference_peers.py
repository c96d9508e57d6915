"""The other runtimes' side of benchmarks/inference.py, run with their own environments.

It imports nothing of the project, which those do not have.

``convert FOLDER`` quantizes FOLDER/network.onnx for OpenVINO and ONNX Runtime; otherwise the first
argument is the runtime, and each line read, a batch's size, is answered with seconds.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

THREADS = 2
BATCHES = (1, 8)


def convert(folder: Path) -> None:
    import nncf
    import openvino
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = np.load(folder / "prepared.npy")
    network = folder / "network.onnx"
    model = openvino.convert_model(network)
    data = nncf.Dataset([image[None] for image in prepared])
    quantized = nncf.quantize(model, data, subset_size=len(prepared))
    (folder / "openvino").mkdir()
    openvino.save_model(quantized, folder / "openvino/model.xml")

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            name = model.inputs[0].get_any_name()
            self.rows = iter([{name: image[None]} for image in prepared])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.rows, None)

    (folder / "onnxruntime").mkdir()
    ready = folder / "ready.onnx"
    quant_pre_process(str(network), str(ready))
    quantize_static(
        str(ready),
        str(folder / "onnxruntime/model.onnx"),
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
    )


def openvino_row(folder: Path):
    import openvino

    core = openvino.Core()
    settings = {"INFERENCE_NUM_THREADS": THREADS, "PERFORMANCE_HINT": "LATENCY"}
    compiled = core.compile_model(folder / "openvino/model.xml", "CPU", settings)
    images = np.load(folder / "prepared.npy")
    request = compiled.create_infer_request()
    return lambda batch: request.infer([images[:batch]]), f"OpenVINO {openvino.__version__}"


def onnxruntime_row(folder: Path):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = THREADS, 1
    path = str(folder / "onnxruntime/model.onnx")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    images = np.load(folder / "prepared.npy")
    version = f"ONNX Runtime {onnxruntime.__version__}"
    return lambda batch: session.run(None, {name: images[:batch]}), version


def litert_row(folder: Path):
    from importlib.metadata import version

    from ai_edge_litert.interpreter import Interpreter

    images = np.load(folder / "prepared.npy")
    interpreters = {}
    for batch in BATCHES:
        made = Interpreter(str(folder / "litert/model.tflite"), num_threads=THREADS)
        index = made.get_input_details()[0]["index"]
        made.resize_tensor_input(index, (batch, *images.shape[1:]))
        made.allocate_tensors()
        interpreters[batch] = made, index

    def run(batch: int) -> None:
        made, index = interpreters[batch]
        made.set_tensor(index, images[:batch])
        made.invoke()
        made.get_tensor(made.get_output_details()[0]["index"])

    return run, f"LiteRT {version('ai-edge-litert')}"


def torch_row(folder: Path, network: str):
    import torch
    import torchvision

    torch.set_num_threads(THREADS)
    options = {"init_weights": False} if network == "inception_v3" else {}
    model = getattr(torchvision.models, network)(weights=None, **options).eval()
    model = torch.compile(model.to(memory_format=torch.channels_last))
    images = torch.from_numpy(np.load(folder / "prepared.npy")).permute(0, 3, 1, 2)
    images = images.contiguous(memory_format=torch.channels_last)

    def run(batch: int) -> None:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            model(images[:batch])

    return run, f"PyTorch {torch.__version__}"


def answer_lines(run: Callable[[int], object], version: str) -> None:
    """Warm up, tell the version, then answer each line with seconds, as JSON."""
    for batch in BATCHES:
        for _ in range(5):
            run(batch)
    print(json.dumps(version), flush=True)
    for line in sys.stdin:
        batch = int(line)
        repeats = max(1, 8 // batch)
        run(batch)
        start = time.perf_counter()
        for _ in range(repeats):
            run(batch)
        print(json.dumps((time.perf_counter() - start) / repeats), flush=True)


if __name__ == "__main__":
    kind, folder, *rest = sys.argv[1:]
    if kind == "convert":
        convert(Path(folder))
    else:
        rows = {
            "openvino": openvino_row,
            "onnxruntime": onnxruntime_row,
            "litert": litert_row,
            "torch": torch_row,
        }
        answer_lines(*rows[kind](Path(folder), *rest))
