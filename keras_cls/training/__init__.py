"""Training: labelled images in, a run folder with the best classifier out."""

from keras_cls.training.run import TrainingRun, train

__all__ = ["TrainingRun", "train"]
