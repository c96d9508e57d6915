"""What holds of every network of the registry."""

import re
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from published import PUBLISHED

from keras_cls.architectures import build_model, count_multiply_adds, list_models, model_spec
from keras_cls.architectures.cells import set_drop_path_progress

NETWORKS = list_models()
# One or two of each builder in the default run.
DEFAULT = [name for name in NETWORKS if PUBLISHED[name].default]
# Building the largest ones takes seconds each.
COUNTED = [
    pytest.param(n, marks=pytest.mark.slow)
    if model_spec(n).multiply_adds > 4e9 and n not in DEFAULT
    else n
    for n in NETWORKS
]
PARAMS = [n if n in DEFAULT else pytest.param(n, marks=pytest.mark.slow) for n in NETWORKS]


@pytest.fixture(scope="module", params=COUNTED)
def built(request: pytest.FixtureRequest) -> keras.Model:
    """Each network in turn, one at a time in memory."""
    return build_model(request.param)


def size_of(variables: list) -> int:
    return sum(int(np.prod(variable.shape)) for variable in variables)


def test_counts_are_the_published_ones(built: keras.Model) -> None:
    spec, model, published = model_spec(built.name), built, PUBLISHED[built.name]
    assert size_of(model.trainable_variables) == spec.params_trainable == published.trainable
    assert size_of(model.weights) == spec.params_total  # without the seeds of dropout
    assert spec.params_total - spec.params_trainable == published.statistics
    assert count_multiply_adds(model) == spec.multiply_adds
    if published.millions is not None:
        assert spec.multiply_adds / 1e6 == pytest.approx(published.millions, rel=5e-4, abs=5e-4)


def test_layers_have_names_of_their_own(built: keras.Model) -> None:
    operations = built.operations
    for operation in operations:
        assert isinstance(operation, keras.layers.Layer), f"bare operation {operation.name}"
        assert not isinstance(operation, keras.layers.Lambda)
        automatic = keras.src.utils.naming.to_snake_case(type(operation).__name__)
        assert not re.fullmatch(rf"{automatic}(_\d+)?", operation.name), operation.name
    assert len({operation.name for operation in operations}) == len(operations)
    head = built.get_layer(model_spec(built.name).head)
    assert isinstance(head, keras.layers.Dense | keras.layers.Conv2D)


@pytest.mark.parametrize("name", PARAMS)
def test_features_are_the_endpoints(name: str) -> None:
    spec = model_spec(name)
    expected = PUBLISHED[name].endpoints
    model = build_model(name, features=True)
    outputs = model.compute_output_spec(model.input)
    assert {endpoint: tuple(x.shape[1:]) for endpoint, x in outputs.items()} == expected
    assert tuple(outputs) == spec.endpoints == tuple(expected)
    assert spec.head not in [layer.name for layer in model.layers]


@pytest.mark.parametrize("name", PARAMS)
@pytest.mark.parametrize(("channels", "more"), [(1, (13, 6)), (4, (0, 0))])
def test_takes_other_classes_channels_and_sizes(
    name: str, channels: int, more: tuple[int, int]
) -> None:
    height, width = (
        least + odd for least, odd in zip(model_spec(name).min_size, more, strict=True)
    )
    model = build_model(name, num_classes=7, input_shape=(height, width, channels))
    images = np.random.default_rng(0).normal(size=(2, height, width, channels)).astype("float32")
    logits = model(images).numpy()
    assert logits.shape == (2, 7)
    assert logits.dtype == np.float32
    assert np.isfinite(logits).all()
    assert np.abs(logits[0] - logits[1]).max() > 0


@pytest.mark.parametrize("name", PARAMS)
def test_gradients_reach_every_trainable_variable(name: str) -> None:
    keras.utils.set_random_seed(0)
    height, width = (max(2 * least, 16) for least in model_spec(name).min_size)
    model = build_model(name, num_classes=5, input_shape=(height, width, 3))
    set_drop_path_progress(model, 0)  # else a path may be dropped for every image
    images = tf.random.normal((4, height, width, 3))
    with tf.GradientTape() as tape:
        loss = keras.losses.sparse_categorical_crossentropy(
            tf.range(4), model(images, training=True), from_logits=True
        )
    trained = model.trainable_variables
    gradients = tape.gradient(loss, [variable.value for variable in trained])
    for variable, gradient in zip(trained, gradients, strict=True):
        assert gradient is not None, variable.path
        assert np.isfinite(gradient).all(), variable.path
        assert np.abs(gradient).max() > 0, variable.path


@pytest.mark.slow
@pytest.mark.parametrize(
    "names",
    [
        ["lenet5", "googlenet", "resnet20_cifar10"],
        pytest.param(NETWORKS, marks=pytest.mark.slow),
    ],
    ids=["some", "all"],
)
def test_saved_networks_load_in_a_fresh_interpreter(names: list[str], tmp_path: Path) -> None:
    images, logits = {}, {}
    for name in names:
        spec = model_spec(name)
        height, width = spec.min_size
        model = build_model(name, input_shape=(height, width, 3), aux=bool(spec.aux_heads))
        images[name] = np.random.default_rng(0).normal(size=(2, height, width, 3)).astype("f4")
        logits[name] = np.concatenate(keras.tree.flatten(model(images[name])), axis=-1)
        assert logits[name].shape == (2, spec.num_classes * (1 + len(spec.aux_heads)))
        model.save(tmp_path / f"{name}.keras")
    np.savez(tmp_path / "images.npz", **images)
    code = (
        "import keras_cls.architectures, keras, numpy as np, pathlib\n"
        f"folder = pathlib.Path({str(tmp_path)!r})\n"
        "images = np.load(folder / 'images.npz')\n"
        "logits = {}\n"
        "for name in images:\n"
        "    model = keras.saving.load_model(folder / f'{name}.keras')\n"
        "    found = keras.tree.flatten(model(images[name]))\n"
        "    logits[name] = np.concatenate(found, axis=-1)\n"
        "np.savez(folder / 'logits.npz', **logits)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    loaded = np.load(tmp_path / "logits.npz")
    for name in names:
        np.testing.assert_allclose(loaded[name], logits[name], rtol=1e-5, atol=1e-5)
        (tmp_path / f"{name}.keras").unlink()


@pytest.mark.parametrize("name", ["lenet5", "resnet18", "resnet20_cifar10"])
def test_logits_stay_float32_in_mixed_precision(name: str) -> None:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = build_model(name)
    finally:
        keras.config.set_dtype_policy(before)
    assert model.output.dtype == "float32"
    assert model.layers[3].compute_dtype == "bfloat16"
    assert {str(variable.dtype) for variable in model.variables} == {"float32"}
