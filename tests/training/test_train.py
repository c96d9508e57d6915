"""train(): the run folder, going on after a kill, and what is refused."""

import csv
import json
import shutil
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
import tensorflow as tf
from choosing import slow_but
from classifiers import LABELS, colour_folder, encoded, photo
from runs import QUICK, digits, same_weights, stop_after, weights_of

from keras_cls.classifier import Classifier, load
from keras_cls.data import caching
from keras_cls.errors import ConfigError, DataError, UserError
from keras_cls.evaluation import evaluate
from keras_cls.files import sole_owner
from keras_cls.preprocessing import Preprocessing
from keras_cls.training import train
from keras_cls.training.run_folder import RunFolder

OF_PHOTOS = {"recipe": "resnext", "validation": 0.5, **QUICK}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train("lenet5", digits(), run_dir=tmp_path_factory.mktemp("runs") / "digits", **QUICK)


def test_the_run_folder_holds_everything(run):
    names = {path.name for path in run.directory.iterdir()}
    assert names >= {
        "settings.json",
        "state.json",
        "history.csv",
        "checkpoints",
        "classifier",
        "tensorboard",
        "report.html",
    }
    assert not list(run.directory.rglob(".tmp-*"))
    rows = list(csv.DictReader((run.directory / "history.csv").open()))
    assert next(iter(rows[0])) == "epoch"
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert set(rows[0]) >= {"loss", "accuracy", "val_loss", "val_accuracy", "learning_rate"}
    kept = sorted(path.name for path in (run.directory / "checkpoints").iterdir())
    assert kept == [kept[0], "epoch-0002.npz"]
    assert kept[0] in ("best-0001", "best-0002")
    assert list((run.directory / "tensorboard").rglob("events.out*"))
    assert "lenet5" in run.report.read_text()
    settings = json.loads((run.directory / "settings.json").read_text())
    assert settings["request"]["epochs"] == 2
    assert settings["resolved"]["recipe"]["name"] == "small_gray"
    data = settings["resolved"]["data"]
    assert data["training images"] + data["validation images"] == 200


def test_the_best_epochs_classifier_is_kept_with_its_figures(run):
    best = max(run.history, key=lambda row: (row["val_accuracy"], -row["val_loss"]))
    kept = load(run.directory)
    assert kept.metrics["epoch"] == best["epoch"]
    assert kept.metrics["val_accuracy"] == best["val_accuracy"]
    assert kept.sample.shape == (16, 32, 32, 3)
    assert kept.labels == tuple("0123456789")
    np.testing.assert_array_equal(
        kept.probabilities_of_pixels(kept.sample),
        run.classifier.probabilities_of_pixels(kept.sample),
    )


def test_tensorboard_reads_the_curves(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run.directory / "tensorboard" / "validation"))
    events.Reload()
    values = [tf.make_ndarray(e.tensor_proto).item() for e in events.Tensors("epoch_loss")]
    np.testing.assert_allclose(values, [row["val_loss"] for row in run.history], rtol=1e-5)


def test_a_finished_run_returns_at_once(run):
    before = (run.directory / "state.json").stat().st_mtime_ns
    again = train("lenet5", digits(), run_dir=run.directory, **QUICK)
    assert again.history == run.history
    assert (run.directory / "state.json").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 3}, "epochs was 2, is now 3"),
        ({"seed": 1}, "seed was 0, is now 1"),
        ({"recipe": "plain"}, "recipe was 'auto', is now 'plain'"),
    ],
)
def test_other_settings_on_the_same_folder_are_refused(run, change, message):
    with pytest.raises(ConfigError, match=message):
        train("lenet5", digits(), run_dir=run.directory, **{**QUICK, **change})
    with pytest.raises(ConfigError, match="data was"):
        train("lenet5", digits(199), run_dir=run.directory, **QUICK)


def test_the_same_seed_gives_the_same_weights_and_another_does_not(tmp_path):
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        train("lenet5", digits(100), run_dir=tmp_path / name, seed=seed, **QUICK)
    assert same_weights(tmp_path / "a", tmp_path / "b")
    assert not same_weights(tmp_path / "a", tmp_path / "c")


def test_a_run_killed_before_its_report_writes_it(run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(run.directory, folder)
    state = RunFolder(folder).read_state()
    state.finished = False
    RunFolder(folder).write_state(state)
    (folder / "report.html").unlink()
    again = train("lenet5", digits(), run_dir=folder, **QUICK)
    assert again.report.exists()
    assert again.history == run.history


@pytest.mark.slow
def dropout_classifier():
    keras.utils.set_random_seed(1)
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Dropout(0.5)(keras.layers.Flatten()(inputs))
    x = keras.layers.Dropout(0.2)(keras.layers.Dense(16, activation="relu")(x))
    model = keras.Model(inputs, keras.layers.Dense(10)(x), name="dropout")
    rule = Preprocessing(size=8, crop=1.0, color_mode="grayscale", mean=0.5, std=0.5)
    return Classifier(model, [str(i) for i in range(10)], rule)


def test_dropout_draws_the_same_after_a_stop(tmp_path, monkeypatch):
    settings = {"epochs": 3, "batch_size": 16, "quiet": True}
    train(dropout_classifier(), digits(), run_dir=tmp_path / "whole", **settings)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_after(patch, 1)
        train(dropout_classifier(), digits(), run_dir=tmp_path / "stopped", **settings)
    assert load(tmp_path / "stopped").metrics["epoch"] == 1, "the best so far can be loaded"
    train(dropout_classifier(), digits(), run_dir=tmp_path / "stopped", **settings)
    for one, other in zip(
        weights_of(tmp_path / "whole"), weights_of(tmp_path / "stopped"), strict=True
    ):
        np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.parametrize(
    "change", slow_but("rename a class", ["rename a class", "add a class", "add an image"])
)
def test_data_that_changed_meanwhile_is_refused(tmp_path, monkeypatch, change):
    photos = colour_folder(tmp_path / "photos")
    arguments = {"run_dir": tmp_path / "run", "validation": 0.5, **QUICK}
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_after(patch, 1)
        train("lenet5", photos, **arguments)
    if change == "rename a class":
        (photos / "blue").rename(photos / "violet")
    elif change == "add a class":
        shutil.copytree(photos / "red", photos / "yellow")
    else:
        shutil.copy(photos / "red" / "00.jpg", photos / "red" / "99.jpg")
    with pytest.raises(ConfigError, match="the data has changed"):
        train("lenet5", photos, **arguments)


class TestImagesInMemory:
    """Of large photos that are to become small, a file is decoded at a reduced size."""

    @pytest.fixture
    def photos(self, tmp_path):
        for label in ("cat", "dog"):
            (tmp_path / "photos" / label).mkdir(parents=True)
            for number in range(6):
                data = encoded(photo("red", 300, 400, seed=number), "JPEG")
                (tmp_path / "photos" / label / f"{number}.jpg").write_bytes(data)
        return tmp_path / "photos"

    @pytest.mark.slow
    def test_a_run_that_goes_on_reads_from_files_if_it_began_so(
        self, tmp_path, photos, monkeypatch
    ):
        with monkeypatch.context() as patch:
            patch.setattr(caching, "free_memory", lambda: 0)
            train("lenet5", photos, run_dir=tmp_path / "whole", **OF_PHOTOS)
            stop_after(patch, 1)
            with pytest.raises(KeyboardInterrupt):
                train("lenet5", photos, run_dir=tmp_path / "stopped", **OF_PHOTOS)
        train("lenet5", photos, run_dir=tmp_path / "stopped", **OF_PHOTOS)
        train("lenet5", photos, run_dir=tmp_path / "held", **OF_PHOTOS)
        assert same_weights(tmp_path / "whole", tmp_path / "stopped")
        assert not same_weights(tmp_path / "whole", tmp_path / "held")

    @pytest.mark.slow
    def test_it_says_so_where_memory_no_longer_suffices(
        self, tmp_path, photos, monkeypatch, capsys
    ):
        arguments = {"run_dir": tmp_path / "run", **OF_PHOTOS}
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            stop_after(patch, 1)
            train("lenet5", photos, **arguments)
        monkeypatch.setattr(caching, "free_memory", lambda: 0)
        train("lenet5", photos, **arguments | {"quiet": False})
        assert "less memory is free" in capsys.readouterr().err


def test_a_network_that_is_prepared_by_images_is_prepared_by_these(tmp_path):
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (48, 25, 25, 3), np.uint8)
    targets = np.arange(48) % 3
    run = train(
        "airbench94_cifar10",
        (images, targets),
        input_shape=(25, 25, 3),
        recipe="airbench94",
        precision="float32",
        run_dir=tmp_path / "run",
        **QUICK,
    )
    kernel = run.classifier.model.get_layer("whitening").kernel.numpy()
    half = kernel.shape[-1] // 2
    assert kernel.std() > 0.1
    np.testing.assert_array_equal(kernel[..., :half], -kernel[..., half:])


def test_two_runs_cannot_share_a_folder(tmp_path):
    with sole_owner(tmp_path / "run"), pytest.raises(ConfigError, match="another process"):
        train("lenet5", digits(60), run_dir=tmp_path / "run", **QUICK)
    train("lenet5", digits(60), run_dir=tmp_path / "run", **QUICK)


@pytest.mark.slow
def test_what_a_killed_process_left_is_removed(tmp_path):
    (tmp_path / "run" / ".tmp-folder").mkdir(parents=True)
    (tmp_path / "run" / ".tmp-settings.json").write_text("half")
    train("lenet5", digits(60), run_dir=tmp_path / "run", **QUICK)
    assert not list((tmp_path / "run").rglob(".tmp-*"))


@pytest.mark.slow
def test_a_shuffled_validation_dataset_is_judged_in_one_pass(tmp_path):
    images, targets = digits(300)
    dataset = tf.data.Dataset.from_tensor_slices((images[..., None], targets))
    held_out = dataset.take(100).shuffle(100).batch(30)
    run = train("lenet5", dataset.skip(100), held_out, run_dir=tmp_path, epochs=3, quiet=True)
    best = max(row["val_accuracy"] for row in run.history)
    assert evaluate(run.classifier, held_out).top1 == pytest.approx(best, abs=1e-6)
    assert f"{best:.1%}" in run.report.read_text()


def test_a_damaged_state_is_named(run, tmp_path):
    for number, damage in enumerate(
        [
            lambda folder: (folder / "state.json").write_text("{"),
            lambda folder: (folder / "state.json").write_text('{"wrong": 1}'),
            lambda folder: (folder / "state.json").write_text('{"history": [{"epoch": 2}]}'),
            lambda folder: shutil.rmtree(folder / "checkpoints"),
            lambda folder: (folder / "settings.json").write_text("{}"),
        ]
    ):
        folder = tmp_path / str(number)
        shutil.copytree(run.directory, folder)
        damage(folder)
        with pytest.raises(ConfigError, match=r"(state|settings)\.json"):
            train("lenet5", digits(), run_dir=folder, **QUICK)


def test_a_folder_of_other_things_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match="not a run folder"):
        train("lenet5", digits(), run_dir=tmp_path, **QUICK)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_folder_of_photos_with_a_broken_one(tmp_path):
    folder = colour_folder(tmp_path / "photos")
    (folder / "red" / "cut.jpg").write_bytes(encoded(photo(), "JPEG")[:400])
    (folder / "red" / "photo.webp").write_bytes(encoded(photo(), "WEBP"))
    run = train(
        "resnet20_cifar10", folder, input_shape=(16, 16, 3), run_dir=tmp_path / "run", **QUICK
    )
    assert run.classifier.labels == tuple(LABELS)
    assert "cut.jpg" in run.report.read_text()
    with pytest.raises(DataError, match=r"cut\.jpg"):
        train("lenet5", folder, run_dir=tmp_path / "strict", strict=True, **QUICK)


@pytest.mark.slow
def test_validation_may_be_a_folder_a_share_or_a_part_of_the_data(tmp_path):
    photos = colour_folder(tmp_path / "photos")
    other = colour_folder(tmp_path / "other", per_class=2)
    divided = tmp_path / "divided"
    shutil.copytree(photos, divided / "train")
    shutil.copytree(other, divided / "val")
    cases = {"folder": (photos, other, 6), "share": (photos, 0.5, 9), "part": (divided, None, 6)}
    for name, (data, validation, expected) in cases.items():
        train("lenet5", data, validation, run_dir=tmp_path / name, **QUICK)
        settings = json.loads((tmp_path / name / "settings.json").read_text())
        assert settings["resolved"]["data"]["validation images"] == expected, name


def test_a_dataset_needs_validation_data(tmp_path):
    images, targets = digits(60)
    dataset = tf.data.Dataset.from_tensor_slices((images[..., None], targets))
    with pytest.raises(DataError, match="validation"):
        train("lenet5", dataset, run_dir=tmp_path / "a", **QUICK)
    run = train("lenet5", dataset.skip(20), dataset.take(20), run_dir=tmp_path / "b", **QUICK)
    assert len(run.history) == 2


def test_a_classifier_is_carried_on_or_gets_a_new_head(run, tmp_path):
    before = run.classifier.digest()
    more = train(run.classifier, digits(), run_dir=tmp_path / "more", **QUICK)
    assert more.classifier.labels == run.classifier.labels
    assert run.classifier.digest() == before != more.classifier.digest()
    again = train(str(run.directory), digits(), run_dir=tmp_path / "again", **QUICK)
    assert again.classifier.digest() == more.classifier.digest()
    images, targets = digits()
    few = targets < 3
    other = train(run.classifier, (images[few], targets[few]), run_dir=tmp_path / "few", **QUICK)
    assert other.classifier.labels == ("0", "1", "2")
    assert other.classifier.model.output_shape == (None, 3)


def test_labels_name_the_classes_of_arrays(tmp_path):
    images, targets = digits()
    few = targets < 2
    data = (images[few], targets[few])
    run = train("lenet5", data, labels=["zero", "one"], run_dir=tmp_path / "run", **QUICK)
    assert run.classifier.labels == ("zero", "one")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "lenet6"}, "lenet5"),
        ({"data": "nowhere/at/all"}, "nowhere"),
        ({"data": 5}, "data of type int"),
        ({"data": object()}, "data of type object"),
        ({"model": 5}, "found 5"),
        ({"input_shape": 5}, "input_shape must be"),
        ({"labels": 5}, "labels"),
        ({"recipe": ["auto"]}, "recipe must be one of"),
        ({"recipe": b"auto"}, "recipe must be one of"),
        ({"precision": b"auto"}, "precision must be one of"),
        ({"batch_size": np.int64(16)}, "batch_size must be"),
        ({"multi_label": "yes"}, "multi_label must be"),
        ({"data_service": 5}, "data_service must look"),
        ({"data_service": "grpc://"}, "data_service must look"),
        ({"checkpoint_minutes": float("nan")}, "checkpoint_minutes must be"),
        ({"imbalance": np.zeros(2)}, "imbalance must be"),
        ({"data": "no\0name"}, "no such file"),
        ({"run_dir": "no\0name"}, "run_dir: no.*null"),
        ({"run_dir": "n" * 300}, "too long"),
        ({"run_dir": 5}, "run_dir must be a path"),
        ({"epochs": 0}, "epochs"),
        ({"batch_size": 0}, "batch_size"),
        ({"seed": -1}, "seed"),
        ({"input_shape": (8, 8, 3)}, "32 x 32 or larger"),
        ({"recipe": "sgd"}, "recipe must be one of"),
        ({"validation": 1.5}, "fraction"),
        ({"weights": "nowhere.npz"}, r"nowhere\.npz"),
    ],
)
def test_senseless_arguments_are_refused(tmp_path, changes, message):
    arguments = {"model": "lenet5", "data": digits(60), "run_dir": tmp_path / "run", **QUICK}
    with pytest.raises(UserError, match=message):
        train(**{**arguments, **changes})


def test_a_refused_argument_can_be_put_right_on_the_same_folder(tmp_path):
    with pytest.raises(UserError, match="recipe"):
        train("lenet5", digits(60), recipe="sgd", run_dir=tmp_path / "run", **QUICK)
    train("lenet5", digits(60), run_dir=tmp_path / "run", **QUICK)


@pytest.mark.slow
def test_progress_is_one_line_an_epoch_where_there_is_no_terminal(tmp_path):
    code = textwrap.dedent(
        f"""
        import keras_cls
        from keras_cls.data.sources import open_source
        images = open_source("digits").train
        data = (images.pixels[:60], images.targets[:60])
        keras_cls.train("lenet5", data, epochs=2, run_dir={str(tmp_path / "run")!r})
        """
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = [line for line in done.stderr.splitlines() if line.startswith("epoch ")]
    assert len(lines) == 2
    assert "validation loss" in lines[1]
    assert done.stdout == ""
