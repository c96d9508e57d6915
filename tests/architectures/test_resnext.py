"""ResNeXt against a forward pass in NumPy."""

from functools import partial

import pytest
from residual import assert_gives, forward, randomise, weights_of

from keras_cls.architectures import build_model


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("resnext50_32x4d", (75, 49)),
        pytest.param("resnext50_32x4d", (96, 64), marks=pytest.mark.slow),
        pytest.param("resnext101_32x4d", (75, 49), marks=pytest.mark.slow),
    ],
)
def test_equals_numpy(name: str, size: tuple[int, int]) -> None:
    model = build_model(name, 50, (*size, 3))
    randomise(model, seed=0)
    assert_gives(model, partial(forward, weights_of(model), strided=2, pool="centred"))


def test_a_group_has_four_channels_for_each_64_of_the_stage() -> None:
    model = build_model("resnext50_32x4d")
    for stage, width in ((2, 64), (3, 128), (4, 256), (5, 512)):
        layer = model.get_layer(f"conv{stage}_1_conv2")
        assert layer.groups == 32
        assert layer.kernel.shape == (3, 3, 4 * width // 64, 2 * width)
