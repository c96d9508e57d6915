"""The run's curves, and some of its images as they are trained on, as TensorBoard event files."""

from pathlib import Path

import numpy as np
import tensorflow as tf

from keras_cls.preprocessing import Preprocessing
from keras_cls.training.figures import Figures

_SAMPLES = 16


class TensorBoard:
    """Writes ``train`` and ``validation`` below a folder: scalars each epoch, images once."""

    def __init__(self, folder: Path) -> None:
        self._train = tf.summary.create_file_writer(str(folder / "train"))
        self._validation = tf.summary.create_file_writer(str(folder / "validation"))

    def show_images(self, batch: tf.Tensor, rule: Preprocessing) -> None:
        """Write a few images of a training batch, float32 [B, H, W, C], back in their colours."""
        with self._train.as_default():
            tf.summary.image(
                "augmented", visible(batch.numpy()[:_SAMPLES], rule), step=0, max_outputs=_SAMPLES
            )
        self._train.flush()

    def begin_epoch(self, epoch: int, step: int) -> None:
        """Nothing to write yet."""

    def step(self, figures: Figures, images: int) -> None:
        """Nothing to write yet."""

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
