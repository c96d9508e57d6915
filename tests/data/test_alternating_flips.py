"""Flips that alternate from epoch to epoch, through the whole pipeline."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from keras_cls.data.augmentation import Augmentation
from keras_cls.data.opening import open_training_data
from keras_cls.data.pipeline import ImageStream, steps_per_epoch, training_batches
from keras_cls.preprocessing import Preprocessing

RULE = Preprocessing(size=4, crop=1.0, resize="squash", mean=0.0, std=1.0)
COUNT, BATCH = 24, 8


def shown() -> np.ndarray:
    """Images that tell who they are (green), and whether they are mirrored (red, at the left)."""
    images = np.zeros((COUNT, 4, 4, 3), np.uint8)
    images[:, :, 0, 0] = 255
    images[..., 1] = 10 * np.arange(COUNT)[:, None, None]
    return images


def arrays(folder: Path) -> ImageStream:
    data = shown(), np.arange(COUNT) % 2
    return open_training_data(data, data, cache=folder, seed=0).train


def files(folder: Path) -> ImageStream:
    for number, pixels in enumerate(shown()):
        place = folder / "photos" / f"class{number % 2}"
        place.mkdir(parents=True, exist_ok=True)
        # Of different sizes, so that they cannot be varied all at once.
        image = Image.fromarray(pixels).resize((4 + 4 * (number % 3), 4), Image.Resampling.NEAREST)
        image.save(place / f"{number:02}.png")
    photos = str(folder / "photos")
    return open_training_data(photos, photos, cache=folder / "cache", seed=0).train


def mirrored(stream: ImageStream, epoch: int, epochs: int) -> list[dict[int, bool]]:
    """For each epoch, which images are mirrored."""
    steps = steps_per_epoch(stream, BATCH)
    batches = iter(
        training_batches(
            stream,
            RULE,
            Augmentation(alternating_flip=True),
            batch_size=BATCH,
            seed=3,
            first_step=epoch * steps,
        )
    )
    found = []
    for _ in range(epochs):
        images = np.concatenate([next(batches)[0].numpy() for _ in range(steps)])
        numbers = np.rint(images[:, 0, 0, 1] * 25.5).astype(int)
        found.append(dict(zip(numbers, images[:, 0, 0, 0] < 0.5, strict=True)))
    return found


@pytest.mark.parametrize("opened", [arrays, files])
def test_each_image_is_mirrored_in_every_second_epoch(
    opened: Callable[[Path], ImageStream], tmp_path: Path
) -> None:
    stream = opened(tmp_path)
    epochs = mirrored(stream, 0, 3)
    assert set(epochs[0]) == set(range(COUNT))
    assert 4 < sum(epochs[0].values()) < 20
    assert epochs[1] == {number: not flipped for number, flipped in epochs[0].items()}
    assert epochs[2] == epochs[0]
    assert mirrored(stream, 1, 1) == epochs[1:2]  # as after a stop
