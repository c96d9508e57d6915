"""int8 SavedModels: what they hold, what they answer, and what is refused."""

import json
import os
import subprocess
import sys
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from classifiers import (
    LABELS,
    answers_elsewhere,
    colour_folder,
    encoded,
    photo,
    pixels,
    small_classifier,
)

from keras_cls.classifier import Classifier
from keras_cls.cli import main
from keras_cls.compression.refining import Refinement
from keras_cls.compression.settings import Pruning, Quantization
from keras_cls.data.packing import pack
from keras_cls.errors import ConfigError, ExportError
from keras_cls.exporting import export, hardware
from keras_cls.exporting.calibration_images import MOST_IMAGES, calibration_images
from keras_cls.exporting.multiply_adds import written_multiply_adds
from keras_cls.exporting.networks import int8_network_of
from keras_cls.exporting.onednn import GUARD
from keras_cls.exporting.verification import BOUNDS, Bounds, Sample, SessionModel, compared
from keras_cls.preprocessing import Preprocessing


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
        "calibration": {
            "images": 18,
            "origin": f"{photos}/",
            "method": "mse",
            "bias_correction": True,
        },
        "in_float": {},
        "quantized_share": 1.0,
    }
    verification = card["verification"]
    assert verification["source"] == f"{photos}/"
    assert verification["images"] == 18
    assert verification["mean_bound"] == BOUNDS["int8"].mean


def test_biases_that_were_trained_for_int8_are_left_alone(classifier):
    images = calibration_images(classifier, list(pixels(20)))
    assert int8_network_of(classifier, images, "mse").notes["calibration"]["bias_correction"]
    learnt = Classifier(
        classifier.model,
        classifier.labels,
        classifier.preprocessing,
        training={
            "refined": [Refinement(Pruning()).to_dict(), Refinement(Quantization()).to_dict()]
        },
    )
    assert not int8_network_of(learnt, images, "mse").notes["calibration"]["bias_correction"]


@pytest.fixture(scope="module")
def hard(tmp_path_factory):
    """A version whose sums are large, its classifier and images: white and black side by side."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    inputs = keras.Input((24, 24, 3))
    x = layers.Conv2D(16, 3, activation="relu")(inputs)
    x = layers.DepthwiseConv2D(3, activation="relu")(x)
    narrow = layers.Conv2D(8, 1)(x)
    x = layers.Conv2D(32, 3, padding="same", activation="relu")(narrow)
    x = layers.AveragePooling2D(3, 1, padding="same")(x)
    x = layers.Concatenate()([x, layers.DepthwiseConv2D(3, padding="same")(narrow)])
    x = layers.Conv2D(32, 3, padding="same", groups=4, activation="relu")(layers.Conv2D(32, 1)(x))
    x = layers.ReLU()(layers.Add()([layers.Conv2D(32, 1)(x), x]))
    x = layers.MaxPooling2D(5)(layers.Conv2D(32, 1, activation="silu")(x))
    model = keras.Model(inputs, layers.Dense(3)(layers.Flatten()(x)))
    rng = np.random.default_rng(0)
    for variable in model.trainable_variables:
        values = variable.numpy()
        size = np.sqrt(2 / max(1, values.size // values.shape[-1]))
        variable.assign(size * rng.choice([-1, -0.9, 0.9, 1], values.shape))
    images = 255 * rng.integers(0, 2, (20, 6, 6, 3), np.uint8).repeat(4, 1).repeat(4, 2)
    classifier = Classifier(model, LABELS, Preprocessing(size=(24, 24)))
    folder = tmp_path_factory.mktemp("models") / "hard"
    return export(classifier, folder, precision="int8", calibration=images), classifier, images


@pytest.mark.parametrize("kind", ["AVX2", pytest.param("AVX512_CORE", marks=pytest.mark.slow)])
def test_every_processor_gives_the_same_answers(hard, kind):
    version, classifier, images = hard
    here = answers_elsewhere(version, images, TF_ENABLE_ONEDNN_OPTS="1")
    there = answers_elsewhere(version, images, ONEDNN_MAX_CPU_ISA=kind, TF_ENABLE_ONEDNN_OPTS="0")
    assert np.ptp(here, axis=0).max() > 0.1
    np.testing.assert_allclose(there, here, atol=1e-5)
    # What is cut off would be so on both sides where this processor is no better.
    assert np.abs(here - classifier.probabilities_of_pixels(images)).mean() < 0.02


def test_an_empty_batch_gets_an_empty_answer(hard):
    version, _, images = hard
    assert answers_elsewhere(version, images[:0]).shape == (0, 3)


def test_where_kernels_are_missing_the_message_names_the_reason(version):
    assert GUARD.encode() in (version / "saved_model.pb").read_bytes()


class TestFallback:
    """A float32 version beside it, for servers that cannot run what is published."""

    @pytest.mark.parametrize(
        "precision", ["int8", pytest.param("bfloat16", marks=pytest.mark.slow)]
    )
    def test_two_versions_that_name_each_other(self, classifier, tmp_path, precision):
        (tmp_path / "m" / "3").mkdir(parents=True)
        version = export(
            classifier, tmp_path / "m", precision=precision, calibration=pixels(20), fallback=True
        )
        assert version == tmp_path / "m" / "5"
        cards = [json.loads((tmp_path / "m" / n / "card.json").read_text()) for n in "45"]
        assert [card["export"]["precision"] for card in cards] == ["float32", precision]
        assert cards[0]["export"]["fallback_of"] == 5
        assert cards[1]["export"]["fallback"] == 4
        assert all(card["verification"]["within_bounds"] for card in cards)
        with SessionModel(tmp_path / "m" / "4") as run:
            found = run("images", {"images": pixels()})["probabilities"]
        wanted = classifier.probabilities_of_pixels(pixels())
        assert np.abs(found - wanted).max() < 1e-5
        assert sorted(entry.name for entry in (tmp_path / "m").iterdir()) == ["3", "4", "5"]

    @pytest.mark.slow
    def test_neither_is_published_where_one_is_refused(self, classifier, tmp_path, monkeypatch):
        monkeypatch.setitem(BOUNDS, "int8", Bounds(-1.0, -1.0, -1.0, -1.0))
        with pytest.raises(ExportError, match="does not agree"):
            export(
                classifier, tmp_path / "m", precision="int8", calibration=pixels(20), fallback=True
            )
        assert list((tmp_path / "m").iterdir()) == []

    def test_it_goes_with_what_may_not_run(self, classifier, tmp_path):
        for options in ({}, {"format": "litert", "precision": "int8"}):
            with pytest.raises(ConfigError, match="fallback: a float32 version goes beside"):
                export(classifier, tmp_path / "m", fallback=True, **options)

    @pytest.mark.slow
    def test_from_the_command_line(self, classifier, photos, tmp_path, capfd):
        saved = classifier.save(tmp_path / "saved")
        command = ["export", saved, "--to", tmp_path / "m", "--precision", "int8", "--fallback"]
        assert main([*map(str, command), "--calibration", str(photos)]) == 0
        assert capfd.readouterr().out.split() == [str(tmp_path / "m" / n) for n in "12"]


class TestWarnings:
    """What can be had here, but is of less use than it seems."""

    @pytest.mark.parametrize(
        ("precision", "words"),
        [
            ("int8", "products of bytes"),
            pytest.param("bfloat16", "for bfloat16", marks=pytest.mark.slow),
        ],
    )
    def test_a_processor_that_lacks_the_instructions(
        self, classifier, tmp_path, monkeypatch, precision, words
    ):
        monkeypatch.setattr(hardware, "cpu_flags", lambda: {"avx2", "fma"})
        with pytest.warns(UserWarning, match=words):
            export(classifier, tmp_path / "m", precision=precision, calibration=pixels(20))
        assert words in hardware.slow_here(precision)
        assert hardware.slow_here("float32") is None
        monkeypatch.setattr(hardware, "cpu_flags", lambda: {"avx512_vnni", "avx512_bf16"})
        assert hardware.slow_here(precision) is None
        monkeypatch.setattr(hardware, "cpu_flags", set)  # the operating system does not say
        assert hardware.slow_here(precision) is None

    def test_onednn_switched_off(self, monkeypatch):
        monkeypatch.setattr(hardware, "cpu_flags", lambda: {"avx512_vnni", "avx512_bf16"})
        monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
        assert "TF_ENABLE_ONEDNN_OPTS" in hardware.slow_here("bfloat16")
        monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "1")
        assert hardware.slow_here("bfloat16") is None

    def test_few_images(self, classifier):
        with pytest.warns(UserWarning, match="the calibration images: 2 are few to calibrate with"):
            calibration_images(classifier, list(pixels(2)))

    def test_a_layer_that_is_silent_on_all_images(self, tmp_path):
        classifier = small_classifier()
        normalization = classifier.model.get_layer("conv1_bn")
        normalization.beta.assign(np.full(normalization.beta.shape, -100, np.float32))
        with pytest.warns(UserWarning, match="conv1.*: zero on all 20 images of the calibration"):
            export(classifier, tmp_path / "m", precision="int8", calibration=pixels(20))

    def test_on_the_command_line_they_are_one_line(self, classifier, tmp_path, capfd):
        saved = classifier.save(tmp_path / "saved")
        photo_file = tmp_path / "red.png"
        photo_file.write_bytes(encoded(photo("red")))
        command = ["export", saved, "--to", tmp_path / "m", "--precision", "int8"]
        assert main([*map(str, command), "--calibration", str(photo_file)]) == 0
        said = [line for line in capfd.readouterr().err.splitlines() if "few" in line]
        assert len(said) == 1
        assert said[0].startswith(f"keras-cls: {photo_file}: 1 are few")


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
            ((list(arrays), [0, 1, 2, 0, 1]), 5),
            (tf.data.Dataset.from_tensor_slices((arrays, [0, 1, 2, 0, 1])).batch(2), 5),
            (pack(photos, tmp_path / "packed").directory, 18),
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
        with pytest.raises(
            ConfigError, match=r"calibrate with: image 0 .* image 2 .*; and 2 more$"
        ):
            calibration_images(classifier, np.zeros((5, 24, 20, 2), np.uint8))
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


def test_small_differences_are_large_where_no_class_is_probable():
    classifier = small_classifier()
    logits = classifier.model.get_layer("logits")
    logits.kernel.assign(np.asarray(logits.kernel) / 1000)
    wrong = np.roll(classifier.probabilities_of_pixels(pixels(20)), 1, axis=1)
    found = compared(classifier, wrong, BOUNDS["int8"], Sample(pixels(20), "photos/"))
    assert found.tensor_difference < 0.01
    assert not found.within_bounds
    with pytest.raises(
        ExportError, match=r"the best class is the same on 0% \(at least 50%\) of 20"
    ):
        found.raise_unless_within_bounds()
    # Of a thousand classes each is improbable: an answer that is the same to all is none.
    wide = small_classifier(labels=[f"class {number}" for number in range(1000)])
    wide.model.get_layer("logits").kernel.assign(
        np.asarray(wide.model.get_layer("logits").kernel) / 10
    )
    dead = np.full((4, 1000), 0.001, np.float32)
    for precision in ("bfloat16", "int8"):
        found = compared(wide, dead, BOUNDS[precision], Sample(pixels(4), "photos/"))
        assert found.mean_difference < 0.01 and not found.within_bounds
        with pytest.raises(ExportError, match="as a share of their own deviation 1, "):
            found.raise_unless_within_bounds()
    # Of so few it may be chance.
    few = compared(classifier, wrong[:15], BOUNDS["int8"], Sample(pixels(15), "photos/"))
    assert few.within_bounds


def test_from_the_command_line(classifier, photos, tmp_path, capfd):
    saved = classifier.save(tmp_path / "saved")
    arguments = ["export", saved, "--to", tmp_path / "colours", "--precision", "int8"]
    assert main([*map(str, arguments), "--calibration", str(photos)]) == 0
    assert capfd.readouterr().out.strip() == str(tmp_path / "colours" / "1")
    assert main([*map(str, arguments)]) == 1
    assert "int8 needs images to calibrate with" in capfd.readouterr().err
