"""Publish an export: written beside its place, verified, and renamed to the next free version."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import tensorflow as tf

from keras_cls import contract
from keras_cls.classifier import Classifier
from keras_cls.errors import ConfigError, ExportError
from keras_cls.exporting.verification import Sample, Verification
from keras_cls.files import new_folder, write_json
from keras_cls.images import IMAGE_SUFFIXES
from keras_cls.labels import printable

CARD_FILE = "card.json"


class Artefact(Protocol):
    """What a format makes of a classifier."""

    def write(self, folder: Path, model_name: str, sample: Sample) -> None:
        """Write all files into an empty folder."""

    def verify(self, folder: Path, sample: Sample) -> Verification:
        """Hold what was written to the Keras model."""

    def card(self, folder: Path) -> dict[str, Any]:
        """What is worth knowing of it, as plain JSON types."""


def publish(
    classifier: Classifier,
    artefacts: Sequence[Artefact],
    directory: Path,
    sample: Sample,
    *,
    strict: bool,
) -> Path:
    """The new version's folder in a model's folder.

    Args:
        classifier: what all of it was made from.
        artefacts: what is published, or before it what servers fall back on that cannot run it;
            their versions follow each other, and their cards name each other.
        directory: the model's folder.
        sample: what they are verified on.
        strict: refuse what differs beyond the bound.

    Raises:
        ConfigError: the folder is no model's.
        ExportError: it cannot be written, or, ``strict``, differs beyond the bound; nothing is
            published then.
    """
    _require_models_folder(directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        while True:
            first = _next_version(directory)
            places = [directory / str(first + number) for number in range(len(artefacts))]
            try:
                with ExitStack() as folders:
                    # Renamed from the last that was opened on, so that the highest comes last.
                    opened = [folders.enter_context(new_folder(each)) for each in places[::-1]]
                    for artefact, folder, version in zip(
                        artefacts, opened[::-1], range(first, first + len(artefacts)), strict=True
                    ):
                        artefact.write(folder, directory.resolve().name, sample)
                        found = artefact.verify(folder, sample)
                        if strict:
                            found.raise_unless_within_bounds()
                        card = {
                            **classifier.card(),
                            "export": {**artefact.card(folder), **_beside(version, places)},
                            "verification": found.to_dict(),
                        }
                        write_json(folder / CARD_FILE, card)
                return places[-1]
            except FileExistsError:
                continue  # somebody else published this number meanwhile
    except OSError as error:
        raise ExportError(f"{directory}: cannot be written: {error.strerror or error}") from error
    except tf.errors.OpError as error:
        raise ExportError(f"{directory}: cannot be written: {error.message}") from error


def _require_models_folder(directory: Path) -> None:
    """A version among photos would be a class of theirs, and one in a version is never served."""
    if not directory.is_dir():
        return
    entries = [entry for entry in directory.iterdir() if not entry.name.startswith(".")]
    names = {entry.name for entry in entries}
    if names & {contract.MODEL_FILE, contract.LITE_FILE, CARD_FILE}:
        raise ConfigError(
            f"{directory}: this is a version; give the model's folder, {directory.parent}"
        )
    if any(name.isdecimal() for name in names):
        return
    strange = [
        entry.name for entry in entries if entry.is_dir() or entry.suffix.lower() in IMAGE_SUFFIXES
    ]
    if strange:
        raise ConfigError(
            f"{directory}: holds no version of a model and other things, such as "
            f"{printable(min(strange))!r}: give a folder of its own, such as models/pets"
        )


def _beside(version: int, places: Sequence[Path]) -> dict[str, int]:
    """Which other version there is, for the card."""
    if len(places) == 1:
        return {}
    fallback, published = (int(place.name) for place in places)
    return {"fallback": fallback} if version == published else {"fallback_of": published}


def _next_version(directory: Path) -> int:
    taken = [int(entry.name) for entry in directory.iterdir() if entry.name.isdecimal()]
    return max(taken, default=0) + 1
