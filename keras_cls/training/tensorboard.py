"""The run's curves, and some of its images as they are trained on, as TensorBoard event files."""

from pathlib import Path

import numpy as np
import tensorflow as tf

from keras_cls.preprocessing import Preprocessing
from keras_cls.training.loop import Watcher

_SAMPLES = 16


class TensorBoard(Watcher):
    """Writes ``train`` and ``validation`` below a folder: scalars each epoch, images once.

    Args:
        folder: where.
        rule: how the images were normalized.
    """

    def __init__(self, folder: Path, rule: Preprocessing) -> None:
        self._rule = rule
        self._train = tf.summary.create_file_writer(str(folder / "train"))
        self._validation = tf.summary.create_file_writer(str(folder / "validation"))

    def first_images(self, images: tf.Tensor) -> None:
        """Write a few of them, back in their colours."""
        shown = visible(images.numpy()[:_SAMPLES], self._rule)
        with self._train.as_default():
            tf.summary.image("augmented", shown, step=0, max_outputs=_SAMPLES)
        self._train.flush()

    def end_epoch(self, row: dict[str, float]) -> None:
        """Write an epoch's figures."""
        epoch = int(row["epoch"])
        for name, value in row.items():
            if name == "epoch":
                continue
            of_validation = name.startswith("val_")
            with (self._validation if of_validation else self._train).as_default():
                tf.summary.scalar(f"epoch_{name.removeprefix('val_')}", value, step=epoch)
        self._train.flush()
        self._validation.flush()

    def close(self) -> None:
        """Close the files."""
        self._train.close()
        self._validation.close()


def visible(images: np.ndarray, rule: Preprocessing) -> np.ndarray:
    """Normalized images, float32 [B, H, W, C], as uint8 [B, H, W, C]: what a person would see."""
    values = images * np.array(rule.std) + np.array(rule.mean)
    return np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)
