"""Which precision is taken, and that what is kept stays float32."""

import numpy as np
import pytest
from runs import QUICK, digits

from keras_cls.errors import ConfigError
from keras_cls.processor import BFLOAT16_FLAGS, cpu_flags
from keras_cls.training import train
from keras_cls.training.precision import choose_precision


def test_what_is_asked_for_is_taken() -> None:
    assert choose_precision("float32") == ("float32", "as asked for")
    assert choose_precision("bfloat16") == ("bfloat16", "as asked for")
    with pytest.raises(ConfigError, match="precision must be one of auto"):
        choose_precision("float8")


def test_auto_looks_at_the_hardware() -> None:
    found, why = choose_precision("auto")
    if "CPU" in why:
        assert (found == "bfloat16") == bool(cpu_flags() & BFLOAT16_FLAGS)


def test_a_run_in_bfloat16_keeps_a_classifier_in_float32(tmp_path) -> None:
    run = train("lenet5", digits(), precision="bfloat16", run_dir=tmp_path, **QUICK)
    assert {layer.compute_dtype for layer in run.classifier.model.layers} == {"float32"}
    assert {weight.dtype for weight in run.classifier.model.weights} == {"float32"}
    other = train("lenet5", digits(), precision="float32", run_dir=tmp_path / "other", **QUICK)
    for one, two in zip(run.history, other.history, strict=True):
        assert one["loss"] == pytest.approx(two["loss"], rel=0.05)
        assert one["loss"] != two["loss"]
    assert np.isfinite(run.classifier.probabilities_of_pixels(run.classifier.sample)).all()
