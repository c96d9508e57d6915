"""KServe: ``python serve_kserve.py FOLDER PORT GRPC_PORT``.

Its own batcher is a process beside the server in Kubernetes; the server in Python has none.
"""

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

folder, port, grpc_port = sys.argv[1:4]
del sys.argv[1:]  # kserve reads them when it is imported

import numpy as np  # noqa: E402
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer  # noqa: E402
from network import THREADS, Network  # noqa: E402


class Classify(Model):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._network = Network(Path(folder))
        self._workers = ThreadPoolExecutor(THREADS)
        self.ready = True

    async def predict(self, payload: InferRequest, headers=None) -> InferResponse:
        loop = asyncio.get_running_loop()
        data = payload.inputs[0].as_numpy().flat[0]
        classes, scores = await loop.run_in_executor(self._workers, self._network.classify, data)
        outputs = [
            InferOutput("classes", [len(classes)], "BYTES"),
            InferOutput("scores", [len(scores)], "FP32"),
        ]
        outputs[0].set_data_from_numpy(np.array(classes, np.object_))
        outputs[1].set_data_from_numpy(np.array(scores, np.float32))
        return InferResponse(payload.id or "", self.name, outputs)


if __name__ == "__main__":
    server = ModelServer(
        http_port=int(port), grpc_port=int(grpc_port), workers=1, enable_latency_logging=False
    )
    server.start([Classify("network")])
