"""Files that Keras writes or wrote, and files that only look so."""

import string
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keras_cls.errors import ConfigError
from keras_cls.weights import formats
from keras_cls.weights.formats import WeightsFile, keras_h5
from keras_cls.weights.formats.keras_h5 import numbers_variables


def network() -> keras.Model:
    """A dozen layers of one class, so that the tenth must not come before the second."""
    images = keras.Input((8, 8, 3))
    x = images
    for number in range(12):
        x = keras.layers.Conv2D(2, 1, use_bias=number % 2 == 0, name=f"conv{number}")(x)
    x = keras.layers.BatchNormalization(scale=False, name="bn")(x)
    x = keras.layers.SeparableConv2D(3, 3, use_bias=False, name="separable")(x)
    x = keras.layers.Dropout(0.5, name="dropout")(x)
    x = keras.layers.Dense(4, name="head")(keras.layers.GlobalAveragePooling2D(name="pool")(x))
    model = keras.Model(images, x, name="dozen")
    random = np.random.default_rng(0)
    for variable in model.variables:
        if variable.dtype == "float32":
            variable.assign(random.normal(size=variable.shape))
    return model


@pytest.mark.parametrize("ending", [".h5", ".weights.h5", ".keras"])
@pytest.mark.parametrize("trained", [False, True])
def test_reads_what_keras_writes(ending: str, trained: bool, tmp_path: Path) -> None:
    model = network()
    if trained:
        model.compile("adam", "mse")
        model.optimizer.build(model.trainable_variables)
    path = tmp_path / f"network{ending}"
    (model.save_weights if ending == ".weights.h5" else model.save)(path)
    file = formats.read(path)
    assert (file.ending, file.network) == (ending, "dozen")
    assert numbers_variables(file) == (ending != ".h5")
    expected = {
        f"{layer.name}/{variable.name if ending == '.h5' else index}": variable.numpy()
        for layer in model.layers
        for index, variable in enumerate(layer.weights)
    }
    assert set(file.tensors) == set(expected)
    for key, tensor in file.tensors.items():
        np.testing.assert_array_equal(tensor, expected[key])
    convolutions = [key.partition("/")[0] for key in file.tensors if key.startswith("conv")]
    assert list(dict.fromkeys(convolutions)) == [f"conv{number}" for number in range(12)]


def earlier(path: Path, layers: dict[str, dict[str, np.ndarray]], **attributes: object) -> Path:
    """The layout before Keras 3: layer -> weight's own name -> values."""
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [layer.encode() for layer in layers]
        for name, value in attributes.items():
            file.attrs[name] = value
        for layer, weights in layers.items():
            group = file.create_group(layer)
            group.attrs["weight_names"] = [weight.encode() for weight in weights]
            for weight, value in weights.items():
                group[weight] = value
    return path


@pytest.mark.parametrize(
    ("layer", "weight", "key"),
    [
        ("conv1", "conv1/kernel:0", "conv1/kernel"),
        ("conv1", "conv1_3/kernel:0", "conv1/kernel"),  # built a second time in one graph
        ("conv1", "block_1/inner/conv1/kernel:0", "conv1/kernel"),
        ("conv1", "kernel", "conv1/kernel"),
        ("sep", "sep/depthwise_kernel:0", "sep/depthwise_kernel"),
        ("block1_conv1", "block1_conv1_W_1:0", "block1_conv1/kernel"),
        ("block1_conv1", "block1_conv1_b_1:0", "block1_conv1/bias"),
        ("bn", "bn_gamma:0", "bn/gamma"),
        ("bn", "bn_running_mean:0", "bn/moving_mean"),
        ("bn", "bn_running_std:0", "bn/moving_variance"),
        ("bn", "bn/moving_variance:0", "bn/moving_variance"),
        ("block/conv", "block/conv/bias:0", "block/conv/bias"),
    ],
)
def test_names_of_all_times_are_todays(layer: str, weight: str, key: str, tmp_path: Path) -> None:
    path = earlier(tmp_path / "network.h5", {layer: {weight: np.arange(3.0)}})
    assert list(formats.read(path).tensors) == [key]


def test_the_layout_counts_and_not_the_name(tmp_path: Path) -> None:
    path = earlier(tmp_path / "network.weights.h5", {"conv": {"conv/kernel:0": np.ones(3)}})
    assert not numbers_variables(formats.read(path))
    network().save_weights(tmp_path / "other.weights.h5")
    (tmp_path / "other.weights.h5").rename(tmp_path / "other.h5")
    assert numbers_variables(formats.read(tmp_path / "other.h5"))


def test_long_lists_lie_in_several_attributes(tmp_path: Path) -> None:
    path = earlier(tmp_path / "network.h5", {f"c{n}": {"kernel:0": np.ones(1)} for n in range(5)})
    with h5py.File(path, "r+") as file:
        names = file.attrs["layer_names"]
        del file.attrs["layer_names"]
        file.attrs["layer_names0"], file.attrs["layer_names1"] = names[:3], names[3:]
    assert list(formats.read(path).tensors) == [f"c{n}/kernel" for n in range(5)]


def test_bfloat16_is_read(tmp_path: Path) -> None:
    values = np.array([1.0, -2.5, 3e38], np.float32)
    path = earlier(tmp_path / "network.h5", {"conv": {}})
    with h5py.File(path, "r+") as file:
        file["conv"].attrs["weight_names"] = [b"kernel"]
        halves = (values.view(np.uint32) >> 16).astype(np.uint16).view("V2")
        file["conv"].create_dataset("kernel", data=halves).attrs["dtype"] = "bfloat16"
    found = formats.read(path).tensors["conv/kernel"]
    np.testing.assert_allclose(found, values, rtol=2**-7)


names = st.text(string.ascii_letters + string.digits + "_äπ ", min_size=1, max_size=12).filter(
    lambda name: name.strip() == name
)


@given(layers=st.lists(names, min_size=1, max_size=8, unique=True))
@settings(max_examples=10, deadline=None)
def test_layers_keep_their_order_and_values(
    layers: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("named") / "network.h5"
    earlier(path, {name: {f"{name}/kernel:0": np.full(2, n)} for n, name in enumerate(layers)})
    tensors = formats.read(path).tensors
    assert list(tensors) == [f"{name}/kernel" for name in layers]
    assert [tensor[0] for tensor in tensors.values()] == list(range(len(layers)))


# --- What is refused ------------------------------------------------------------------------------


def refusal(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        formats.read(path)
    assert str(caught.value).startswith(f"{path}: weights: ")
    return str(caught.value)


@pytest.mark.parametrize("ending", [".h5", ".weights.h5", ".keras"])
def test_a_network_inside_a_model_is_refused(ending: str, tmp_path: Path) -> None:
    around = keras.Sequential([keras.Input((8, 8, 3)), network(), keras.layers.Dense(2)])
    path = tmp_path / f"around{ending}"
    (around.save_weights if ending == ".weights.h5" else around.save)(path)
    message = refusal(path)
    assert "has layers inside" in message
    assert "expected the network by itself" in message


def change(change: Callable[[h5py.File], object], path: Path) -> str:
    with h5py.File(path, "r+") as file:
        change(file)
    return refusal(path)


def replaced(group: str, name: str, **dataset: object) -> Callable[[h5py.File], object]:
    def change(file: h5py.File) -> None:
        del file[group][name]
        file[group].create_dataset(name, **dataset)

    return change


def linked(link: object) -> Callable[[h5py.File], object]:
    def change(file: h5py.File) -> None:
        del file["conv/kernel"]
        file["conv"]["kernel"] = link

    return change


VIRTUAL = h5py.VirtualLayout((3,), "f4")
VIRTUAL[:] = h5py.VirtualSource("secret.h5", "0", (3,))
HUGE = {"shape": (2**20, 2**13), "dtype": "f4"}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: f.attrs.__setitem__("layer_names", 5), "layer_names of /: expected a list"),
        (lambda f: f.attrs.__setitem__("layer_names", "conv"), "layer_names of /: expected a list"),
        (lambda f: f.attrs.__setitem__("layer_names", [1, 2]), "layer_names of /: expected names"),
        (lambda f: f.attrs.__setitem__("layer_names", [b"\xff"]), "expected UTF-8"),
        (lambda f: f.attrs.__setitem__("layer_names", [b"no"]), "expected a group 'no' in /"),
        (lambda f: f.attrs.__setitem__("layer_names", [b"", b"x"]), "expected a group ''"),
        (lambda f: f.attrs.__setitem__("layer_names", [b"conv"] * 2), "two tensors conv/kernel"),
        (lambda f: f.attrs.__delitem__("layer_names"), "expected weights saved by Keras"),
        (lambda f: f.attrs.__setitem__("backend", "theano"), "saved by Keras on Theano"),
        (lambda f: f["conv"].attrs.__delitem__("weight_names"), "/conv has no list weight_names"),
        (
            lambda f: f["conv"].attrs.__setitem__("weight_names", [b"no"]),
            "conv/no: expected numbers, found nothing",
        ),
        (
            lambda f: f["conv"].attrs.__setitem__("weight_names", [b"/conv"]),
            "expected numbers, found a group",
        ),
        (
            lambda f: f["conv"].attrs.__setitem__("weight_names", [b"kernel", b"kernel_1"]),
            "two tensors conv/kernel",
        ),
        (linked(h5py.SoftLink("/conv/bias")), "conv/kernel is a link"),
        (linked(h5py.ExternalLink("secret.h5", "/0")), "conv/kernel is a link"),
        (lambda f: f.__setitem__("unused", h5py.SoftLink("/conv")), "unused is a link"),
        (
            replaced("conv", "kernel", shape=(3,), dtype="u1", external=[("secret.h5", 0, 3)]),
            "lies in another file",
        ),
        (
            lambda f: (
                f["conv"].pop("kernel"),
                f["conv"].create_virtual_dataset("kernel", VIRTUAL),
            ),
            "lies in another file",
        ),
        (replaced("conv", "kernel", data="text"), "expected numbers, found object"),
        (replaced("conv", "kernel", data=np.array([b"a", b"b"])), "expected numbers, found |S1"),
        (replaced("conv", "kernel", data=h5py.Empty("f4")), "expected numbers"),
        (
            replaced("conv", "kernel", shape=(3,), dtype=h5py.vlen_dtype("f4")),
            "expected numbers, found object",
        ),
        (replaced("conv", "kernel", **HUGE), "would take 34,359,738,3"),
        (
            replaced("conv", "kernel", **HUGE, chunks=(2**10, 2**10), compression="gzip"),
            "would take 34,359,738,3",
        ),
        (replaced("conv", "kernel", shape=(2**40, 2**40), dtype="f4", chunks=(1, 1)), "would take"),
    ],
)
def test_what_no_keras_wrote_is_refused(
    spoil: Callable[[h5py.File], object], message: str, tmp_path: Path
) -> None:
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["0"] = np.zeros(3, "f4")
    weights = {"kernel": np.ones(3, "f4"), "bias": np.ones(3, "f4")}
    path = earlier(tmp_path / "network.h5", {"conv": weights})
    formats.read(path)
    assert message in change(spoil, path)


def test_one_tensor_under_many_names_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keras_h5, "_ALWAYS_ALLOWED_BYTES", 1 << 20)
    path = earlier(tmp_path / "network.h5", {"conv": {"kernel": np.ones(1 << 18, "f4")}})
    with h5py.File(path, "r+") as file:
        layers = [f"layer{number}" for number in range(120)]
        for layer in layers:
            file[layer] = file["conv"]
        file.attrs["layer_names"] = layers
    assert "would take 125,829,120 bytes" in refusal(path)


def test_zeros_may_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keras_h5, "_ALWAYS_ALLOWED_BYTES", 1 << 20)
    path = earlier(tmp_path / "network.h5", {"conv": {}})
    zeros = np.zeros(1 << 21, np.float32)
    with h5py.File(path, "r+") as file:
        file["conv"].attrs["weight_names"] = [b"kernel"]
        file["conv"].create_dataset("kernel", data=zeros, compression="gzip")
    assert "100 times what is stored" in refusal(path)
    with zipfile.ZipFile(tmp_path / "network.keras", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model.weights.h5", zeros.tobytes())
    assert "model.weights.h5 would take 8,388,608 bytes" in refusal(tmp_path / "network.keras")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: f["layers/dense/vars"].attrs.__delitem__("name"), "does not say its layer's"),
        (lambda f: f["layers/dense/vars"].attrs.__setitem__("name", 5), "does not say its layer's"),
        (lambda f: f["layers/dense/vars"].attrs.__setitem__("name", "bn"), "two tensors bn/0"),
        (lambda f: f["layers/dense/vars"].create_group("2"), "head/2: expected numbers"),
        (lambda f: f.__setitem__("layers/new", np.ones(1)), "expected a group 'new' in /layers"),
        (lambda f: f.__setitem__("layers/new/vars", 1.0), "has layers inside (vars)"),
        (
            replaced("layers/dense/vars", "0", shape=(1,), dtype="u1", external=[("s", 0, 1)]),
            "lies in another file",
        ),
        (lambda f: f.__setitem__("layers/x", h5py.SoftLink("/vars")), "is a link"),
    ],
)
def test_what_keras_3_did_not_write_is_refused(
    spoil: Callable[[h5py.File], object], message: str, tmp_path: Path
) -> None:
    network().save_weights(tmp_path / "network.weights.h5")
    assert message in change(spoil, tmp_path / "network.weights.h5")


def test_an_archive_without_weights_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "network.keras", "w") as archive:
        archive.writestr("config.json", "{}")
    assert "not a .keras file" in refusal(tmp_path / "network.keras")


@pytest.mark.parametrize("config", ["{", "[" * 100_000, "[]", '{"config": []}', "5", "null"])
def test_a_configuration_is_not_needed(config: str, tmp_path: Path) -> None:
    path = earlier(tmp_path / "network.h5", {"conv": {"kernel": np.ones(3)}})
    with h5py.File(path, "r+") as file:
        file.attrs["model_config"] = config
    assert formats.read(path).network is None


def test_a_file_that_the_library_never_finishes_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keras_h5, "_MOST_SECONDS", 0.001)  # any file is one, then
    path = earlier(tmp_path / "network.h5", {"conv": {"kernel": np.ones(3)}})
    assert "has not read its structure after" in refusal(path)


@pytest.fixture(scope="module", params=[".h5", ".weights.h5"])
def content(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("whole") / f"network{request.param}"
    (network().save if request.param == ".h5" else network().save_weights)(path)
    return path.read_bytes()


@given(data=st.data())
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_damaged_files_end_in_words(data: st.DataObject, content: bytes, tmp_path: Path) -> None:
    spoilt = bytearray(content[: data.draw(st.integers(0, len(content)))])
    for place in data.draw(st.lists(st.integers(0, max(len(spoilt) - 1, 0)), max_size=20)):
        if spoilt:
            spoilt[place] = data.draw(st.integers(0, 255))
    path = tmp_path / "spoilt.h5"
    path.write_bytes(spoilt)
    try:
        assert isinstance(formats.read(path), WeightsFile)
    except ConfigError as error:
        assert str(path) in str(error)
