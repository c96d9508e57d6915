"""Publish an export: written beside its place, verified, and renamed to the next free version."""

from pathlib import Path
from typing import Any, Protocol

import tensorflow as tf

from keras_cls.classifier import Classifier
from keras_cls.errors import ExportError
from keras_cls.exporting.verification import Sample, Verification
from keras_cls.files import new_folder, write_json

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
    classifier: Classifier, artefact: Artefact, directory: Path, sample: Sample, *, strict: bool
) -> Path:
    """The new version's folder in a model's folder.

    Raises:
        ExportError: it cannot be written, or, ``strict``, differs beyond the bound; nothing is
            published then.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        while True:
            version = directory / str(_next_version(directory))
            try:
                with new_folder(version) as folder:
                    artefact.write(folder, directory.resolve().name, sample)
                    found = artefact.verify(folder, sample)
                    if strict:
                        found.raise_unless_within_bounds()
                    card = {
                        **classifier.card(),
                        "export": artefact.card(folder),
                        "verification": found.to_dict(),
                    }
                    write_json(folder / CARD_FILE, card)
                return version
            except FileExistsError:
                continue  # somebody else published this number meanwhile
    except OSError as error:
        raise ExportError(f"{directory}: cannot be written: {error.strerror or error}") from error
    except tf.errors.OpError as error:
        raise ExportError(f"{directory}: cannot be written: {error.message}") from error


def _next_version(directory: Path) -> int:
    taken = [int(entry.name) for entry in directory.iterdir() if entry.name.isdecimal()]
    return max(taken, default=0) + 1
