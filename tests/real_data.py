"""Readers for the public data of ../shared/data, for tests marked ``data``."""

import gzip
from pathlib import Path

import numpy as np
from PIL import Image


def mnist(folder: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """MNIST from its idx files: uint8 [N, 28, 28] and int64 [N]; part is "train" or "t10k"."""
    images = gzip.decompress((folder / f"{part}-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((folder / f"{part}-labels-idx1-ubyte.gz").read_bytes())
    pixels = np.frombuffer(images, np.uint8, offset=16).reshape(-1, 28, 28)
    return pixels, np.frombuffer(labels, np.uint8, offset=8).astype(np.int64)


def cifar10(folder: Path, sheet: str) -> tuple[np.ndarray, np.ndarray]:
    """A sheet of CIFAR-10, a grid of 32x32 tiles row by row: uint8 [N, 32, 32, 3], int64 [N]."""
    with Image.open(folder / f"{sheet}.webp") as image:
        grid = np.asarray(image.convert("RGB"))
    rows, columns = grid.shape[0] // 32, grid.shape[1] // 32
    tiles = grid.reshape(rows, 32, columns, 32, 3).swapaxes(1, 2).reshape(-1, 32, 32, 3)
    labels = np.load(folder / f"{sheet}_labels.npy").astype(np.int64)
    return tiles[: len(labels)], labels
