"""LeNet-5: the paper's input range."""

import pytest

from keras_cls.architectures import model_spec


def test_preprocessing_has_the_papers_range() -> None:
    preprocessing = model_spec("lenet5").preprocessing
    (mean,), (std,) = preprocessing.mean, preprocessing.std
    assert (0 - mean) / std == pytest.approx(-0.1)
    assert (1 - mean) / std == pytest.approx(1.175)
