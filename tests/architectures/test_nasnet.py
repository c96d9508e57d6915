"""NASNet against keras.applications, and against slim's way written out in NumPy."""

import re
from dataclasses import replace
from functools import partial

import keras
import numpy as np
import pytest
from cells_in_numpy import InNumpy
from residual import assert_gives, randomise

from keras_cls.architectures import build_model, model_spec
from keras_cls.architectures.cells import Cell, cell_network
from keras_cls.architectures.nasnet import REDUCTION, REDUCTION_OF_KERAS, nasnet


def name_in_keras(ours: str, repeats: int) -> str:
    """cell_3_comb_iter_0_left_separable_5x5_1 -> separable_conv_1_normal_left1_3."""
    alone = {"conv0": "stem_conv1", "conv0_bn": "stem_bn1", "logits": "predictions"}
    if ours in alone:
        return alone[ours]
    sort, number, layer = re.fullmatch(r"(cell|cell_stem|reduction_cell)_(\d+)_(.+)", ours).groups()
    number = int(number)
    kind = "normal" if sort == "cell" else "reduction"
    place = {
        "cell_stem": f"stem_{number + 1}",
        "reduction_cell": f"reduce_{repeats * (number + 1)}",
        "cell": str(number if number < repeats else number + 1),
    }[sort]
    beginnings = {
        "1x1": f"{kind}_conv_1",
        "beginning_bn": f"{kind}_bn_1",
        "prev_1x1": "adjust_conv_projection",
        "prev_bn": "adjust_bn",
        "path1_conv": "adjust_conv_1",
        "path2_conv": "adjust_conv_2",
        "final_path_bn": "adjust_bn",
    }
    if layer in beginnings:
        return f"{beginnings[layer]}_{place}"
    block, side, what, half = re.fullmatch(
        r"comb_iter_(\d)_(left|right)_(separable|bn_sep)_\dx\d_(\d)", layer
    ).groups()
    # The last block of the reduction cell is called 4 there, as the one before.
    block = min(int(block) + 1, 4 if kind == "reduction" else 5)
    bn = "_bn" if what == "bn_sep" else ""
    return f"separable_conv_{half}{bn}_{kind}_{side}{block}_{place}"


def carry_over(reference: keras.Model, model: keras.Model, repeats: int) -> None:
    used = set()
    for layer in model.layers:
        if layer.weights:
            used.add(name_in_keras(layer.name, repeats))
            layer.set_weights(reference.get_layer(name_in_keras(layer.name, repeats)).get_weights())
    assert used == {layer.name for layer in reference.layers if layer.weights}


def leave_the_padding_out(reference: keras.Model) -> None:
    """Pool in the strided cells as the release does: the padding there becomes SAME's."""
    pools = 0
    for layer in reference.layers:
        if layer.name.startswith("reduction_pad_1_"):
            layer.padding = ((0, 0), (0, 0))
        elif re.match("reduction_(left2|left3|right5)_", layer.name):
            layer.padding = "same"
            pools += 1
    assert pools == 12


MOBILE = ("nasnet_mobile", keras.applications.NASNetMobile)
LARGE = ("nasnet_large", keras.applications.NASNetLarge)


def compare(name: str, application, size: tuple[int, int], reduction: Cell) -> None:
    reference = application(
        weights=None, input_shape=(*size, 3), classes=50, classifier_activation=None
    )
    randomise(reference, seed=1)
    if reduction == REDUCTION:
        leave_the_padding_out(reference)
    spec = replace(model_spec(name), reduction=reduction)
    images = keras.Input((*size, 3))
    model = keras.Model(images, nasnet(images, spec, 50).logits)
    carry_over(reference, model, spec.repeats)
    assert_gives(model, partial(reference, training=False))


@pytest.mark.parametrize(
    ("name", "application", "size"),
    [
        pytest.param(*MOBILE, (75, 96), marks=pytest.mark.slow),
        pytest.param(*MOBILE, (224, 224), marks=pytest.mark.slow),
        pytest.param(*LARGE, (96, 75), marks=pytest.mark.slow),
        pytest.param(*LARGE, (331, 331), marks=pytest.mark.slow),
    ],
)
def test_equals_keras_applications(name: str, application, size: tuple[int, int]) -> None:
    assert model_spec(name).reduction == REDUCTION_OF_KERAS
    compare(name, application, size, REDUCTION_OF_KERAS)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "application", "size"), [(*MOBILE, (224, 224)), (*LARGE, (96, 75))]
)
def test_the_releases_padding_is_the_other_variant(
    name: str, application, size: tuple[int, int]
) -> None:
    compare(name, application, size, REDUCTION)


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize(("repeats", "size"), [(1, (45, 38)), (2, (64, 33))])
def test_small_networks_are_slims(skip: bool, repeats: int, size: tuple[int, int]) -> None:
    spec = replace(
        model_spec("nasnet_mobile"),
        reduction=REDUCTION,
        repeats=repeats,
        filters=8,
        skip_reduction=skip,
        endpoints=(),
    )
    images = keras.Input((*size, 3))
    model = keras.Model(images, cell_network(images, spec, 7).logits)
    randomise(model, seed=1)
    second = InNumpy(model, epsilon=1e-3)
    assert_gives(model, lambda x: second.nasnet(x, repeats, 8, skip))
    assert second.read == set(second.weights)


def small(name: str, shape: tuple[int, int, int], aux: bool = False) -> keras.Model:
    spec = replace(model_spec(name), repeats=1, filters=8, endpoints=())
    images = keras.Input(shape)
    network = cell_network(images, spec, 5, aux)
    return keras.Model(images, {"logits": network.logits, **network.aux})


def test_cifar_normalizes_in_its_own_way() -> None:
    for name, expected in (("nasnet_cifar10", (0.9, 1e-5)), ("nasnet_large", (0.9997, 1e-3))):
        layers = small(name, (32, 32, 3)).layers
        found = [x for x in layers if isinstance(x, keras.layers.BatchNormalization)]
        assert {(x.momentum, x.epsilon) for x in found} == {expected}


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("nasnet_mobile", 2_411_240),
        pytest.param("nasnet_cifar10", 1_631_498, marks=pytest.mark.slow),
        pytest.param("nasnet_large", 4_567_784, marks=pytest.mark.slow),
    ],
)
def test_auxiliary_head(name: str, params: int) -> None:
    model = build_model(name, aux=True)
    assert list(model.output) == ["logits", "aux_logits"]
    aux = [x for x in model.trainable_weights if x.path.startswith("aux_")]
    assert sum(int(np.prod(x.shape)) for x in aux) == params


@pytest.mark.parametrize("shape", [(32, 32, 1), (75, 130, 3)])
def test_auxiliary_head_at_other_sizes(shape: tuple[int, int, int]) -> None:
    logits = small("nasnet_mobile", shape, aux=True)(np.zeros((2, *shape), "f4"))
    assert {name: x.shape for name, x in logits.items()} == {"logits": (2, 5), "aux_logits": (2, 5)}
