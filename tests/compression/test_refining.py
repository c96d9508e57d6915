"""Training under a technique, by the project's own pipeline, with resume."""

from contextlib import nullcontext
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from runs import digits, stop_after

import keras_cls
from keras_cls.classifier import Classifier
from keras_cls.compression import refining
from keras_cls.compression.refining import Refinement, refine
from keras_cls.compression.settings import Clustering, PolynomialDecay, Pruning, Quantization
from keras_cls.compression.twin_trainee import TwinTrainee
from keras_cls.data.opening import TrainingData, open_training_data
from keras_cls.data.pipeline import evaluation_batches
from keras_cls.errors import ConfigError
from keras_cls.training.precision import choose_precision

PRUNING = Pruning(0.8, PolynomialDecay(end_step=10, frequency=2))


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    run = keras_cls.train(
        "lenet5",
        digits(400),
        epochs=3,
        batch_size=32,
        run_dir=tmp_path_factory.mktemp("lenet5") / "run",
        quiet=True,
    )
    return run.classifier


@pytest.fixture(scope="module")
def images(classifier: Classifier, tmp_path_factory: pytest.TempPathFactory) -> TrainingData:
    return open_training_data(
        digits(400),
        labels=list(classifier.labels),
        cache=tmp_path_factory.mktemp("cache"),
        seed=0,
    )


def kernels(classifier: Classifier) -> list[np.ndarray]:
    return [np.asarray(each) for each in classifier.model.weights if each.name == "kernel"]


def refined(
    classifier: Classifier, images: TrainingData, folder: Path, *techniques: object
) -> Classifier:
    for place, technique in enumerate(techniques):
        refinement = Refinement(technique, epochs=2, batch_size=32)
        classifier = refine(classifier, images, refinement, folder / str(place), quiet=True)
    return classifier


def test_pruned_by_and_by_to_the_share(classifier, images, tmp_path) -> None:
    before = classifier.digest()
    found = refined(classifier, images, tmp_path, PRUNING)
    assert classifier.digest() == before, "it stays as it is"
    for kernel in kernels(found):
        assert np.mean(kernel == 0) == pytest.approx(0.8, abs=1 / kernel.size)
    assert found.labels == classifier.labels and found.preprocessing == classifier.preprocessing
    assert np.array_equal(found.sample, classifier.sample)
    assert "refined" not in classifier.training
    (told,) = keras_cls.load(found.save(tmp_path / "saved")).training["refined"]
    assert told["technique"]["Pruning"]["sparsity"] == 0.8 and told["epochs"] == 2


@pytest.mark.slow
def test_zeros_and_clusters_outlast_all_that_follows(classifier, images, tmp_path) -> None:
    found = refined(
        classifier,
        images,
        tmp_path,
        PRUNING,
        Clustering(8, preserve_sparsity=True),
        Quantization(preserve_sparsity=True, preserve_clusters=True),
    )
    zeros = [np.mean(kernel == 0) for kernel in kernels(found)]
    assert min(zeros) > 0.79
    clustered = refined(
        classifier, images, tmp_path, PRUNING, Clustering(8, preserve_sparsity=True)
    )
    for kernel in kernels(clustered):
        assert len(np.unique(kernel)) <= 8


@pytest.mark.slow
def test_a_teacher_is_listened_to(classifier, images, tmp_path) -> None:
    refinement = Refinement(Quantization(), epochs=1, batch_size=32)
    found = [
        refine(classifier, images, refinement, tmp_path / name, teacher=teacher, quiet=True)
        for name, teacher in (("alone", None), ("taught", classifier))
    ]
    assert found[0].digest() != found[1].digest()
    far = [
        np.abs(each.probabilities(digits(100)[0]) - classifier.probabilities(digits(100)[0])).mean()
        for each in found
    ]
    assert far[1] < far[0], "closer to the teacher's answers"


def test_a_step_in_bfloat16_is_close_and_leaves_no_switch(classifier, images) -> None:
    batch = next(iter(evaluation_batches(images.train, classifier.preprocessing, 32)))
    switches = tf.config.optimizer.get_experimental_options
    before = switches().get("auto_mixed_precision_onednn_bfloat16", False)
    figures = {}
    for precision in ("float32", "bfloat16"):
        trainee = TwinTrainee(
            classifier, Pruning(0.5), steps=3, learning_rate=0.01, precision=precision
        )
        figures[precision] = [trainee.step(batch).numpy() for _ in range(3)]
        assert switches().get("auto_mixed_precision_onednn_bfloat16", False) == before
        assert all(variable.dtype == tf.float32 for variable in trainee.network.trainable_weights)
    np.testing.assert_allclose(figures["bfloat16"], figures["float32"], rtol=0.05)
    if choose_precision("auto")[0] == "bfloat16":
        assert not np.array_equal(figures["bfloat16"], figures["float32"])


def test_regularizers_count_and_layers_are_not_called_again_and_again() -> None:
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(8, 3, name="conv", kernel_regularizer=keras.regularizers.L2(1.0))(
        inputs
    )
    x = keras.layers.BatchNormalization(name="norm")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, keras.layers.Dense(3, name="logits")(x))
    classifier = Classifier(model, ["a", "b", "c"], keras_cls.Preprocessing(size=8))
    penalty = float(tf.reduce_sum(tf.square(model.get_layer("conv").kernel)))
    trainee = TwinTrainee(classifier, Clustering(4), steps=2, learning_rate=1e-9)
    batch = tf.zeros((2, 8, 8, 3)), tf.one_hot([0, 1], 3)
    loss = float(trainee.step(batch)[0]) / 2
    assert loss == pytest.approx(np.log(3) + penalty, rel=0.1)
    called = [len(layer.inbound_nodes) for layer in trainee.network.layers]
    for _ in range(3):
        trainee.hand_over()
    assert [len(layer.inbound_nodes) for layer in trainee.network.layers] == called
    assert len(np.unique(model.get_layer("conv").kernel)) <= 4


def test_normalization_within_a_model_counts() -> None:
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3)(inputs)
    body = keras.Model(inputs, keras.layers.BatchNormalization()(x), name="body")
    outer = keras.Input((8, 8, 3))
    x = keras.layers.GlobalAveragePooling2D()(body(outer))
    model = keras.Model(outer, keras.layers.Dense(3)(x))
    assert Refinement(Pruning()).rate_for(model) == Refinement(Pruning()).rate_for(body) == 0.05


def test_a_run_keeps_the_arithmetic_it_was_begun_in(
    classifier, images, tmp_path, monkeypatch
) -> None:
    taken = []

    class Noted(TwinTrainee):
        def __init__(self, *arguments, precision, **settings) -> None:
            taken.append(precision)
            super().__init__(*arguments, precision=precision, **settings)

    monkeypatch.setattr(refining, "TwinTrainee", Noted)
    refinement = Refinement(Clustering(8), epochs=2, batch_size=32)
    for here, stop in (("bfloat16", 1), ("float32", None)):
        monkeypatch.setattr(refining, "choose_precision", lambda _, here=here: (here, ""))
        with monkeypatch.context() as patched:
            if stop:
                stop_after(patched, stop)
            with pytest.raises(KeyboardInterrupt) if stop else nullcontext():
                refine(classifier, images, refinement, tmp_path / "run", quiet=True)
    assert taken == ["bfloat16", "bfloat16"]


@pytest.mark.parametrize(
    "technique",
    [
        PRUNING,
        pytest.param(Clustering(8), marks=pytest.mark.slow),
        pytest.param(Quantization(), marks=pytest.mark.slow),
    ],
    ids=["prune", "cluster", "quantize"],
)
def test_a_killed_run_goes_on_and_ends_alike(
    classifier, images, tmp_path, monkeypatch, technique
) -> None:
    undisturbed = refined(classifier, images, tmp_path / "undisturbed", technique)
    with monkeypatch.context() as patched:
        stop_after(patched, 1)
        with pytest.raises(KeyboardInterrupt):
            refined(classifier, images, tmp_path / "killed", technique)
    found = refined(classifier, images, tmp_path / "killed", technique)
    for one, other in zip(found.model.get_weights(), undisturbed.model.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_a_finished_run_is_read_and_other_settings_are_refused(
    classifier, images, tmp_path, monkeypatch
) -> None:
    first = refined(classifier, images, tmp_path, PRUNING)
    monkeypatch.setattr("keras_cls.compression.refining._trained", None)
    again = refined(classifier, images, tmp_path, PRUNING)
    assert again.digest() == first.digest()
    with pytest.raises(ConfigError, match=r"technique was .* is now"):
        refined(classifier, images, tmp_path, Pruning(0.5))
