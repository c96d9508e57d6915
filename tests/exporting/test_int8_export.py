"""int8 SavedModels: what they hold, what they answer, and what is refused."""

import json
import os
import subprocess
import sys
import warnings

import numpy as np
import pytest
from classifiers import LABELS, colour_folder, photo, pixels, small_classifier

from keras_cls.cli import main
from keras_cls.errors import ConfigError, ExportError
from keras_cls.exporting import export
from keras_cls.exporting.calibration_images import MOST_IMAGES, calibration_images
from keras_cls.exporting.multiply_adds import written_multiply_adds
from keras_cls.exporting.onednn import GUARD
from keras_cls.exporting.verification import BOUNDS, SessionModel


@pytest.fixture(scope="module")
def classifier():
    return small_classifier()


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return colour_folder(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def version(classifier, photos, tmp_path_factory):
    return export(
        classifier,
        tmp_path_factory.mktemp("models") / "colours",
        precision="int8",
        calibration=photos,
    )


def test_answers_are_close_in_a_bare_session(version, classifier):
    with SessionModel(version) as run:
        found = run("images", {"images": pixels()})["probabilities"]
    wanted = classifier.probabilities_of_pixels(pixels())
    assert np.abs(found - wanted).max() < 0.03


def test_all_multiply_adds_are_in_bytes(version):
    counted = written_multiply_adds(version)
    # 11 x 9 positions of a 3x3 window over 3 channels onto 8; 792 features onto 3 classes.
    assert counted.quantized == 11 * 9 * 27 * 8 + 792 * 3
    assert counted.floating == 0
    assert counted.quantized_share == 1.0


def test_a_float_export_has_none_in_bytes(classifier, tmp_path):
    counted = written_multiply_adds(export(classifier, tmp_path / "m"))
    assert counted.quantized == 0
    assert counted.floating == 11 * 9 * 27 * 8 + 792 * 3


def test_the_card_tells_how_it_was_made(version, photos):
    card = json.loads((version / "card.json").read_text())
    assert card["export"] == {
        "format": "saved_model",
        "precision": "int8",
        "folded": True,
        "calibration": {"images": 18, "origin": f"{photos}/", "method": "mse"},
        "in_float": {},
        "quantized_share": 1.0,
    }
    verification = card["verification"]
    assert verification["source"] == f"{photos}/"
    assert verification["images"] == 18
    assert verification["mean_bound"] == BOUNDS["int8"].mean


def test_where_kernels_are_missing_the_message_names_the_reason(version):
    assert GUARD.encode() in (version / "saved_model.pb").read_bytes()


def test_with_onednns_layouts_off_it_answers_the_same(version):
    code = f"""
import sys, numpy as np
from keras_cls.exporting.verification import SessionModel
from pathlib import Path
pixels = np.load(sys.argv[1])
with SessionModel(Path({str(version)!r})) as run:
    np.save(sys.argv[2], run("images", {{"images": pixels}})["probabilities"])
"""
    given, answered = version.parent / "given.npy", version.parent / "answered.npy"
    np.save(given, pixels())
    environment = {**os.environ, "TF_ENABLE_ONEDNN_OPTS": "0"}
    command = [sys.executable, "-c", code, str(given), str(answered)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    with SessionModel(version) as run:
        here = run("images", {"images": pixels()})["probabilities"]
    np.testing.assert_allclose(np.load(answered), here, atol=0.02)


@pytest.mark.parametrize("channels", [1, 4])
def test_grayscale_and_rgba_networks(tmp_path, channels):
    classifier = small_classifier(channels=channels)
    images = [photo(label, seed=seed) for seed, label in enumerate(LABELS * 3)]
    version = export(classifier, tmp_path / "m", precision="int8", calibration=images)
    card = json.loads((version / "card.json").read_text())
    assert card["verification"]["tensor_difference"] < 0.05


class TestCalibrationImages:
    def test_words_for_data(self, classifier, photos, tmp_path):
        arrays = np.stack([photo(seed=n) for n in range(5)])
        flat = tmp_path / "flat"
        flat.mkdir()
        for file in (photos / "red").iterdir():
            (flat / file.name).write_bytes(file.read_bytes())
        manifest = tmp_path / "list.csv"
        rows = [f"{photos / label / '00.jpg'},{label}" for label in LABELS]
        manifest.write_text("\n".join(["file,label", *rows]))
        for given, count in [
            (photos, 18),
            (str(photos), 18),
            (flat, 6),
            (manifest, 3),
            (arrays, 5),
            (list(arrays), 5),
            (list(arrays[:2]), 2),
            ((arrays, [0, 1, 2, 0, 1]), 5),
            ([photos / "red" / "00.jpg"], 1),
            (photos / "red" / "00.jpg", 1),
        ]:
            found = calibration_images(classifier, given)
            assert found.prepared.shape == (count, 24, 20, 3), given
            assert found.prepared.dtype == np.float32

    def test_many_are_thinned_out_evenly(self, classifier):
        many = np.zeros((1000, 24, 20, 3), np.uint8)
        many += np.arange(1000, dtype=np.uint16)[:, None, None, None].astype(np.uint8) // 4
        many[:, ::2] = 255
        found = calibration_images(classifier, many)
        assert len(found.prepared) == MOST_IMAGES
        np.testing.assert_allclose(found.prepared[0], classifier.prepared(many[0]))
        np.testing.assert_allclose(found.prepared[-1], classifier.prepared(many[-1]))

    def test_a_broken_one_is_named_and_left_out(self, classifier, photos, tmp_path):
        broken = tmp_path / "broken.jpg"
        broken.write_text("no image")
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            found = calibration_images(classifier, [photos / "red" / "00.jpg", broken])
        assert len(found.prepared) == 1
        assert "broken.jpg" in str(told[0].message)

    def test_what_is_of_no_use_is_refused(self, classifier, tmp_path):
        with pytest.raises(ConfigError, match="int8 needs images to calibrate with"):
            calibration_images(classifier, None)
        with pytest.raises(ConfigError, match="each of the 4 images is of one colour throughout"):
            calibration_images(classifier, np.zeros((4, 24, 20, 3), np.uint8))
        with pytest.raises(ConfigError, match="no image to calibrate with"):
            calibration_images(classifier, [])
        empty = tmp_path / "empty"
        empty.mkdir()
        with pytest.raises(ConfigError, match=r"empty: no image to calibrate with"):
            calibration_images(classifier, empty)

    def test_the_sample_kept_with_the_classifier_serves(self):
        classifier = small_classifier()
        classifier.sample = pixels()
        found = calibration_images(classifier, None)
        assert len(found.prepared) == 6
        assert found.origin == "the sample kept with the classifier"


def test_an_unknown_method_is_refused(classifier, photos, tmp_path):
    with pytest.raises(ConfigError, match="calibration_method must be one of max, percentile"):
        export(
            classifier,
            tmp_path / "m",
            precision="int8",
            calibration=photos,
            calibration_method="most",
        )


def test_an_export_beyond_the_bound_is_refused(classifier, tmp_path):
    # Calibrated on faint images, it cuts off what others make of it.
    faint = np.random.default_rng(0).integers(100, 103, (8, 24, 20, 3)).astype(np.uint8)
    version = export(
        classifier, tmp_path / "m", precision="int8", calibration=faint, verify="report"
    )
    with SessionModel(version) as run:
        found = run("images", {"images": pixels()})["probabilities"]
    wanted = classifier.probabilities_of_pixels(pixels())
    assert np.isfinite(found).all()
    assert np.abs(found - wanted).max() > 0.03
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BOUNDS, "int8", BOUNDS["float32"])
        with pytest.raises(ExportError, match="does not agree with the Keras model"):
            export(classifier, tmp_path / "m", precision="int8", calibration=pixels())
    assert [entry.name for entry in (tmp_path / "m").iterdir()] == ["1"]


def test_from_the_command_line(classifier, photos, tmp_path, capfd):
    saved = classifier.save(tmp_path / "saved")
    arguments = ["export", saved, "--to", tmp_path / "colours", "--precision", "int8"]
    assert main([*map(str, arguments), "--calibration", str(photos)]) == 0
    assert capfd.readouterr().out.strip() == str(tmp_path / "colours" / "1")
    assert main([*map(str, arguments)]) == 1
    assert "int8 needs images to calibrate with" in capfd.readouterr().err
