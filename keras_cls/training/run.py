"""``train()``: one call from labelled images to a run folder."""

import json
import os
import re
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeGuard, get_args

import keras
import numpy as np
import tensorflow as tf
from rich.console import Console

from keras_cls.architectures import list_models, model_spec
from keras_cls.architectures.layers import has_accelerator
from keras_cls.classifier import Classifier, load
from keras_cls.data.augmentation import Augmentation
from keras_cls.data.balance import class_weights, describe_imbalance, positive_weights
from keras_cls.data.broken import BrokenImages
from keras_cls.data.opening import (
    TrainingData,
    describe_data,
    fingerprint,
    open_training_data,
)
from keras_cls.data.pipeline import (
    ImageStream,
    Part,
    evaluation_batches,
    input_pixels,
    steps_per_epoch,
    training_batches,
)
from keras_cls.data.scanning import describe_unreadable
from keras_cls.data.streams import HeldStream
from keras_cls.errors import ConfigError
from keras_cls.evaluation.progress import ImageProgress
from keras_cls.files import sole_owner, write_json
from keras_cls.labels import checked_labels, printable
from keras_cls.training.checkpoint import load_checkpoint
from keras_cls.training.cluster import Workers, describe_strategy, lost_peers_named, make_strategy
from keras_cls.training.examining import examine
from keras_cls.training.failures import (
    disk_errors_named,
    memory_errors_named,
    require_memory,
    training_errors_named,
)
from keras_cls.training.judge import Judge
from keras_cls.training.loop import Plan, Watcher, run_epochs
from keras_cls.training.precision import checked_precision, choose_precision
from keras_cls.training.progress import TrainingProgress
from keras_cls.training.recipes import (
    checked_batch_size,
    checked_epochs,
    checked_recipe,
    choose_batch_size,
    choose_recipe,
)
from keras_cls.training.recorder import Recorder
from keras_cls.training.report import write_report
from keras_cls.training.run_folder import (
    History,
    RunFolder,
    RunState,
    default_run_folder,
    gone_if_unused,
)
from keras_cls.training.starting import starting_classifier
from keras_cls.training.stopping import stop_requests
from keras_cls.training.tensorboard import TensorBoard
from keras_cls.training.trainee import Trainee

Imbalance: TypeAlias = Literal["weights", "resample"]

_SAMPLE_IMAGES = 16
_PREPARATION_IMAGES = 5000
_LONGEST_MINUTES = 1e9


@dataclass(frozen=True)
class TrainingRun:
    """A finished run.

    Attributes:
        classifier: the best epoch's, by validation accuracy, then validation loss; multi-label: by
            mean average precision.
        history: a row an epoch with ``epoch``, ``loss``, ``accuracy``, ``top5`` (of more than five
            classes), the same with ``val_``, ``learning_rate``, ``seconds`` and what they went
            into.
        directory: the run folder.
        report: the HTML report in it.
    """

    classifier: Classifier
    history: History
    directory: Path
    report: Path


@dataclass(frozen=True)
class _Request:
    """What was asked for, checked as far as it can be before the data is there."""

    model: str | Classifier
    data: Any
    validation: Any
    epochs: int
    batch_size: int | None
    input_shape: list[int] | None
    weights: str | os.PathLike[str] | None
    recipe: str
    precision: str
    imbalance: Imbalance | None
    seed: int
    labels: list[str] | None
    multi_label: bool | None

    @property
    def name(self) -> str:
        """The network's name."""
        if isinstance(self.model, Classifier):
            return self.model.architecture
        return model_spec(self.model).name

    @cached_property  # arrays and weights are digested for it
    def settings(self) -> dict[str, Any]:
        """What a run that goes on must have been asked for too, as plain JSON types."""
        start = self.model
        return {
            "model": f"classifier {start.digest()}" if isinstance(start, Classifier) else self.name,
            "data": describe_data(self.data),
            "validation": describe_data(self.validation),
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            "input_shape": self.input_shape,
            "weights": None if self.weights is None else str(self.weights),
            "recipe": self.recipe,
            "precision": self.precision,
            "imbalance": self.imbalance,
            "seed": self.seed,
            "labels": self.labels,
            "multi_label": self.multi_label,
        }


@dataclass(frozen=True)
class _Setting:
    """Where and how the run goes: what may be another the next time it goes on."""

    folder: RunFolder
    strategy: tf.distribute.Strategy
    workers: Workers
    checkpoint_minutes: float
    data_service: str | None
    strict: bool
    console: Console


def train(
    model: str | os.PathLike[str] | Classifier,
    data: Any,
    validation: Any = None,
    epochs: int = 30,
    batch_size: int | None = None,
    input_shape: Sequence[int] | None = None,
    weights: str | os.PathLike[str] | None = None,
    recipe: str = "auto",
    strategy: str | tf.distribute.Strategy = "auto",
    precision: str = "auto",
    *,
    run_dir: str | os.PathLike[str] | None = None,
    seed: int = 0,
    strict: bool = False,
    labels: Sequence[str] | None = None,
    multi_label: bool | None = None,
    imbalance: Imbalance | None = None,
    checkpoint_minutes: float = 10.0,
    data_service: str | None = None,
    quiet: bool = False,
) -> TrainingRun:
    """Train a network on labelled images.

    Called again with the same arguments and the same ``run_dir`` after a kill, it goes on from the
    last checkpoint and ends as the undisturbed run would have; on a finished run it returns at
    once. SIGTERM and Ctrl-C save, then stop. The random generators of Python, NumPy and Keras are
    seeded.

    Args:
        model: a name of the registry; or a classifier to start from, or the folder of one or of a
            run: its weights start a new network, with a new head where the classes are others.
        data: a folder of class folders, a manifest (.csv, .tsv, .jsonl), a folder of TFRecord
            files, ``"tfds:NAME"``, arrays (images, labels), a ``tf.data.Dataset`` or ``"digits"``.
        validation: the same; or the share to hold out; None for the data's own validation part,
            or one fifth of each class.
        epochs: how often every image is seen.
        batch_size: images a step, on all devices together; None leaves it to the recipe.
        input_shape: (height, width, channels) of the network's input; None for the published one.
        weights: a file of weights to start from, or a source's name, as for
            :func:`keras_cls.create_model`; images are then prepared as these weights expect.
        recipe: a name of :data:`keras_cls.training.recipes.RECIPES`, or ``"auto"``, which picks by
            the network's input, the number of images and whether the weights were trained before.
        strategy: the devices. ``"auto"``: TPUs, the workers that TF_CONFIG names, or all GPUs of
            this machine; where there is none of them, one device. Or a ``tf.distribute.Strategy``.
        precision: ``"float32"``, ``"bfloat16"`` (variables, loss and the classifier stay float32),
            or ``"auto"``: bfloat16 where the hardware has it.
        run_dir: the run folder; None makes a new one under ``runs/``.
        seed: what the split, the initial weights, the order and the augmentation are drawn from.
        strict: stop at unreadable images instead of leaving them out and naming them.
        labels: the class names, where data or dataset hold integers.
        multi_label: whether an image may have several classes, or none; None: as the data has it.
        imbalance: what to do about uneven classes: ``"weights"`` lets rare ones count as much in
            the loss, ``"resample"`` shows them as often; None: nothing but a warning.
        checkpoint_minutes: the longest time without a checkpoint; there is one after every epoch.
        data_service: the address of a ``tf.data`` service that prepares the batches,
            ``"grpc://host:port"``.
        quiet: show no progress and no result; unreadable images are named all the same.

    Raises:
        TrainingStoppedError: a signal asked for a stop; all is saved.
        TrainingDivergedError: the loss is no number any more; what was kept before stays.
        UserError: DataError, ConfigError or ImageError: what is wrong with the arguments, the data
            or the run folder.
    """
    folder = None if run_dir is None else RunFolder(_checked_folder(run_dir))
    finished = folder is not None and folder.read_state().finished
    # First of all: a cluster must be set up before TensorFlow does anything else. Of a finished
    # run the other workers may be gone.
    devices = tf.distribute.get_strategy() if finished else make_strategy(strategy)
    with lost_peers_named():
        workers = Workers(devices)
        request = _Request(
            model=model if isinstance(model, Classifier) or _is_name(model) else load(model),
            data=data,
            validation=validation,
            epochs=checked_epochs(epochs),
            batch_size=None if batch_size is None else checked_batch_size(batch_size),
            input_shape=None if input_shape is None else _checked_shape(input_shape),
            weights=weights,
            recipe=checked_recipe(recipe),
            precision=checked_precision(precision),
            imbalance=_checked_imbalance(imbalance),
            seed=_checked_seed(seed),
            labels=None if labels is None else list(checked_labels(labels)),
            multi_label=_checked_multi_label(multi_label),
        )
        if folder is None and workers.count > 1:
            raise ConfigError("several workers need a run_dir, on a volume that they share")
        setting = _Setting(
            folder or RunFolder(default_run_folder(request.name)),
            devices,
            workers,
            _checked_minutes(checkpoint_minutes),
            _checked_service(data_service),
            strict,
            Console(quiet=quiet or not workers.is_chief, stderr=True, soft_wrap=True),
        )
        with (
            gone_if_unused(setting.folder.path, chosen=folder is None),
            disk_errors_named(setting.folder.path),
            memory_errors_named(),
        ):
            return _train(request, setting)


def _train(request: _Request, setting: _Setting) -> TrainingRun:
    """Look at what the folder holds, own it, and run."""
    folder, workers = setting.folder, setting.workers
    folder.check(request.settings)
    state = folder.read_state()
    if state.finished:
        setting.console.print(f"{folder.path}: this run is finished; nothing to do")
        return TrainingRun(load(folder.path), state.history, folder.path, folder.report)
    workers.agreed(json.dumps(request.settings, sort_keys=True), "the arguments")
    with sole_owner(folder.path) if workers.is_chief else nullcontext():
        if workers.is_chief:
            folder.remove_leftovers()
        return _run(request, setting)


def _run(request: _Request, setting: _Setting) -> TrainingRun:
    """The run itself, or what is left of it, by the process that owns its folder."""
    folder, workers, console = setting.folder, setting.workers, setting.console
    state = folder.read_state()
    images = _opened(request, setting)
    if images.unreadable and workers.is_chief:
        Console(stderr=True, soft_wrap=True).print(
            f"left out: {describe_unreadable(images.unreadable)}", markup=False, highlight=False
        )
    train = images.train if setting.data_service else _held_as_begun(images.train, setting, state)
    images = replace(images, train=train)
    keras.utils.set_random_seed(request.seed)
    classifier = starting_classifier(
        request.model,
        images.labels,
        request.input_shape,
        request.weights,
        images.train.multi_label,
    )
    trained = request.weights is not None or isinstance(request.model, Classifier)
    recipe, why_recipe = choose_recipe(
        request.recipe, classifier.preprocessing, len(images.train), trained
    )
    precision, why_precision = choose_precision(request.precision)
    if state.checkpoint is not None:
        precision = folder.resolved_precision(precision)  # as it was begun, on whatever machine
    batch_size = choose_batch_size(
        request.batch_size,
        recipe,
        len(images.train),
        setting.strategy.num_replicas_in_sync,
    )
    if not has_accelerator():
        require_memory(classifier.model, batch_size // workers.count, precision)
    resolved = {
        "recipe": asdict(recipe),
        "batch_size": batch_size,
        "precision": precision,
        "devices": describe_strategy(setting.strategy),
        "held": isinstance(train, HeldStream) and not setting.data_service and train.is_held(),
        "data": {
            "classes": list(images.labels),
            "training images": len(images.train),
            "validation images": len(images.validation),
            "digests": [fingerprint(images.train), fingerprint(images.validation)],
        },
    }
    settings = {"request": request.settings, "resolved": resolved}
    if state.checkpoint is not None:
        folder.check_data(resolved)
    workers.agreed(f"{resolved['data']} {state.checkpoint}")
    if workers.is_chief:
        folder.write_settings(settings)
    if not trained and state.checkpoint is None:
        _prepare(classifier, images.train, request.seed)
    classifier.training = settings
    classifier.sample = _sample(images.validation, classifier)
    uneven = describe_imbalance(images.labels, images.train.counts)
    warnings = [uneven] if uneven is not None and request.imbalance is None else []
    console.print(
        f"{classifier.architecture}, {len(images.labels)} classes, {len(images.train):,} training "
        f"and {len(images.validation):,} validation images; batch size {batch_size}; run folder "
        f"{folder.path}\n"
        f"recipe {recipe.name}: {recipe.summary} ({why_recipe})\n"
        f"{describe_strategy(setting.strategy)}; {precision} ({why_precision})",
        *warnings,
        sep="\n",
        highlight=False,
        markup=False,
    )
    auxiliary = bool(
        recipe.aux_weight and not trained and model_spec(classifier.architecture).aux_heads
    )
    steps = steps_per_epoch(images.train, batch_size)
    trainee = Trainee(
        classifier,
        recipe,
        steps=steps * request.epochs,
        batch_size=batch_size,
        seed=request.seed,
        strategy=setting.strategy,
        workers=workers.count,
        precision=precision,
        auxiliary=auxiliary,
        class_weights=_loss_weights(request.imbalance, images.train),
    )
    plan = Plan(request.epochs, steps, batch_size, 60 * setting.checkpoint_minutes)
    broken = BrokenImages()
    with training_errors_named(folder.path, state, batch_size, images):
        _fit(trainee, images, plan, request, setting, state, broken)
    if said := broken.describe(images.train):
        warnings.append(said)
        Console(stderr=True, soft_wrap=True).print(said, markup=False, highlight=False)
    return _finish(setting, state, images, settings, warnings)


def _opened(request: _Request, setting: _Setting) -> TrainingData:
    """The data; of several workers the chief looks first, and the others find its copies."""
    if not setting.workers.is_chief:
        setting.workers.barrier("the chief has looked at the images")
    with ImageProgress("looking at the images", quiet=setting.console.quiet) as progress:
        images = open_training_data(
            request.data,
            request.validation,
            labels=request.labels,
            multi_label=request.multi_label,
            cache=setting.folder.cache,
            seed=request.seed,
            strict=setting.strict,
            progress=progress,
        )
    if setting.workers.is_chief:
        setting.workers.barrier("the chief has looked at the images")
    return images


def _held_as_begun(train: ImageStream, setting: _Setting, state: RunState) -> ImageStream:
    """The training images as a run that goes on had them: in memory, or read from their files.

    From its file a large photo may be decoded at a reduced size, which gives other pixels.
    """
    begun = setting.folder.resolved_held if state.checkpoint is not None else None
    if not isinstance(train, HeldStream) or begun is None:
        return train
    if not begun:
        return train.unheld()
    if not train.is_held():
        setting.console.print(
            "less memory is free than when this run was begun: its images are read from their "
            "files, and what it ends with may differ in the last digits",
            highlight=False,
        )
    return train


def _fit(
    trainee: Trainee,
    images: TrainingData,
    plan: Plan,
    request: _Request,
    setting: _Setting,
    state: RunState,
    broken: BrokenImages,
) -> None:
    """Train from the state's step to the last; the folder and the state keep up."""
    folder, workers, console = setting.folder, setting.workers, setting.console
    rule, recipe = trainee.classifier.preprocessing, trainee.recipe
    if state.checkpoint is not None:
        load_checkpoint(folder.path / state.checkpoint, trainee.variables)
        step = f" and {state.step} of {plan.steps} steps" if state.step else ""
        console.print(f"going on after {state.epochs_done} epochs{step}", highlight=False)
    if state.epochs_done >= plan.epochs:
        return
    part = Part(workers.index, workers.count)
    training = training_batches(
        images.train,
        rule,
        recipe.augmentation,
        batch_size=plan.batch_size,
        seed=request.seed,
        first_step=state.epochs_done * plan.steps + state.step,
        part=part,
        balanced=request.imbalance == "resample",
        mixing=recipe.mixing,
        service=setting.data_service,
        broken=broken,
    )
    recorder = Recorder(folder, state, trainee, writes=workers.is_chief)
    with ExitStack() as open_ones:
        watchers: list[Watcher] = []
        if workers.is_chief:
            progress = TrainingProgress(
                console,
                plan.epochs,
                plan.steps,
                lambda: trainee.learning_rate,
                trainee.classifier.multi_label,
            )
            open_ones.callback(progress.close)
            board = TensorBoard(folder.tensorboard, rule)
            open_ones.callback(board.close)
            watchers = [progress, board]
        stop = open_ones.enter_context(stop_requests())
        run_epochs(
            trainee,
            Judge(trainee.classifier, setting.strategy, workers),
            training,
            evaluation_batches(images.validation, rule, plan.batch_size, part),
            plan,
            state,
            recorder,
            watchers,
            stop,
        )


def _finish(
    setting: _Setting,
    state: RunState,
    images: TrainingData,
    settings: dict[str, Any],
    warnings: list[str],
) -> TrainingRun:
    """Evaluate the best classifier, keep it, write the report, and call the run finished."""
    assert state.best is not None and state.best_epoch is not None
    folder = setting.folder
    if setting.workers.is_chief:
        classifier = load(folder.path / state.best)
        evaluation, examples = examine(classifier, images.validation, images.unreadable)
        write_report(
            folder.report,
            title=f"{classifier.architecture}: {folder.path.name}",
            settings=settings,
            history=state.history,
            best_epoch=state.best_epoch,
            evaluation=evaluation,
            examples=examples,
            notes=[
                f"All results are those of epoch {state.best_epoch}, the best of "
                f"{len(state.history)} on the validation images. The same images chose it, so they "
                "flatter it a little; for a figure to publish, evaluate on images that the run has "
                "never seen."
            ],
            warnings=warnings,
        )
        write_json(folder.evaluation, evaluation.to_dict())
        classifier.save(folder.classifier)
        state.finished = True
        folder.write_state(state)
        setting.console.print(evaluation.summary(), highlight=False, markup=False)
    setting.workers.barrier("the report is written")
    if not setting.workers.is_chief:
        classifier = load(folder.classifier)
    return TrainingRun(classifier, state.history, folder.path, folder.report)


def _loss_weights(imbalance: Imbalance | None, stream: ImageStream) -> np.ndarray | None:
    if imbalance != "weights":
        return None
    if stream.multi_label:
        return positive_weights(stream.counts, len(stream))
    return class_weights(stream.counts)


def _prepare(classifier: Classifier, stream: ImageStream, seed: int) -> None:
    """Fit fresh weights to some of the images, where the network's paper does so."""
    prepare = model_spec(classifier.architecture).prepare
    if prepare is not None:
        count = min(_PREPARATION_IMAGES, len(stream))
        batches = training_batches(
            stream,
            classifier.preprocessing,
            Augmentation(),
            batch_size=count,
            seed=seed,
            broken=BrokenImages(),
        )
        prepare(classifier.model, next(iter(batches))[0].numpy())


def _sample(stream: ImageStream, classifier: Classifier) -> np.ndarray:
    """Held-out images, evenly spaced, that exports will be verified on."""
    count = min(_SAMPLE_IMAGES, len(stream))
    indices = np.linspace(0, len(stream) - 1, count).astype(np.int64)
    return input_pixels(stream, classifier.preprocessing, np.unique(indices))


def _checked_seed(seed: int) -> int:
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**31:
        raise ConfigError(f"seed must be a whole number from 0 to 2147483647, found {seed!r}")
    return seed


def _checked_minutes(minutes: Any) -> float:
    if isinstance(minutes, bool) or not isinstance(minutes, int | float) or not minutes > 0:
        raise ConfigError(f"checkpoint_minutes must be a number above 0, found {minutes!r}")
    return float(min(minutes, _LONGEST_MINUTES))


def _checked_imbalance(imbalance: Any) -> Imbalance | None:
    known = isinstance(imbalance, str | None) and imbalance in (None, *get_args(Imbalance))
    if not known:
        raise ConfigError(f"imbalance must be None, 'weights' or 'resample', found {imbalance!r}")
    return imbalance


def _checked_multi_label(multi_label: Any) -> bool | None:
    if multi_label is not None and not isinstance(multi_label, bool):
        raise ConfigError(f"multi_label must be None, True or False, found {multi_label!r}")
    return multi_label


def _checked_service(address: Any) -> str | None:
    known = isinstance(address, str) and re.fullmatch(r"[a-z]+://[^/]+:[0-9]+", address)
    if address is not None and not known:
        raise ConfigError(f"data_service must look like grpc://host:port, found {address!r}")
    return address


def _checked_shape(shape: Any) -> list[int]:
    try:
        return list(shape)
    except TypeError as error:
        raise ConfigError(
            f"input_shape must be (height, width, channels), found {shape!r}"
        ) from error


def _checked_folder(path: Any) -> Path:
    if not isinstance(path, str | os.PathLike):
        raise ConfigError(f"run_dir must be a path, found {path!r}")
    folder = Path(path).expanduser()
    try:
        folder.stat()
    except (FileNotFoundError, NotADirectoryError):
        pass  # still to be made; where it cannot be, that will be said
    except (OSError, ValueError) as error:  # no folder can have such a name, or be looked at
        raise ConfigError(f"run_dir: {printable(str(folder))}: {error}") from error
    return folder


def _is_name(model: Any) -> TypeGuard[str]:
    """Whether it is meant as a network's name, and not as a folder."""
    return isinstance(model, str) and (
        model in list_models() or not Path(model).expanduser().is_dir()
    )
