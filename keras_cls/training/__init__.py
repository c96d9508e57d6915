"""Training: labelled images in, a run folder with the best classifier out.

``train`` is imported on first use, so that what needs no TensorFlow does without it.
"""

from typing import TYPE_CHECKING

from keras_cls.lazy import lazy_names
from keras_cls.processor import prefer_onednn

if TYPE_CHECKING:
    from keras_cls.training.run import TrainingRun, train

__all__ = ["TrainingRun", "train"]

__getattr__, __dir__ = lazy_names(
    __name__,
    globals(),
    dict.fromkeys(__all__, "run"),
    lambda _: "train",
    prepare=lambda _: prefer_onednn(),
)
