"""TensorFlow Datasets as a data source: ``tfds:NAME[/CONFIG][:VERSION]`` or ``tfds:FOLDER``.

Only what lies on this machine is read, nothing is downloaded: ``tfds build NAME`` prepares a data
set. Its TFRecord files are then read as any others, in any order (:mod:`keras_cls.data.records`).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from keras_cls.data.foreign_records import open_shards
from keras_cls.data.records import TRAIN, VALIDATION, RecordKeys, RecordSources
from keras_cls.data.scanning import Progress
from keras_cls.errors import ConfigError, DataError
from keras_cls.labels import listing, printable

PREFIX = "tfds:"

_FILE_NAMES = ("image/filename", "file_name", "filename")
_PREFERRED_LABELS = ("label", "labels")


def open_tfds(
    data: str,
    *,
    labels: Sequence[str] | None = None,
    multi_label: bool | None = None,
    cache: Path,
    strict: bool = False,
    progress: Progress | None = None,
) -> RecordSources:
    """The images of a prepared data set: its "train" part, and "validation", or else "test".

    Raises:
        ConfigError: TensorFlow Datasets is not installed, or the data set is not prepared here.
        DataError: it does not consist of images with classes, or is stored in another way.
    """
    builder = _builder(data.removeprefix(PREFIX).strip(), data)
    keys, names = _features(builder.info.features, builder.info.supervised_keys, data)
    stored = str(getattr(builder.info.file_format, "value", builder.info.file_format))
    if stored != "tfrecord":
        raise DataError(
            f"{printable(data)}: it is stored as {stored}; prepare it as TFRecord files: "
            f"tfds build {builder.name} --file_format=tfrecord"
        )
    splits = builder.info.splits
    held_out = next((name for name in (VALIDATION, "test") if name in splits), None)
    if TRAIN not in splits:
        raise DataError(
            f"{printable(data)}: no split '{TRAIN}'; it has {listing(splits)}: name the folder of "
            "TFRecord files itself"
        )
    chosen = {TRAIN: TRAIN} | ({} if held_out is None else {VALIDATION: held_out})
    return open_shards(
        {part: [Path(f) for f in splits[split].filepaths] for part, split in chosen.items()},
        keys,
        origin=printable(data),
        names=dict(enumerate(names)),
        labels=labels,
        multi_label=multi_label,
        cache=cache,
        strict=strict,
        progress=progress,
    )


def _builder(name: str, data: str) -> Any:
    """The read-only builder of a prepared data set."""
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ConfigError(
            f"{printable(data)}: needs TensorFlow Datasets: pip install 'keras-cls[tfds]'"
        ) from error
    folder = Path(name).expanduser()
    if folder.is_absolute() or name.startswith(("./", "../", "~")):
        if not (folder / "dataset_info.json").is_file():
            raise ConfigError(
                f"{printable(data)}: no dataset_info.json in this folder: name the folder of a "
                "version, such as tfds:/data/mnist/3.0.1"
            )
        return tfds.builder_from_directory(folder)
    try:
        # From its files alone: the code of a data set may ask the network for what it needs.
        return tfds.core.read_only_builder.builder_from_files(name)
    except tfds.core.DatasetNotFoundError as error:
        raise ConfigError(
            f"{printable(data)}: not prepared on this machine, and nothing is downloaded unasked: "
            f"prepare it with `tfds build {printable(name)}`, or set TFDS_DATA_DIR to the folder "
            "where it lies"
        ) from error
    except (ValueError, AttributeError) as error:
        raise ConfigError(
            f"{printable(data)}: expected tfds:NAME, tfds:NAME/CONFIG:VERSION or tfds:/FOLDER: "
            f"{(str(error).splitlines() or [''])[0]}"
        ) from error


def _features(
    features: Any, supervised: tuple[str, ...] | None, data: str
) -> tuple[RecordKeys, Sequence[str]]:
    """Which features are the image and its class, and the classes' names."""
    import tensorflow_datasets as tfds

    def is_label(feature: Any) -> bool:
        inner = getattr(feature, "feature", feature)  # of a sequence: an image of several classes
        return isinstance(inner, tfds.features.ClassLabel)

    found = dict(features.items())
    images = [name for name, each in found.items() if isinstance(each, tfds.features.Image)]
    labels = [name for name, each in found.items() if is_label(each)]
    if supervised is not None and supervised[0] in images and supervised[1] in labels:
        image, label = supervised[0], supervised[1]
    else:
        preferred = [name for name in _PREFERRED_LABELS if name in labels] or labels
        if len(images) != 1 or not preferred:
            raise DataError(
                f"{printable(data)}: expected an image and its class; the features are "
                f"{listing(found)}"
            )
        image, label = images[0], preferred[0]
    name = next((name for name in _FILE_NAMES if name in found), "")
    feature: Any = getattr(found[label], "feature", found[label])
    return RecordKeys(image=image, label=label, name=name), feature.names
