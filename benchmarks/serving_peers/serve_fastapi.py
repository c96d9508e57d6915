"""FastAPI and ONNX Runtime: ``python serve_fastapi.py FOLDER PORT``. It has no batching."""

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import uvicorn
from fastapi import FastAPI, Request
from network import THREADS, Network
from pydantic import BaseModel


class Answer(BaseModel):
    classes: list[str]
    scores: list[float]


def make_app(network: Network) -> FastAPI:
    app = FastAPI()
    workers = ThreadPoolExecutor(THREADS)

    def classify(data: bytes) -> Answer:
        classes, scores = network.classify(data)
        return Answer(classes=classes, scores=scores)

    @app.post("/classify")
    async def answer(request: Request) -> Answer:
        data = await request.body()
        return await asyncio.get_running_loop().run_in_executor(workers, classify, data)

    return app


if __name__ == "__main__":
    folder, port = sys.argv[1:3]
    uvicorn.run(
        make_app(Network(Path(folder))),
        host="127.0.0.1",
        port=int(port),
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="warning",
    )
