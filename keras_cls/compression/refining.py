"""Training that makes a classifier's weights bear a technique, as a run that can be killed."""

from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import keras
from rich.console import Console

from keras_cls.architectures.layers import has_accelerator
from keras_cls.classifier import Classifier, load
from keras_cls.compression.settings import Clustering, Pruning, Quantization, Technique
from keras_cls.compression.twin import refuse_unknown_layers
from keras_cls.compression.twin_trainee import TwinTrainee
from keras_cls.data.broken import BrokenImages
from keras_cls.data.opening import TrainingData, fingerprint
from keras_cls.data.pipeline import evaluation_batches, steps_per_epoch, training_batches
from keras_cls.exporting.calls import calls_to_outputs
from keras_cls.files import sole_owner
from keras_cls.training.checkpoint import load_checkpoint
from keras_cls.training.cluster import Workers
from keras_cls.training.failures import disk_errors_named, training_errors_named
from keras_cls.training.judge import Judge
from keras_cls.training.loop import Plan, run_epochs
from keras_cls.training.precision import Precision, choose_precision
from keras_cls.training.progress import TrainingProgress
from keras_cls.training.recipes import choose_recipe
from keras_cls.training.recorder import Recorder
from keras_cls.training.run_folder import RunFolder
from keras_cls.training.starting import starting_classifier
from keras_cls.training.stopping import stop_requests

_LEARNING_RATES: dict[type[Technique], float] = {
    Pruning: 0.05,
    # What moves is the mean of many weights, with the sum of their gradients.
    Clustering: 0.001,
    Quantization: 0.001,
}
# Without normalization weights of any size keep their size, and large steps throw them about.
_UNNORMALIZED = 0.1


@dataclass(frozen=True)
class Refinement:
    """A technique, and how long a network is trained for it.

    Attributes:
        technique: what the weights are to bear.
        epochs: passes over the training images.
        batch_size: images a step.
        learning_rate: of the first step; None for what is usual with the technique, and a tenth of
            it where the network has no normalization.
    """

    technique: Technique
    epochs: int = 1
    batch_size: int = 128
    learning_rate: float | None = None

    def rate_for(self, model: keras.Model) -> float:
        """The learning rate of the first step."""
        if self.learning_rate is not None:
            return self.learning_rate
        calls, _ = calls_to_outputs(model)  # of models within it too
        normalized = any(hasattr(call.layer, "moving_mean") for call in calls)
        return _LEARNING_RATES[type(self.technique)] * (1 if normalized else _UNNORMALIZED)

    def to_dict(self) -> dict[str, Any]:
        """What tells it from others, as plain JSON types."""
        kind = type(self.technique).__name__
        settings = {kind: asdict(self.technique)}
        if isinstance(self.technique, Pruning):
            settings[kind]["schedule"] = {
                type(self.technique.schedule).__name__: asdict(self.technique.schedule)
            }
        return {
            "technique": settings,
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            "learning_rate": self.learning_rate,
        }


def refine(
    classifier: Classifier,
    images: TrainingData,
    refinement: Refinement,
    directory: Path,
    *,
    teacher: Classifier | None = None,
    seed: int = 0,
    quiet: bool = False,
    within: Path | None = None,
) -> Classifier:
    """The classifier, trained on under a technique; the one given stays as it is.

    The weights of the last epoch are the result: those of an earlier one may not be pruned to the
    end. Its card tells what it was refined for (``training["refined"]``). The folder is that of a
    run (:mod:`keras_cls.training.run_folder`): the same call after a kill goes on, and gives the
    result at once where it is finished.

    Args:
        classifier: trained before.
        images: with the classifier's labels, in their order.
        refinement: what to train for, and how long.
        directory: the run's folder.
        teacher: whose answers it learns beside the labels, such as the network as it was before;
            None for the labels alone.
        seed: what the order of images and their variations are drawn from.
        quiet: show no progress.
        within: the folder that a message tells to go on with; None for ``directory``.

    Raises:
        TrainingStoppedError: a signal asked for a stop; all is saved.
        TrainingDivergedError: the loss is no number any more.
        ConfigError: the folder holds something else, or a run with other settings.
        ExportError: the network has no twin, or nothing in it for the technique.
    """
    refuse_unknown_layers(classifier.model)  # before Keras copies them, which may not know how
    folder = RunFolder(directory)
    request = {
        "classifier": classifier.digest(),
        "teacher": None if teacher is None else teacher.digest(),
        "seed": seed,
        **refinement.to_dict(),
    }
    with disk_errors_named(directory):
        folder.check(request)
        if folder.read_state().finished:
            return load(folder.classifier)
        with sole_owner(directory):
            folder.remove_leftovers()
            precision = _arithmetic_for(refinement.technique)
            if folder.read_state().checkpoint is not None:
                precision = folder.resolved_precision(precision)  # as it was begun
            resolved = {
                "data": {"digests": [fingerprint(images.train)]},
                "precision": precision,
            }
            if folder.read_state().checkpoint is not None:
                folder.check_data(resolved)
            folder.write_settings({"request": request, "resolved": resolved})
            return _trained(
                classifier,
                images,
                refinement,
                folder,
                teacher,
                precision,
                seed,
                quiet,
                within or directory,
            )


def _arithmetic_for(technique: Technique) -> Precision:
    """What is as good and fastest here; steps of int8 are small beside the rounding of bfloat16."""
    if not has_accelerator() and not isinstance(technique, Quantization):
        return choose_precision("auto")[0]
    return "float32"


def _trained(
    classifier: Classifier,
    images: TrainingData,
    refinement: Refinement,
    folder: RunFolder,
    teacher: Classifier | None,
    precision: Precision,
    seed: int,
    quiet: bool,
    within: Path,
) -> Classifier:
    state = folder.read_state()
    rule = classifier.preprocessing
    refined = starting_classifier(
        classifier, classifier.labels, None, None, multi_label=classifier.multi_label
    )
    refined.sample = classifier.sample
    before = classifier.training.get("refined", [])
    refined.training = {**classifier.training, "refined": [*before, refinement.to_dict()]}
    batch_size = min(refinement.batch_size, len(images.train))
    plan = Plan(refinement.epochs, steps_per_epoch(images.train, batch_size), batch_size)
    trainee = TwinTrainee(
        refined,
        refinement.technique,
        steps=plan.epochs * plan.steps,
        learning_rate=refinement.rate_for(refined.model),
        teacher=teacher,
        precision=precision,
    )
    if state.checkpoint is not None:
        load_checkpoint(folder.path / state.checkpoint, trainee.variables)
    recipe, _ = choose_recipe("auto", rule, len(images.train), trained=True)
    broken = BrokenImages()
    console = Console(quiet=quiet, stderr=True, soft_wrap=True)
    with ExitStack() as open_ones:
        open_ones.enter_context(training_errors_named(within, state, plan.batch_size, images))
        progress = TrainingProgress(
            console, plan.epochs, plan.steps, lambda: trainee.learning_rate, refined.multi_label
        )
        open_ones.callback(progress.close)
        run_epochs(
            trainee,
            Judge(refined, trainee.strategy, Workers(trainee.strategy)),
            training_batches(
                images.train,
                rule,
                recipe.augmentation,
                batch_size=plan.batch_size,
                seed=seed,
                first_step=state.epochs_done * plan.steps + state.step,
                broken=broken,
            ),
            evaluation_batches(images.validation, rule, plan.batch_size),
            plan,
            state,
            # Of a network that is pruned by and by an early epoch is better, and not what is asked.
            Recorder(folder, state, trainee, better=lambda row, kept: True),
            [progress],
            open_ones.enter_context(stop_requests()),
        )
    if said := broken.describe(images.train):
        console.print(said, markup=False, highlight=False)
    assert state.best is not None
    kept = load(folder.path / state.best)
    kept.save(folder.classifier)
    state.finished = True
    folder.write_state(state)
    return kept
