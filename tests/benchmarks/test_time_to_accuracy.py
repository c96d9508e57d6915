"""What the benchmark of time to accuracy makes of images and curves."""

from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

import keras_cls
from benchmarks.real_images import read_cifar
from benchmarks.time_to_accuracy import (
    Run,
    minutes_to,
    set_to_checkpoint,
    six_view_logits,
    six_views,
    table,
)
from keras_cls.training.run_folder import RunFolder

CURVE = [
    {"epoch": 1, "seconds": 60.0, "accuracy": 0.5},
    {"epoch": 2, "seconds": 120.0, "accuracy": 0.91},
    {"epoch": 3, "seconds": 180.0, "accuracy": 0.935, "accuracy of six views": 0.9405},
]


def test_minutes_to_a_goal() -> None:
    assert minutes_to(0.4, CURVE) == 1
    assert minutes_to(0.9, CURVE) == 2
    assert minutes_to(0.94, CURVE) == 3  # by six views
    assert minutes_to(0.95, CURVE) is None
    rows = table([Run("ours", 0.9, CURVE), Run("ours", 0.95, CURVE)]).splitlines()
    assert rows[2] == "| 90% | ours | 2.0 | 3 | 3.0 | 93.50% | 94.05% |"
    assert rows[3] == "| 95% | ours | not reached | 3 | 3.0 | 93.50% | 94.05% |"


def test_the_last_checkpoint_gives_the_networks_weights(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (24, 32, 32, 1), dtype=np.uint8)
    run = keras_cls.train(
        "lenet5",
        (images, np.arange(24) % 2),
        (images[:8], np.arange(8) % 2),
        epochs=2,
        recipe="plain",
        run_dir=tmp_path,
        precision="float32",
        quiet=True,
    )
    model = keras.models.clone_model(run.classifier.model)
    state = RunFolder(tmp_path).read_state()
    set_to_checkpoint(model, tmp_path / state.checkpoint)
    last = keras_cls.Classifier(model, run.classifier.labels, run.classifier.preprocessing)
    found = keras_cls.evaluate(last, (images[:8], np.arange(8) % 2))
    assert found.loss == pytest.approx(run.history[-1]["val_loss"], rel=1e-4)


def test_six_views_by_hand() -> None:
    images = np.arange(2 * 4 * 4 * 3, dtype="float32").reshape(2, 4, 4, 3)
    views = six_views(images)
    assert len(views) == 6
    assert sum(share for share, _ in views) == pytest.approx(1)
    straight = [view for _, view in views[::2]]
    np.testing.assert_array_equal(straight[0], images)
    np.testing.assert_array_equal(straight[1][:, 1:, 1:], images[:, :-1, :-1])  # down, right
    np.testing.assert_array_equal(straight[1][:, 0, 1:], images[:, 1, :-1])  # reflected
    np.testing.assert_array_equal(straight[2][:, :-1, :-1], images[:, 1:, 1:])
    for (share, view), (other, mirrored) in zip(views[::2], views[1::2], strict=True):
        assert share == other
        np.testing.assert_array_equal(view[:, :, ::-1], mirrored)


def test_logits_of_six_views_are_a_weighted_mean() -> None:
    inputs = keras.Input((4, 4, 3))
    model = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Flatten()(inputs)))
    images = np.random.default_rng(0).normal(size=(3, 4, 4, 3)).astype("float32")
    expected = model(sum(share * view for share, view in six_views(images))).numpy()
    np.testing.assert_allclose(six_view_logits(model, images), expected, atol=1e-5)


def test_reads_sheets_of_tiles(tmp_path: Path) -> None:
    tiles = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    for name, some in {
        "train_0": tiles[:4],
        "train_1": tiles[2:],
        "test_public": tiles[1:5],
    }.items():
        sheet = some.reshape(2, 2, 32, 32, 3).swapaxes(1, 2).reshape(64, 64, 3)
        Image.fromarray(sheet).save(tmp_path / f"{name}.webp", lossless=True)
        np.save(tmp_path / f"{name}_labels.npy", np.arange(len(some), dtype="uint8"))
    found = read_cifar(tmp_path)
    np.testing.assert_array_equal(found["train_images"], np.concatenate([tiles[:4], tiles[2:]]))
    np.testing.assert_array_equal(found["test_images"], tiles[1:5])
    np.testing.assert_array_equal(found["train_labels"], [0, 1, 2, 3] * 2)
