"""The public images beside the repository (../shared/data, or KERAS_CLS_DATA)."""

import gzip
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.tables import ROOT

if TYPE_CHECKING:
    from keras_cls import Classifier

Arrays = dict[str, np.ndarray]
"""``train_images``, ``train_labels``, ``test_images``, ``test_labels``."""


def data_folder(name: str) -> Path:
    """The folder of that data; ends the program where there is none."""
    folder = Path(os.environ.get("KERAS_CLS_DATA", ROOT.parent / "shared/data")) / name
    if not folder.is_dir():
        raise SystemExit(f"{folder}: there is no such data; KERAS_CLS_DATA names the folder above")
    return folder


def has_data(name: str) -> bool:
    """Whether that data is there."""
    try:
        return bool(data_folder(name))
    except SystemExit:
        return False


def gallery_photos(size: tuple[int, int] | None = None) -> list[Path]:
    """The JPEG photos in colour of the gallery; only those of a size (width, height) if given."""
    from PIL import Image

    found = []
    for path in sorted((data_folder("gallery") / "photos").glob("*.jpg")):
        with Image.open(path) as image:
            if image.mode == "RGB" and size in (None, image.size):
                found.append(path)
    return found


def spread_photos(count: int) -> list[Path]:
    """So many of the gallery's photos, from its beginning to its end."""
    photos = gallery_photos()
    return photos[:: len(photos) // count][:count]


def part_of(images: Arrays, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of ``"train"`` or ``"test"``."""
    return images[f"{part}_images"], images[f"{part}_labels"]


def cifar_classes() -> list[str]:
    """The names of CIFAR-10's classes."""
    return (data_folder("cifar10") / "classes.txt").read_text().split()


def cifar_resnet(name: str) -> "Classifier":
    """akamaster's ``resnet20`` or ``resnet56``, trained on CIFAR-10."""
    import keras_cls

    weights = data_folder("weights") / f"cifar10_{name}.npz"
    model = keras_cls.create_model(f"{name}_cifar10", weights=weights)
    return keras_cls.Classifier(model, cifar_classes())


def read_cifar(folder: Path) -> Arrays:
    """Its sheets of 32-pixel tiles, row by row, and the labels beside them."""
    from PIL import Image

    found: dict[str, list[np.ndarray]] = {}
    for file in sorted(folder.glob("*.webp")):
        part = "train" if file.stem.startswith("train") else "test"
        sheet = np.asarray(Image.open(file).convert("RGB"))
        rows, columns = sheet.shape[0] // 32, sheet.shape[1] // 32
        tiles = sheet.reshape(rows, 32, columns, 32, 3).swapaxes(1, 2).reshape(-1, 32, 32, 3)
        (labels,) = map(np.load, file.parent.glob(f"{file.stem}*.npy"))
        found.setdefault(f"{part}_images", []).append(tiles[: len(labels)])
        found.setdefault(f"{part}_labels", []).append(labels.astype("int64"))
    return {name: np.concatenate(parts) for name, parts in found.items()}


def read_mnist(folder: Path) -> Arrays:
    """Its idx files: images uint8 [N, 28, 28], labels int64."""
    found = {}
    for part, name in (("train", "train"), ("test", "t10k")):
        images = gzip.decompress((folder / f"{name}-images-idx3-ubyte.gz").read_bytes())
        labels = gzip.decompress((folder / f"{name}-labels-idx1-ubyte.gz").read_bytes())
        pixels = np.frombuffer(images, np.uint8, offset=16)
        found[f"{part}_images"] = pixels.reshape(-1, 28, 28)
        found[f"{part}_labels"] = np.frombuffer(labels, np.uint8, offset=8).astype("int64")
    return found
