import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from folders import flat

from keras_cls.data.opening import open_evaluation_data, open_training_data
from keras_cls.errors import ConfigError, DataError

try:
    import tensorflow_datasets as tfds
except ImportError:
    tfds = None

needs_tfds = pytest.mark.skipif(
    tfds is None, reason="TensorFlow Datasets is not installed: pip install 'keras-cls[tfds]'"
)
CLASSES = ("cat", "dog")


def prepare(folder: Path, features: dict, splits: dict[str, list[dict]], **options: object) -> Path:
    """A data set of our own, as `tfds build` leaves it; returns the folder of its version."""
    builder = tfds.dataset_builders.AdhocBuilder(
        name="pets",
        version="1.2.0",
        features=tfds.features.FeaturesDict(features),
        split_datasets={name: list(enumerate(rows)) for name, rows in splits.items()},
        data_dir=folder,
        **options,
    )
    builder.download_and_prepare()
    return Path(builder.data_dir)


def pets(count: int, first: int = 0, label: str = "label") -> list[dict]:
    return [{"image": np.asarray(flat(first + n)), label: CLASSES[n % 2]} for n in range(count)]


@pytest.fixture
def opened(tmp_path):
    def open_with(data, **options):
        return open_training_data(data, cache=tmp_path / "cache", seed=0, **options)

    return open_with


@pytest.fixture
def prepared(tmp_path, monkeypatch):
    """A data set in a folder where tfds looks for such by name."""
    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(tmp_path / "tfds"))
    features = {
        "image": tfds.features.Image(shape=(None, None, 3)),
        "label": tfds.features.ClassLabel(names=CLASSES),
    }
    splits = {"train": pets(10), "test": pets(4, 100)}
    return prepare(tmp_path / "tfds", features, splits)


@needs_tfds
class TestPrepared:
    @pytest.mark.parametrize("name", ["tfds:pets", "tfds:pets:1.2.0", "tfds:{folder}"])
    def test_images_and_classes(self, prepared, opened, name):
        data = opened(name.format(folder=prepared))
        assert data.labels == CLASSES and not data.train.multi_label
        assert (data.train.counts.tolist(), data.validation.counts.tolist()) == ([5, 5], [2, 2])
        found = [data.train.load(*item) for item in data.train.in_order()]
        expected = {n: n % 2 for n in range(10)}
        assert {int(tf.io.decode_png(i)[0, 0, 0]): int(t) for i, t in found} == expected

    def test_to_evaluate_on(self, prepared, tmp_path):
        found = open_evaluation_data("tfds:pets", ["dog", "cat", "emu"], cache=tmp_path / "cache")
        assert found.counts.tolist() == [2, 2, 0]

    def test_without_a_validation_split_a_share_is_held_out(self, tmp_path, opened):
        features = {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "label": tfds.features.ClassLabel(names=CLASSES),
        }
        folder = prepare(tmp_path / "one", features, {"train": pets(10)})
        data = opened(f"tfds:{folder}")
        assert (len(data.train), len(data.validation)) == (8, 2)

    def test_images_of_several_classes(self, tmp_path, opened):
        features = {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "labels": tfds.features.Sequence(tfds.features.ClassLabel(names=CLASSES)),
        }
        rows = [[], ["cat"], ["cat", "dog"], ["dog"]] * 3
        images = [{"image": np.asarray(flat(n)), "labels": row} for n, row in enumerate(rows)]
        data = opened(f"tfds:{prepare(tmp_path / 'several', features, {'train': images})}")
        assert data.train.multi_label
        assert (data.train.counts + data.validation.counts).tolist() == [6, 6]


@needs_tfds
class TestRefusedOrMissing:
    def test_what_is_not_prepared_is_not_downloaded(self, prepared, opened, tmp_path):
        with pytest.raises(ConfigError, match=r"tfds:mnist: not prepared .*`tfds build mnist`"):
            opened("tfds:mnist")
        with pytest.raises(ConfigError, match="not prepared on this machine"):
            opened("tfds:pets:9.9.9")
        with pytest.raises(ConfigError, match=r"no dataset_info\.json in this folder"):
            opened(f"tfds:{tmp_path}")
        with pytest.raises(ConfigError, match="tfds:"):
            opened("tfds:")

    def test_other_features(self, tmp_path, opened):
        features = {"label": tfds.features.ClassLabel(names=CLASSES)}
        folder = prepare(tmp_path / "other", features, {"train": [{"label": "cat"}]})
        with pytest.raises(DataError, match="an image and its class; the features are 'label'"):
            opened(f"tfds:{folder}")

    def test_other_formats_and_splits(self, tmp_path, opened):
        features = {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "label": tfds.features.ClassLabel(names=CLASSES),
        }
        folder = prepare(tmp_path / "a", features, {"train": pets(4)}, file_format="array_record")
        with pytest.raises(DataError, match=r"stored as array_record.*--file_format=tfrecord"):
            opened(f"tfds:{folder}")
        folder = prepare(tmp_path / "b", features, {"images": pets(4)})
        with pytest.raises(DataError, match="no split 'train'; it has 'images'"):
            opened(f"tfds:{folder}")


def test_without_the_library(monkeypatch, opened):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(ConfigError, match=r"pip install 'keras-cls\[tfds\]'"):
        opened("tfds:mnist")
