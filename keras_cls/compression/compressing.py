"""``compress()``: one call that tries the ladder, measures, and picks what keeps to a budget."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from numbers import Integral
from pathlib import Path
from typing import Any, TypeVar, get_args

import numpy as np
import tensorflow as tf
from rich.console import Console

from keras_cls.classifier import Classifier, load
from keras_cls.compression.budget import Budget, Measured, on_the_front
from keras_cls.compression.ladder import Rung, Training, ladder
from keras_cls.compression.measuring import (
    accuracy_of,
    accuracy_of_version,
    latency_of_version,
    share_of_zeros,
    sizes_of_version,
)
from keras_cls.compression.refining import refine
from keras_cls.compression.report import table_of, write_report
from keras_cls.data.opening import TrainingData, describe_data, fingerprint, open_training_data
from keras_cls.data.pipeline import input_pixels, steps_per_epoch
from keras_cls.errors import ConfigError, ExportError, TrainingDivergedError
from keras_cls.evaluation.progress import ImageProgress
from keras_cls.exporting import export
from keras_cls.exporting.calibration_images import PreparedImages, images_of_stream
from keras_cls.exporting.hardware import slow_here
from keras_cls.exporting.networks import (
    PRECISIONS,
    Precision,
    refuse_what_cannot_be_written,
)
from keras_cls.exporting.publishing import CARD_FILE
from keras_cls.exporting.verification import refuse_broken_weights
from keras_cls.files import read_json, remove_leftovers, sole_owner, write_json
from keras_cls.hushing import without_advice
from keras_cls.training.run_folder import RunFolder, default_run_folder, gone_if_unused

RESULTS_FILE = "results.json"
_MODELS = "models"
_LATENCY_ROUNDS = 2

T = TypeVar("T")


@dataclass(frozen=True)
class Candidate:
    """A rung of the ladder, and what became of it.

    Attributes:
        rung: precision and training.
        measured: accuracy, sizes, latency; None where it could not be made.
        version: the exported SavedModel; None where it could not be made.
        problem: why it could not be made.
        on_the_front: whether no other is at least as good in everything and better in something.
    """

    rung: Rung
    measured: Measured | None = None
    version: Path | None = None
    problem: str | None = None
    on_the_front: bool = False

    @property
    def name(self) -> str:
        """What tables call it."""
        return self.rung.name


@dataclass(frozen=True)
class CompressionResult:
    """What :func:`compress` found.

    Attributes:
        classifier: the best candidate's Keras weights: pruned, clustered, trained for int8, as it
            may be. The ranges of its maps in bytes are in the artifact.
        artifact: the best candidate's SavedModel, a version's folder.
        report: the HTML page with the Pareto plots and the table.
        best: the best candidate.
        candidates: all, in the order of the ladder.
        accuracy: of the classifier that was compressed.
        missed: by how much the best one misses the budget, in words; empty where it is met.
    """

    classifier: Classifier
    artifact: Path
    report: Path
    best: Candidate
    candidates: tuple[Candidate, ...]
    accuracy: float
    missed: str

    @property
    def met(self) -> bool:
        """Whether the best candidate keeps to the budget."""
        return not self.missed


def compress(
    classifier: Classifier | str | os.PathLike[str],
    data: Any,
    *,
    validation: Any = None,
    precision: Precision | Sequence[Precision] = PRECISIONS,
    sparsity: float | Sequence[float] = (0.5, 0.8),
    clusters: int | Sequence[int] = (32,),
    epochs: int = 2,
    batch_size: int = 128,
    max_accuracy_drop: float | None = 0.01,
    max_size: float | None = None,
    max_compressed_size: float | None = None,
    max_latency: float | None = None,
    run_dir: str | os.PathLike[str] | None = None,
    seed: int = 0,
    strict: bool = False,
    quiet: bool = False,
) -> CompressionResult:
    """Try the ways to make a classifier small, and pick the best that keeps to a budget.

    Exports come first, in each precision; then pruning, clustering, both, quantization-aware
    training, and all together, each trained on from the classifier's weights. Every candidate is a
    SavedModel that was held to its Keras model; its accuracy is measured in a session as TensorFlow
    Serving has it. After a kill the same call on the same ``run_dir`` goes on.

    Args:
        classifier: what to compress, or the folder of one or of a run; it stays as it is.
        data: what ``data`` is in :func:`keras_cls.train`, of the classifier's classes; for
            training, and to calibrate int8 with.
        validation: the same, or the share to hold out (default one fifth): what accuracy is
            measured on.
        precision: of the exports: ``"float32"``, ``"bfloat16"``, ``"int8"``, or several.
        sparsity: the share of zeros to prune to, or several; empty for none.
        clusters: the number of values of a kernel, or several; empty for none.
        epochs: how long each technique is trained; 0 for exports alone.
        batch_size: images a step.
        max_accuracy_drop: what may be lost: 0.01 is a point of accuracy (multi-label: of mean
            average precision); None for any.
        max_size: bytes of the SavedModel's files.
        max_compressed_size: bytes of the same, packed as .tar.xz.
        max_latency: milliseconds for one image on this machine.
        run_dir: the folder for all that is made; None for a new one under ``runs/``.
        seed: what orders and variations are drawn from.
        strict: stop at unreadable images.
        quiet: show no progress and no result.

    Returns:
        The best candidate: of those that keep to the budget, the smallest packed one among the
        fastest (within a tenth); else the one that misses it by least.

    Raises:
        ConfigError: an argument that makes no sense, or a ``run_dir`` of another call.
        DataError: the data cannot be used.
        ExportError: not one candidate could be made, or a weight is no finite number.
        TrainingStoppedError: a signal asked for a stop; the same call goes on.
    """
    budget = Budget(max_accuracy_drop, max_size, max_compressed_size, max_latency)
    if not isinstance(classifier, Classifier):
        classifier = load(classifier)
    refuse_broken_weights(classifier)
    precisions = _checked_precisions(precision)
    sparsities, counts = _several(sparsity), _several(clusters)
    epochs = _checked_count("epochs", epochs, 0)
    batch_size = _checked_count("batch_size", batch_size, 1)
    seed = _checked_count("seed", seed, 0)
    request = {
        "classifier": classifier.digest(),
        "data": describe_data(data),
        "validation": describe_data(validation),
        "precision": list(precisions),
        "sparsity": list(sparsities),
        "clusters": list(counts),
        "epochs": epochs,
        "batch_size": batch_size,
        "seed": seed,
    }
    # Before anything is read, and though nothing may be trained: what makes no sense is refused.
    ladder(precisions, sparsities, counts, Training(max(epochs, 1), batch_size, 1))
    path = Path(run_dir).expanduser() if run_dir is not None else default_run_folder("compressed")
    folder = RunFolder(path)
    folder.check(request)
    with gone_if_unused(path, chosen=run_dir is None), sole_owner(path):
        for place in (path, *(path / _MODELS).glob("*")):
            remove_leftovers(place)
        with ImageProgress("looking at the images", quiet=quiet) as progress:
            images = open_training_data(
                data,
                validation,
                labels=list(classifier.labels),
                multi_label=classifier.multi_label,
                cache=folder.cache,
                seed=seed,
                strict=strict,
                progress=progress,
            )
        digests = [fingerprint(images.train), fingerprint(images.validation)]
        resolved = {"data": {"digests": digests}}
        folder.check_data(resolved)
        folder.write_settings({"request": request, "resolved": resolved})
        console = Console(quiet=quiet, stderr=True, soft_wrap=True, highlight=False)
        if said := _trained_on(classifier, request, digests):
            console.print(said, markup=False)
        batch_size = min(batch_size, len(images.train))
        training = Training(epochs, batch_size, steps_per_epoch(images.train, batch_size))
        search = _Search(
            classifier,
            images,
            ladder(precisions, sparsities, counts, training),
            path,
            seed,
            console,
        )
        return search.result(budget)


def _trained_on(
    classifier: Classifier, request: Mapping[str, Any], digests: Sequence[str]
) -> str | None:
    """A warning where the images held out are of those that the classifier was trained on.

    So it may be with other data of the same images; that of the run is what can be told.
    """
    run = classifier.training.get("request", {})
    data = classifier.training.get("resolved", {}).get("data", {})
    if (
        data.get("digests", digests) == digests
        or run.get("data") != request["data"]
        or not isinstance(request["validation"], float | None)
    ):
        return None
    return (
        "the classifier was trained on another part of the same data: accuracy is measured on "
        f"images that it has seen. Give the run's own seed ({run.get('seed')}) and validation "
        f"({run.get('validation')})"
    )


class _Search:
    """The candidates of a call, made and measured one by one."""

    def __init__(
        self,
        classifier: Classifier,
        images: TrainingData,
        rungs: Sequence[Rung],
        folder: Path,
        seed: int,
        console: Console,
    ) -> None:
        self._classifier = classifier
        self._images = images
        self._rungs = rungs
        self._folder = folder
        self._seed = seed
        self._console = console
        results = folder / RESULTS_FILE
        known: dict[str, Any] = read_json(results) if results.exists() else {}
        self._known = {name: found for name, found in known.items() if self._holds(found)}

    def result(self, budget: Budget) -> CompressionResult:
        """Make and measure what is still missing, choose, and write the report."""
        classifier, images = self._classifier, self._images
        rule = classifier.preprocessing
        accuracy = self._noted(
            "accuracy",
            lambda: accuracy_of(classifier.probabilities_of_pixels, images.validation, rule),
        )
        self._console.print(
            f"{classifier.architecture}: accuracy {accuracy:.2%} on {len(images.validation):,} "
            f"images; {len(self._rungs)} candidates; folder {self._folder}",
            markup=False,
        )
        for precision in dict.fromkeys(rung.precision for rung in self._rungs):
            if reason := slow_here(precision):
                self._console.print(reason)
        found = self._with_latencies(
            [self._candidate(place, rung) for place, rung in enumerate(self._rungs)]
        )
        made, measured = _those_made(found)
        if not made:
            problems = "; ".join(f"{each.name}: {each.problem}" for each in found)
            raise ExportError(f"{classifier.architecture}: no candidate could be made: {problems}")
        best = made[budget.choose(measured, accuracy)]
        assert best.measured is not None and best.version is not None
        missed = budget.describe_miss(best.measured, accuracy)
        report = write_report(
            self._folder / "report.html", classifier, accuracy, found, best, budget, missed
        )
        if not self._console.quiet:
            Console().print(table_of(accuracy, found, best))
        said = f"best: {best.name}" if not missed else f"no candidate meets the budget: {missed}"
        self._console.print(f"{said}; report {report}", markup=False)
        return CompressionResult(
            classifier=self._refined(best.rung),
            artifact=best.version,
            report=report,
            best=best,
            candidates=tuple(found),
            accuracy=accuracy,
            missed=missed,
        )

    def _candidate(self, place: int, rung: Rung) -> Candidate:
        """Made and measured but for its latency, or as it was before a kill."""
        known = self._noted(rung.name, lambda: self._made(rung))
        number = f"{place + 1}/{len(self._rungs)} {rung.name}: "
        if "problem" in known:
            self._console.print(f"{number}not possible: {known['problem']}", markup=False)
            return Candidate(rung, problem=known["problem"])
        measured = Measured(**known["measured"])
        self._console.print(
            f"{number}accuracy {measured.accuracy:.2%}, {measured.size / 1e6:.2f} MB, packed "
            f"{measured.compressed_size / 1e6:.2f} MB",
            markup=False,
        )
        return Candidate(rung, measured, self._folder / known["version"])

    def _holds(self, found: Any) -> bool:
        """Whether what an earlier call noted need not be found out again.

        An export that was not possible may be by now: with a layer made known, on another machine.
        """
        if not isinstance(found, dict):
            return True
        if "problem" in found:
            return bool(found.get("diverged", False))
        return (self._folder / found["version"]).is_dir()

    def _made(self, rung: Rung) -> dict[str, Any]:
        try:
            with without_advice():  # on tracing functions again: each candidate has its own
                # Before hours of training.
                refuse_what_cannot_be_written(self._classifier.model, rung.precision)
                refined = self._refined(rung)
                version = self._version(rung, refined)
        except (ExportError, TrainingDivergedError) as error:
            if isinstance(error.__cause__, OSError | tf.errors.OpError):
                raise  # A full disk says nothing about the rung.
            return {"problem": str(error), "diverged": isinstance(error, TrainingDivergedError)}
        size, compressed = sizes_of_version(version)
        share = read_json(version / CARD_FILE)["export"].get("quantized_share", 0.0)
        rule = self._classifier.preprocessing
        accuracy = accuracy_of_version(version, self._images.validation, rule)
        return {
            "version": version.relative_to(self._folder).as_posix(),
            "measured": asdict(
                Measured(
                    accuracy, size, compressed, in_bytes=share, zeros=share_of_zeros(refined.model)
                )
            ),
        }

    def _version(self, rung: Rung, refined: Classifier) -> Path:
        folder = self._folder / _MODELS / _slug(rung.name)
        if (folder / "1").is_dir():
            return folder / "1"
        return export(
            refined,
            folder,
            precision=rung.precision,
            calibration=self._calibration if rung.precision == "int8" else None,
        )

    def _refined(self, rung: Rung) -> Classifier:
        """The classifier, trained for all that the rung asks for, one thing after the other."""
        found, done = self._classifier, ""
        for refinement, name in zip(rung.refinements, rung.names, strict=True):
            done = f"{done}, {name}" if done else name
            folder = self._folder / "refined" / _slug(done)
            if not RunFolder(folder).read_state().finished:
                self._console.print(f"training: {done}", markup=False)
            found = refine(
                found,
                self._images,
                refinement,
                folder,
                teacher=self._classifier,
                seed=self._seed,
                quiet=self._console.quiet,
                within=self._folder,
            )
        return found

    @property
    def _calibration(self) -> PreparedImages:
        """Training images, evenly out of all."""
        return images_of_stream(self._classifier, self._images.train, "the training images")

    def _with_latencies(self, found: Sequence[Candidate]) -> list[Candidate]:
        """All of them measured in one go, turn by turn, when nothing else runs any more."""
        rule = self._classifier.preprocessing
        pixels = input_pixels(self._images.validation, rule, np.zeros(1, np.int64))
        best: dict[str, float] = {}
        for _ in range(_LATENCY_ROUNDS):
            for each in found:
                if each.version is not None:
                    latency = latency_of_version(each.version, pixels)
                    best[each.name] = min(latency, best.get(each.name, latency))
        timed = [
            replace(each, measured=replace(each.measured, latency=best[each.name]))
            if each.measured is not None
            else each
            for each in found
        ]
        made, measured = _those_made(timed)
        front = dict(zip((each.name for each in made), on_the_front(measured), strict=True))
        return [replace(each, on_the_front=front.get(each.name, False)) for each in timed]

    def _noted(self, name: str, find_out: Callable[[], T]) -> T:
        """What was found out before a kill, or is now, and is written down."""
        if name not in self._known:
            self._known[name] = find_out()
            write_json(self._folder / RESULTS_FILE, self._known)
        found: T = self._known[name]
        return found


def _those_made(found: Sequence[Candidate]) -> tuple[list[Candidate], list[Measured]]:
    """The candidates that could be made, and what was measured of each."""
    made = [(each, each.measured) for each in found if each.measured is not None]
    return [each for each, _ in made], [measured for _, measured in made]


def _slug(name: str) -> str:
    """A folder's name."""
    kept = "".join(letter if letter.isalnum() or letter in ".-" else " " for letter in name)
    return "-".join(kept.split())


def _several(found: Any) -> tuple[Any, ...]:
    return tuple(found) if isinstance(found, list | tuple) else (found,)


def _checked_precisions(found: Any) -> tuple[Precision, ...]:
    precisions = _several(found)
    for each in precisions:
        if each not in get_args(Precision):
            raise ConfigError(
                f"precision: expected one or several of {', '.join(PRECISIONS)}; found {each!r}"
            )
    if not precisions:
        raise ConfigError("precision: expected one at least, found none")
    return tuple(dict.fromkeys(precisions))


def _checked_count(name: str, found: Any, least: int) -> int:
    if isinstance(found, bool) or not isinstance(found, Integral) or found < least:
        raise ConfigError(f"{name}: expected a whole number of {least} or more, found {found!r}")
    return int(found)
