"""Class folders of small photos whose brightness tells them apart."""

from pathlib import Path

import numpy as np
from PIL import Image


def flat(value: int, height: int = 6, width: int = 8) -> Image.Image:
    """An image of one brightness."""
    return Image.fromarray(np.full((height, width, 3), value, np.uint8))


def make_folders(root: Path, classes: dict[str, list[int]], suffix: str = ".png") -> Path:
    """A folder for each class, holding an image of each brightness, such as ``cat/007.png``."""
    for label, values in classes.items():
        (root / label).mkdir(parents=True)
        for value in values:
            flat(value).save(root / label / f"{value:03d}{suffix}")
    return root
