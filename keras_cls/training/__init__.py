"""Training: labelled images in, a run folder with the best classifier out.

``train`` is imported on first use, so that what needs no TensorFlow does without it.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keras_cls.training.run import TrainingRun, train

__all__ = ["TrainingRun", "train"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from keras_cls.training import run

    return getattr(run, name)
