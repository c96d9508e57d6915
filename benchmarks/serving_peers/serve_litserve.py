"""LitServe: ``python serve_litserve.py FOLDER PORT``."""

import sys
from pathlib import Path
from typing import Annotated

import litserve
import numpy as np
from fastapi import Body
from network import Network

Best = tuple[list[str], list[float]]


class Classify(litserve.LitAPI):
    def __init__(self, folder: Path) -> None:
        # What waits goes together, and nothing waits for company.
        super().__init__(max_batch_size=32, batch_timeout=0.0, api_path="/classify")
        self._folder = folder

    def setup(self, device: str) -> None:
        self._network = Network(self._folder)

    def decode_request(self, request: Annotated[bytes, Body(media_type="image/jpeg")]):
        return self._network.prepare(request)

    def predict(self, images: np.ndarray) -> list[Best]:
        return self._network.best(images)

    def unbatch(self, best: list[Best]) -> list[Best]:
        return best

    def encode_response(self, best: Best):
        classes, scores = best
        return {"classes": classes, "scores": scores}


if __name__ == "__main__":
    folder, port = sys.argv[1:3]
    server = litserve.LitServer(Classify(Path(folder)), accelerator="cpu", fast_queue=True)
    server.run(
        host="127.0.0.1",
        port=int(port),
        num_api_servers=1,
        log_level="warning",
        generate_client_file=False,
        access_log=False,
    )
