"""MLServer: ``python serve_mlserver.py FOLDER PORT GRPC_PORT METRICS_PORT``."""

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.settings import ModelParameters
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput
from network import THREADS, Network


class Classify(MLModel):
    async def load(self) -> bool:
        self._network = Network(Path(self.settings.parameters.uri))
        self._workers = ThreadPoolExecutor(THREADS)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        # Adaptive batching has joined the requests.
        photos = list(payload.inputs[0].data)
        loop = asyncio.get_running_loop()
        best = await loop.run_in_executor(self._workers, self._best, photos)
        classes = [name.encode() for row, _ in best for name in row]
        scores = [score for _, row in best for score in row]
        shape = [len(best), len(best[0][0])]
        outputs = [
            ResponseOutput(name="classes", shape=shape, datatype="BYTES", data=classes),
            ResponseOutput(name="scores", shape=shape, datatype="FP32", data=scores),
        ]
        return InferenceResponse(model_name=self.name, outputs=outputs)

    def _best(self, photos: list[bytes]) -> list[tuple[list[str], list[float]]]:
        return self._network.best(np.stack([self._network.prepare(data) for data in photos]))


async def main(folder: str, port: int, grpc_port: int, metrics_port: int) -> None:
    settings = Settings(
        debug=False,
        host="127.0.0.1",
        http_port=port,
        grpc_port=grpc_port,
        metrics_port=metrics_port,
        parallel_workers=0,  # one model: other processes would only cost
    )
    model = ModelSettings(
        name="network",
        implementation=Classify,
        max_batch_size=32,
        max_batch_time=0.001,
        parameters=ModelParameters(uri=folder),
    )
    await MLServer(settings).start([model])


if __name__ == "__main__":
    folder, *ports = sys.argv[1:5]
    import uvloop

    uvloop.run(main(folder, *map(int, ports)))
