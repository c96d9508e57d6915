"""compress(): the ladder, the budget, the report, resume; and the command."""

import errno
import json
import os
import re

import keras
import numpy as np
import pytest
from classifiers import LABELS, small_classifier
from runs import digits, stop_after
from sklearn.metrics import average_precision_score

import keras_cls
from keras_cls.cli import main
from keras_cls.compression import measuring
from keras_cls.compression.compressing import RESULTS_FILE, _trained_on
from keras_cls.data.opening import describe_data, open_evaluation_data
from keras_cls.data.pipeline import input_pixels
from keras_cls.errors import ConfigError, ExportError
from keras_cls.exporting.lowering import lower
from keras_cls.exporting.saved_model import SavedModel
from keras_cls.exporting.verification import SessionModel

LADDER = {"precision": ("float32", "int8"), "sparsity": 0.8, "clusters": 16}
QUICK = {"epochs": 1, "batch_size": 32, "quiet": True}


@pytest.fixture(autouse=True)
def short_measurements(monkeypatch):
    monkeypatch.setattr(measuring, "_LEAST_SECONDS", 0.0)
    monkeypatch.setattr(measuring, "_LEAST_RUNS", 3)


def sixty_images(labels) -> tuple[np.ndarray, np.ndarray]:
    images = np.random.default_rng(0).integers(0, 256, (60, 16, 16, 3)).astype(np.uint8)
    return images, np.array(labels)[np.arange(60) % 3]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return keras_cls.train(
        "lenet5",
        digits(400),
        epochs=4,
        batch_size=32,
        run_dir=tmp_path_factory.mktemp("lenet5") / "run",
        quiet=True,
    )


@pytest.fixture(scope="module")
def result(run, tmp_path_factory):
    return keras_cls.compress(
        run.classifier,
        digits(400),
        **LADDER,
        max_accuracy_drop=0.05,
        run_dir=tmp_path_factory.mktemp("small") / "run",
        **QUICK,
    )


@pytest.mark.slow
def test_every_candidate_is_measured(result) -> None:
    assert len(result.candidates) == 7
    for each in result.candidates:
        assert each.problem is None
        assert 0 < each.measured.compressed_size < each.measured.size
        assert each.measured.latency > 0
    named = {each.name: each.measured for each in result.candidates}
    assert named["float32"].accuracy == result.accuracy
    assert named["int8"].size < named["float32"].size
    assert (
        named["80 % zeros, 16 values, int8"].compressed_size
        < named["80 % zeros, int8"].compressed_size
        < named["int8"].compressed_size
    )


@pytest.mark.slow
def test_what_is_chosen_is_what_it_says(result) -> None:
    assert result.met and result.missed == ""
    small = result.classifier
    pixels = np.random.default_rng(0).integers(0, 256, (8, *small.input_size, 1), dtype=np.uint8)
    pixels = np.repeat(pixels, 3, axis=-1)
    with SessionModel(result.artifact) as session:
        found = session("images", {"images": pixels})["probabilities"]
    np.testing.assert_allclose(found, small.probabilities_of_pixels(pixels), atol=0.2)
    kernels = [np.asarray(each) for each in small.model.weights if each.name == "kernel"]
    sparse = all(np.mean(kernel == 0) > 0.7 for kernel in kernels)
    assert sparse == ("zeros" in result.best.name)


@pytest.mark.slow
def test_the_report_shows_all_and_needs_nothing_else(result) -> None:
    text = result.report.read_text()
    for number, each in enumerate(result.candidates, 1):
        assert f'<td>{number}</td><th scope="row">{each.name}</th>' in text
    assert text.count("<svg") == 2 and result.best.name in text
    assert not re.search(r'(src|href)="(?!data:|#)', text)


@pytest.mark.slow
def test_finished_it_only_measures_latencies_again(run, result, monkeypatch) -> None:
    for name in ("refine", "export", "accuracy_of_version"):
        monkeypatch.setattr(f"keras_cls.compression.compressing.{name}", _never(name, result))
    again = keras_cls.compress(
        run.classifier,
        digits(400),
        **LADDER,
        max_accuracy_drop=None,
        max_size=1,
        run_dir=result.report.parent,
        **QUICK,
    )
    assert [each.measured.size for each in again.candidates] == [
        each.measured.size for each in result.candidates
    ]
    assert (
        not again.met
        and "size is" in again.missed
        and "misses it by least" in (again.report.read_text())
    )


def _never(name, result):
    original = getattr(__import__("keras_cls.compression.compressing", fromlist=[name]), name)

    def guarded(*arguments, **options):
        if name == "refine" and arguments[3].joinpath("classifier").is_dir():
            return original(*arguments, **options)  # read, not trained
        raise AssertionError(f"{name} was called again")

    return guarded


def test_a_killed_search_goes_on(run, tmp_path, monkeypatch) -> None:
    arguments = {"sparsity": (), "clusters": (), "precision": "int8"}
    arguments["run_dir"] = tmp_path / "run"
    with monkeypatch.context() as patched:
        stop_after(patched, 1)
        with pytest.raises(KeyboardInterrupt):
            keras_cls.compress(run.classifier, digits(400), **arguments, **QUICK)
    # What was measured before is not measured again.
    known = json.loads((tmp_path / "run" / RESULTS_FILE).read_text())
    assert list(known) == ["accuracy", "int8"]
    found = keras_cls.compress(run.classifier, digits(400), **arguments, **QUICK)
    assert [each.name for each in found.candidates] == ["int8", "trained for int8, int8"]
    assert all(each.name in found.report.read_text() for each in found.candidates)
    with pytest.raises(ConfigError, match="precision was"):
        keras_cls.compress(
            run.classifier, digits(400), **{**arguments, "precision": "float32"}, **QUICK
        )


def test_what_cannot_be_made_is_said_and_the_rest_goes_on(tmp_path, monkeypatch) -> None:
    classifier = small_classifier(size=(16, 16))
    data = sixty_images(classifier.labels)

    def refused(*arguments, **options):
        if options["precision"] == "int8":
            raise ExportError("conv1: not in bytes here")
        return original(*arguments, **options)

    original = keras_cls.export
    monkeypatch.setattr("keras_cls.compression.compressing.export", refused)
    found = keras_cls.compress(classifier, data, run_dir=tmp_path / "a", epochs=0, quiet=True)
    assert [each.problem for each in found.candidates] == [None, None, "conv1: not in bytes here"]
    assert "conv1: not in bytes here" in found.report.read_text()
    with pytest.raises(ExportError, match=r"no candidate .* int8: conv1: not in bytes here"):
        keras_cls.compress(
            classifier, data, precision="int8", run_dir=tmp_path / "b", epochs=0, quiet=True
        )


def test_a_layer_that_nothing_but_keras_can_compute_is_named(tmp_path) -> None:
    inputs = keras.Input((16, 16, 3))
    x = keras.layers.Flatten()(keras.layers.Lambda(lambda x: 2 * x, name="twice")(inputs))
    model = keras.Model(inputs, keras.layers.Dense(3)(x))
    classifier = keras_cls.Classifier(model, LABELS, keras_cls.Preprocessing(size=(16, 16)))
    data = sixty_images(LABELS)
    options = {"precision": ("float32", "int8"), "sparsity": 0.5, "clusters": (), **QUICK}
    found = keras_cls.compress(classifier, data, run_dir=tmp_path / "run", **options)
    problems = {each.name: each.problem for each in found.candidates}
    assert problems.pop("float32") is None
    assert all(problem.startswith("twice: a layer of type Lambda") for problem in problems.values())
    assert list(problems) == [
        "int8",
        "50 % zeros, int8",
        "trained for int8, int8",
        "50 % zeros, trained for int8, int8",
    ]


def test_nothing_is_trained_for_what_cannot_be_written(tmp_path, monkeypatch) -> None:
    inputs = keras.Input((16, 16, 3))
    x = keras.layers.Conv2D(4, 3, name="conv")(inputs)
    x = keras.layers.GlobalMaxPooling2D(name="largest")(x)  # which has a twin
    classifier = keras_cls.Classifier(
        keras.Model(inputs, keras.layers.Dense(3)(x)), LABELS, keras_cls.Preprocessing(size=16)
    )
    options = {"precision": ("float32", "int8"), "sparsity": 0.5, "clusters": (), **QUICK}
    options["run_dir"] = tmp_path / "run"
    found = keras_cls.compress(classifier, sixty_images(LABELS), **options)
    assert [each.problem is None for each in found.candidates] == [True, False, False, False, False]
    assert all("largest" in each.problem for each in found.candidates[1:])
    assert not (tmp_path / "run" / "refined").exists()
    # Of another version, or on another machine, it may be possible: it is tried again.
    looked = []
    monkeypatch.setattr(
        "keras_cls.compression.compressing.refuse_what_cannot_be_written",
        lambda model, precision: looked.append(precision) or lower(model),
    )
    keras_cls.compress(classifier, sixty_images(LABELS), **options)
    assert looked == ["int8"] * 4


@pytest.mark.slow
def test_the_zeros_that_there_are_are_told(tmp_path) -> None:
    """In a single step too, and not those of a layer that is frozen."""
    classifier = small_classifier(size=(16, 16))
    classifier.model.get_layer("conv1").trainable = False
    found = keras_cls.compress(
        classifier,
        sixty_images(classifier.labels),
        precision="float32",
        sparsity=0.75,
        clusters=(),
        run_dir=tmp_path / "run",
        epochs=np.int64(1),
        batch_size=64,
        quiet=True,
    )
    kernels = [np.asarray(each) for each in found.classifier.model.weights if "kernel" in each.name]
    zeros = sum(int((kernel == 0).sum()) for kernel in kernels)
    pruned = found.candidates[-1].measured
    assert 0.4 < pruned.zeros < 0.75
    if found.best is found.candidates[-1]:
        assert pruned.zeros == zeros / sum(kernel.size for kernel in kernels)
    assert f"<td>{pruned.zeros:.0%}</td>" in found.report.read_text()


def test_images_that_it_was_trained_on_are_warned_of(run) -> None:
    request = {"data": describe_data(digits(400)), "validation": None}
    digests = run.classifier.training["resolved"]["data"]["digests"]
    assert _trained_on(run.classifier, request, digests) is None
    others = [digests[0], "another part"]
    said = _trained_on(run.classifier, request, others)
    assert "images that it has seen. Give the run's own seed (0) and validation (None)" in said
    for change in ({"data": "other/"}, {"validation": "held out/"}):
        assert _trained_on(run.classifier, request | change, others) is None
    assert _trained_on(small_classifier(), request, others) is None


@pytest.mark.slow
def test_a_full_disk_is_not_held_against_a_candidate(tmp_path, monkeypatch) -> None:
    classifier = small_classifier(size=(16, 16))
    data = sixty_images(classifier.labels)
    arguments = {"precision": "float32", "epochs": 0, "run_dir": tmp_path / "run", "quiet": True}

    def full(self, folder, *arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(SavedModel, "write", full)
        with pytest.raises(ExportError, match="cannot be written: No space left"):
            keras_cls.compress(classifier, data, **arguments)
    first = keras_cls.compress(classifier, data, **arguments)
    assert first.best.problem is None
    # And what was moved away is made again.
    first.artifact.rename(tmp_path / "1")
    again = keras_cls.compress(classifier, data, **arguments)
    assert again.artifact == first.artifact and (again.artifact / "saved_model.pb").is_file()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"precision": "int4"}, "precision: expected one or several"),
        ({"precision": ()}, "precision: expected one at least"),
        ({"sparsity": 1.0}, "sparsity: expected"),
        ({"clusters": 1}, "clusters: expected"),
        ({"epochs": -1}, "epochs: expected"),
        ({"sparsity": float("nan"), "epochs": 0}, "sparsity: expected"),
        ({"clusters": 0, "epochs": 0}, "clusters: expected"),
        ({"max_latency": "fast"}, "max_latency: expected"),
    ],
)
def test_arguments_that_make_no_sense_are_refused_first(tmp_path, changes, message) -> None:
    with pytest.raises(ConfigError, match=message):
        keras_cls.compress(small_classifier(), "nowhere", run_dir=tmp_path / "run", **changes)
    assert not (tmp_path / "run").exists()


def test_weights_that_are_no_numbers_are_refused_first(tmp_path) -> None:
    classifier = small_classifier()
    classifier.model.get_layer("conv1").bias.assign(np.full(8, np.nan, np.float32))
    with pytest.raises(ExportError, match="conv1/bias: 8 of 8 numbers are not finite"):
        keras_cls.compress(classifier, "nowhere", run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_from_the_command_line(run, tmp_path, capsys) -> None:
    command = ["compress", str(run.directory), "--data", "digits", "--epochs", "0"]
    command += ["--precision", "int8", "--run-dir", str(tmp_path / "run"), "--max-size"]
    assert main([*command, "10MB", "--max-accuracy-drop", "0.1"]) == 0
    out = capsys.readouterr().out
    assert f"version: {tmp_path / 'run' / 'models' / 'int8' / '1'}" in out and "packed" in out
    assert main([*command, "1kB"]) == 3
    assert "no candidate meets the budget: size is" in capsys.readouterr().err


def test_latency_is_that_of_the_quietest_stretch() -> None:
    disturbed = [0.009, 0.030] * 40
    assert measuring.quietest(disturbed) >= 0.009
    quiet = [0.002, 0.0021, 0.0022, 0.002, 0.05, 0.0021, 0.002, 0.0022]
    assert 0.002 <= measuring.quietest([*disturbed[:40], *quiet * 2, *disturbed[40:]]) < 0.0023
    lucky = [*disturbed[:40], 0.001, *disturbed[40:]]
    assert measuring.quietest(lucky) >= 0.009
    assert measuring.quietest([3.0, 1.0, 2.0]) == 2.0  # fewer than a stretch


def test_accuracy_counts_images(tmp_path) -> None:
    classifier = small_classifier(size=(16, 16))
    rule = classifier.preprocessing
    pixels = np.random.default_rng(0).integers(0, 256, (70, 16, 16, 3)).astype(np.uint8)
    labels = list(classifier.labels)
    wrong = np.random.default_rng(1).random(70) < 0.3
    images = open_evaluation_data((pixels, np.zeros(70, int)), labels, cache=tmp_path)
    seen = input_pixels(images, rule, np.arange(70))
    best = (classifier.probabilities_of_pixels(seen).argmax(axis=1) + wrong) % 3
    images = open_evaluation_data((pixels, best), labels, cache=tmp_path)
    found = measuring.accuracy_of(classifier.probabilities_of_pixels, images, rule)
    assert found == np.mean(~wrong)


def test_accuracy_of_several_classes_an_image_is_their_mean_precision(tmp_path) -> None:
    classifier = small_classifier(size=(16, 16), multi_label=True)
    pixels = np.random.default_rng(0).integers(0, 256, (70, 16, 16, 3)).astype(np.uint8)
    targets = (np.random.default_rng(1).random((70, 3)) < 0.4).astype(np.float32)
    images = open_evaluation_data(
        (pixels, targets), list(classifier.labels), multi_label=True, cache=tmp_path
    )
    rule = classifier.preprocessing
    found = measuring.accuracy_of(classifier.probabilities_of_pixels, images, rule)
    scores = classifier.probabilities_of_pixels(input_pixels(images, rule, np.arange(70)))
    assert found == pytest.approx(average_precision_score(targets, scores), abs=1e-6)
