"""``train()``: one call from labelled images to a run folder."""

import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeGuard

import keras
import numpy as np
import tensorflow as tf
from rich.console import Console

from keras_cls.architectures import list_models, model_spec
from keras_cls.classifier import BATCH_SIZE, Classifier, load
from keras_cls.data.opening import (
    TrainingData,
    describe_data,
    fingerprint,
    open_training_data,
)
from keras_cls.data.pipeline import (
    ImageStream,
    evaluation_batches,
    evaluation_pixels,
    input_pixels,
    steps_per_epoch,
    training_batches,
    with_shares,
)
from keras_cls.data.scanning import describe_unreadable
from keras_cls.errors import ConfigError, DataError
from keras_cls.evaluation import Evaluation
from keras_cls.files import sole_owner
from keras_cls.labels import checked_labels
from keras_cls.preprocessing import normalize
from keras_cls.training.averaging import JudgeAveraged
from keras_cls.training.fine_tuning import Stages, StageSwitch, set_statistics_frozen
from keras_cls.training.progress import ScanProgress, TrainingProgress
from keras_cls.training.recipes import (
    Recipe,
    checked_epochs,
    choose_batch_size,
    choose_recipe,
)
from keras_cls.training.recorder import Recorder
from keras_cls.training.report import Mistake, write_report
from keras_cls.training.run_folder import History, RunFolder, RunState, default_run_folder
from keras_cls.training.trainee import DropPathGrowth, Trainee
from keras_cls.weights import create_model

_SAMPLE_IMAGES = 16
_MISTAKES_SHOWN = 24


@dataclass(frozen=True)
class TrainingRun:
    """A finished run.

    Attributes:
        classifier: the best epoch's, by validation accuracy, then validation loss.
        history: a row an epoch with ``epoch``, ``loss``, ``accuracy``, ``val_loss``,
            ``val_accuracy``, ``learning_rate`` and ``seconds``.
        directory: the run folder.
        report: the HTML report in it.
    """

    classifier: Classifier
    history: History
    directory: Path
    report: Path


def train(
    model: str | os.PathLike[str] | Classifier,
    data: Any,
    validation: Any = None,
    epochs: int = 30,
    batch_size: int | None = None,
    input_shape: Sequence[int] | None = None,
    weights: str | os.PathLike[str] | None = None,
    recipe: str = "auto",
    *,
    run_dir: str | os.PathLike[str] | None = None,
    seed: int = 0,
    strict: bool = False,
    labels: Sequence[str] | None = None,
    quiet: bool = False,
) -> TrainingRun:
    """Train a network on labelled images.

    Called again with the same arguments and the same ``run_dir`` after a kill, it goes on from the
    last whole epoch and ends as the undisturbed run would have; on a finished run it returns at
    once. The random generators of Python, NumPy and Keras are seeded.

    Args:
        model: a name of the registry; or a classifier to start from, or the folder of one or of a
            run: its weights start a new network, with a new head where the classes are others.
        data: a folder of class folders, a manifest (.csv, .tsv, .jsonl), arrays (images, labels),
            a ``tf.data.Dataset`` or ``"digits"``.
        validation: the same; or the share to hold out; None for the data's own validation part,
            or one fifth of each class.
        epochs: how often every image is seen.
        batch_size: images a step; None leaves it to the recipe.
        input_shape: (height, width, channels) of the network's input; None for the published one.
        weights: a file of weights to start from, or a source's name, as for
            :func:`keras_cls.create_model`; images are then prepared as these weights expect.
        recipe: a name of :data:`keras_cls.training.recipes.RECIPES`, or ``"auto"``, which picks by
            the network's input, the number of images and whether the weights were trained before.
        run_dir: the run folder; None makes a new one under ``runs/``.
        seed: what the split, the initial weights, the order and the augmentation are drawn from.
        strict: stop at unreadable images instead of leaving them out and naming them.
        labels: the class names, where data or dataset hold integers.
        quiet: show no progress and no result; unreadable images are named all the same.

    Raises:
        UserError: DataError, ConfigError or ImageError: what is wrong with the arguments, the data
            or the run folder.
    """
    console = Console(quiet=quiet, stderr=True, soft_wrap=True)
    start = model if isinstance(model, Classifier) or _is_name(model) else load(model)
    name = start.architecture if isinstance(start, Classifier) else model_spec(start).name
    request = {
        "model": f"classifier {start.digest()}" if isinstance(start, Classifier) else name,
        "data": describe_data(data),
        "validation": describe_data(validation),
        "epochs": checked_epochs(epochs),
        "batch_size": batch_size,
        "input_shape": None if input_shape is None else _checked_shape(input_shape),
        "weights": None if weights is None else str(weights),
        "recipe": recipe,
        "seed": _checked_seed(seed),
        "labels": None if labels is None else list(checked_labels(labels)),
    }
    folder = RunFolder(default_run_folder(name) if run_dir is None else _checked_folder(run_dir))
    folder.check(request)
    state = folder.read_state()
    if state.finished:
        console.print(f"{folder.path}: this run is finished; nothing to do")
        return TrainingRun(load(folder.path), state.history, folder.path, folder.report)
    with sole_owner(folder.path):
        folder.remove_leftovers()
        return _run(start, data, validation, request, folder, strict, console)


def _run(
    model: str | Classifier,
    data: Any,
    validation: Any,
    request: dict[str, Any],
    folder: RunFolder,
    strict: bool,
    console: Console,
) -> TrainingRun:
    """The run itself, or what is left of it, by the process that owns its folder."""
    state = folder.read_state()
    seed = request["seed"]
    with ScanProgress(console) as progress:
        images = open_training_data(
            data,
            validation,
            labels=request["labels"],
            cache=folder.cache,
            seed=seed,
            strict=strict,
            progress=progress,
        )
    if images.unreadable:
        Console(stderr=True, soft_wrap=True).print(
            f"left out: {describe_unreadable(images.unreadable)}", markup=False, highlight=False
        )

    keras.utils.set_random_seed(seed)
    classifier = _start(model, images.labels, request["input_shape"], request["weights"])
    trained = request["weights"] is not None or isinstance(model, Classifier)
    chosen, why = choose_recipe(
        request["recipe"], classifier.preprocessing, len(images.train), trained
    )
    outputs: Any = classifier.model.output
    if chosen.aux_weight and not trained and model_spec(classifier.architecture).aux_heads:
        classifier, outputs = _with_auxiliary_heads(classifier)
    size = choose_batch_size(request["batch_size"], chosen, len(images.train))
    resolved = {
        "recipe": asdict(chosen),
        "batch_size": size,
        "data": {
            "classes": list(images.labels),
            "training images": len(images.train),
            "validation images": len(images.validation),
            "digests": [fingerprint(images.train), fingerprint(images.validation)],
        },
    }
    if state.epochs_done:
        folder.check_data(resolved)
    folder.write_settings({"request": request, "resolved": resolved})
    classifier.training = {"request": request, "resolved": resolved}
    classifier.sample = _sample(images.validation, classifier)
    console.print(
        f"{classifier.architecture}, {len(images.labels)} classes, {len(images.train):,} training "
        f"and {len(images.validation):,} validation images; batch size {size}; run folder "
        f"{folder.path}\nrecipe {chosen.name}: {chosen.summary} ({why})",
        highlight=False,
        markup=False,
    )
    try:
        _fit(
            classifier,
            outputs,
            images,
            chosen,
            size,
            request["epochs"],
            seed,
            folder,
            state,
            console,
        )
    except tf.errors.OpError as error:
        raise DataError(
            f"{request['data']}: the images could not be read to the end while training; has a "
            f"file been removed or changed? {str(error.message).splitlines()[0]}"
        ) from error
    return _finish(folder, state, images, {"request": request, "resolved": resolved}, console)


def _start(
    model: str | Classifier,
    labels: tuple[str, ...],
    input_shape: Sequence[int] | None,
    weights: str | os.PathLike[str] | None,
) -> Classifier:
    """The classifier to train: fresh, from weights, or another classifier carried on."""
    if isinstance(model, str):
        network = create_model(model, len(labels), input_shape, weights=weights)
        return Classifier(network, labels)
    if input_shape is not None or weights is not None:
        raise ConfigError("input_shape and weights go with a network's name, not with a classifier")
    if model.labels == labels:
        network = keras.models.clone_model(model.model)  # the caller keeps what they gave
        network.set_weights(model.model.get_weights())
        return Classifier(network, labels, model.preprocessing, architecture=model.architecture)
    if model.architecture not in list_models():
        raise ConfigError(
            f"{model.architecture!r} is not a network of the registry, so it cannot get a new "
            f"head; its classes must stay {list(model.labels)}, found {list(labels)}"
        )
    with tempfile.TemporaryDirectory(prefix="keras_cls-") as temporary:
        file = Path(temporary) / "start.weights.h5"
        model.model.save_weights(file)
        shape = model.preprocessing.input_shape
        network = create_model(model.architecture, len(labels), shape, weights=file)
    return Classifier(network, labels, model.preprocessing, architecture=model.architecture)


def _with_auxiliary_heads(classifier: Classifier) -> tuple[Classifier, dict[str, Any]]:
    """The fresh classifier anew, over a network that has auxiliary heads; and all their logits."""
    name, shape = classifier.architecture, classifier.preprocessing.input_shape
    network = create_model(name, len(classifier.labels), shape, aux=True)
    model = keras.Model(network.input, network.output[model_spec(name).head], name=name)
    return Classifier(model, classifier.labels, classifier.preprocessing), network.output


def _fit(
    classifier: Classifier,
    outputs: Any,
    images: TrainingData,
    recipe: Recipe,
    batch_size: int,
    epochs: int,
    seed: int,
    folder: RunFolder,
    state: RunState,
    console: Console,
) -> None:
    """Train from the state's epoch to the last; the folder and the state keep up."""
    steps = steps_per_epoch(images.train, batch_size)
    rule = classifier.preprocessing
    classes = len(classifier.labels)
    stages = None
    if recipe.fine_tuning is not None:
        stages = Stages(classifier.model, recipe.fine_tuning)
        set_statistics_frozen(classifier.model, recipe.fine_tuning.frozen_statistics)
    optimizer = recipe.optimizer(
        steps * epochs, batch_size, None if stages is None else stages.multiplier
    )
    # Over the same layers, so that the classifier's own model stays without an optimizer.
    model = classifier.model
    head = model_spec(model.name).head if isinstance(outputs, dict) else ""
    network = Trainee.of(model.input, outputs, recipe, name=model.name, head=head)
    network.compile(optimizer=optimizer, jit_compile=False)
    if state.checkpoint is not None:
        optimizer.build(network.trainable_variables)
        network.load_weights(folder.path / state.checkpoint)
        console.print(f"going on after epoch {state.epochs_done}", highlight=False)
    if state.epochs_done >= epochs:
        return
    batches = training_batches(
        images.train,
        rule,
        recipe.augmentation,
        batch_size=batch_size,
        seed=seed,
        first_epoch=state.epochs_done,
    )
    first = state.epochs_done * steps
    progress = TrainingProgress(console, epochs, steps)
    try:
        network.fit(
            with_shares(batches, classes, recipe.mixing, seed, first),
            validation_data=with_shares(
                evaluation_batches(images.validation, rule, batch_size), classes
            ),
            steps_per_epoch=steps,
            initial_epoch=state.epochs_done,
            epochs=epochs,
            shuffle=False,  # training_batches does it
            verbose=0,
            callbacks=[
                *([] if stages is None else [StageSwitch(stages, epochs)]),
                *([DropPathGrowth(network, epochs)] if recipe.drop_path else []),
                JudgeAveraged(optimizer),
                Recorder(folder, state, classifier, lambda: float(optimizer.learning_rate), seed),
                keras.callbacks.TensorBoard(folder.tensorboard, write_graph=False),
                progress,
            ],
        )
    finally:
        progress.close()
        if stages is not None:
            set_statistics_frozen(classifier.model, False)


def _finish(
    folder: RunFolder,
    state: RunState,
    images: TrainingData,
    settings: dict[str, Any],
    console: Console,
) -> TrainingRun:
    """Evaluate the best classifier, keep it, write the report, and call the run finished."""
    assert state.best is not None
    classifier = load(folder.path / state.best)
    evaluation, mistakes = _examine(classifier, images)
    write_report(
        folder.report,
        title=f"{classifier.architecture}: {folder.path.name}",
        settings=_flat(settings),
        history=state.history,
        evaluation=evaluation,
        mistakes=mistakes,
        notes=[
            f"All results are those of epoch {state.best_epoch}, the best of {len(state.history)} "
            "on the validation images. The same images chose it, so they flatter it a little; for "
            "a figure to publish, evaluate on images that the run has never seen."
        ],
    )
    classifier.save(folder.classifier)
    state.finished = True
    folder.write_state(state)
    console.print(evaluation.summary(), highlight=False, markup=False)
    return TrainingRun(classifier, state.history, folder.path, folder.report)


def _examine(classifier: Classifier, images: TrainingData) -> tuple[Evaluation, list[Mistake]]:
    """The evaluation on the validation images, and the most confident wrong answers.

    All in one pass: a dataset of the user's own may come in another order the next time.
    """
    rule, stream = classifier.preprocessing, images.validation
    rows: list[np.ndarray] = []
    truths: list[np.ndarray] = []
    worst: list[Mistake] = []
    for pixels, targets in evaluation_pixels(stream, rule, BATCH_SIZE).as_numpy_iterator():
        first = sum(map(len, truths))
        rows.append(classifier.forward(normalize(pixels, rule)))
        truths.append(targets)
        guesses = rows[-1].argmax(axis=1)
        worst += [
            Mistake(
                image=np.rint(pixels[place, ..., :3]).astype(np.uint8),
                name=stream.name(first + place),
                truth=classifier.labels[targets[place]],
                predicted=classifier.labels[guesses[place]],
                confidence=float(rows[-1][place].max()),
            )
            for place in np.flatnonzero(guesses != targets).tolist()
        ]
        worst = sorted(worst, key=lambda mistake: -mistake.confidence)[:_MISTAKES_SHOWN]
    evaluation = Evaluation.from_probabilities(
        np.concatenate(rows), np.concatenate(truths), classifier.labels, images.unreadable
    )
    return evaluation, worst


def _sample(stream: ImageStream, classifier: Classifier) -> np.ndarray:
    """Held-out images, evenly spaced, that exports will be verified on."""
    count = min(_SAMPLE_IMAGES, len(stream))
    indices = np.linspace(0, len(stream) - 1, count).astype(np.int64)
    return input_pixels(stream, classifier.preprocessing, np.unique(indices))


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, object]:
    """Nested settings as one table."""
    rows: dict[str, object] = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            rows |= _flat(value, f"{prefix}{key}.")
        else:
            rows[prefix + key] = value
    return rows


def _checked_seed(seed: int) -> int:
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**31:
        raise ConfigError(f"seed must be a whole number from 0 to 2147483647, found {seed!r}")
    return seed


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
    return Path(path).expanduser()


def _is_name(model: Any) -> TypeGuard[str]:
    """Whether it is meant as a network's name, and not as a folder."""
    return isinstance(model, str) and (
        model in list_models() or not Path(model).expanduser().is_dir()
    )
