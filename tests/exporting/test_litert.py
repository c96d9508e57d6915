"""LiteRT files: names, answers, sizes, and what is refused."""

import json
import warnings

import numpy as np
import pytest
import tensorflow as tf
from classifiers import LABELS, pixels, small_classifier

from keras_cls.cli import main
from keras_cls.errors import ConfigError
from keras_cls.exporting import export
from keras_cls.exporting.litert import LITE_PRECISIONS


@pytest.fixture(scope="module")
def classifier():
    return small_classifier()


@pytest.fixture(scope="module")
def versions(classifier, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {
        precision: export(
            classifier, folder / precision, "litert", precision=precision, calibration=pixels(12)
        )
        for precision in LITE_PRECISIONS
    }


def interpreter_of(version):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return tf.lite.Interpreter(str(version / "model.tflite"))


@pytest.mark.parametrize("precision", LITE_PRECISIONS)
def test_a_signature_answers_as_the_model_does(versions, classifier, precision):
    interpreter = interpreter_of(versions[precision])
    assert interpreter.get_signature_list() == {
        "serving_default": {"inputs": ["images"], "outputs": ["probabilities"]}
    }
    run = interpreter.get_signature_runner("serving_default")
    wanted = classifier.probabilities_of_pixels(pixels())
    bound = {"float32": 1e-5, "dynamic": 0.02, "int8": 0.03}[precision]
    for count in (1, 6, 2):
        found = run(images=pixels()[:count])["probabilities"]
        assert found.dtype == np.float32
        assert np.abs(found - wanted[:count]).max() < bound


def test_bytes_are_bytes(versions):
    sizes = {name: (v / "model.tflite").stat().st_size for name, v in versions.items()}
    assert sizes["int8"] < 0.6 * sizes["float32"]
    assert sizes["dynamic"] < 0.6 * sizes["float32"]
    kinds = {
        name: {detail["name"]: detail["dtype"] for detail in interpreter_of(v).get_tensor_details()}
        for name, v in versions.items()
    }
    convolved = next(name for name in kinds["int8"] if "Relu" in name)
    assert kinds["int8"][convolved] == np.int8
    assert kinds["dynamic"][convolved] == np.float32


def test_the_card_tells_how_it_was_made(versions):
    card = json.loads((versions["int8"] / "card.json").read_text())
    assert card["export"]["format"] == "litert"
    assert card["export"]["precision"] == "int8"
    assert card["export"]["calibration"] == {"images": 12}
    assert card["labels"] == LABELS
    assert card["verification"]["within_bounds"] is True
    assert card["verification"]["encoded_difference"] is None


@pytest.mark.parametrize("channels", [1, 4])
def test_grayscale_and_rgba(channels, tmp_path):
    version = export(small_classifier(channels=channels), tmp_path / "m", "litert")
    card = json.loads((version / "card.json").read_text())
    assert card["verification"]["tensor_difference"] < 1e-4


def test_precisions_of_other_formats_are_refused(classifier, tmp_path):
    with pytest.raises(ConfigError, match="precision of litert must be one of float32, dynamic"):
        export(classifier, tmp_path, "litert", precision="bfloat16")
    with pytest.raises(ConfigError, match="precision of saved_model must be one of float32, bfl"):
        export(classifier, tmp_path, precision="dynamic")


def test_from_the_command_line(classifier, tmp_path, capfd):
    saved = classifier.save(tmp_path / "saved")
    arguments = ["export", saved, "--to", tmp_path / "m", "--format", "litert"]
    assert main([*map(str, arguments), "--precision", "dynamic"]) == 0
    assert capfd.readouterr().out.strip() == str(tmp_path / "m" / "1")
    assert [file.name for file in sorted((tmp_path / "m" / "1").iterdir())] == [
        "card.json",
        "model.tflite",
    ]
