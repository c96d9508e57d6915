"""Inception v3 against keras.applications; Inception v2 against the paper's Table 1."""

from functools import partial

import keras
import numpy as np
import pytest
from inceptions import assert_gives, carry_over, settle

from keras_cls.architectures import build_model, count_multiply_adds, model_spec


@pytest.mark.parametrize(
    "size", [(139, 171), pytest.param((128, 128), marks=pytest.mark.slow)], ids=str
)
def test_v3_equals_keras_applications(size: tuple[int, int]) -> None:
    reference = keras.applications.InceptionV3(
        weights=None, input_shape=(*size, 3), classes=50, classifier_activation=None
    )
    settle(reference, seed=1)
    model = build_model("inception_v3", 50, (*size, 3))
    carry_over(reference, model, names_there={})
    assert_gives(model, partial(reference, training=False))


def test_v3_normalizes_as_the_release() -> None:
    model = build_model("inception_v3")
    layers = [x for x in model.layers if isinstance(x, keras.layers.BatchNormalization)]
    assert len(layers) == 94
    assert {(x.momentum, x.epsilon, x.center, x.scale) for x in layers} == {
        (0.9997, 1e-3, True, True)
    }
    assert {x.rate for x in model.layers if isinstance(x, keras.layers.Dropout)} == {0.2}


def test_auxiliary_head_has_the_releases_parameters() -> None:
    model = build_model("inception_v3", aux=True)
    assert set(model.output_names) == {"logits", "AuxLogits"}
    heads = [layer for layer in model.layers if layer.name.startswith("AuxLogits")]
    # TF-slim's 3,325,800, and a scale of each normalized channel.
    assert sum(w.value.shape.num_elements() for x in heads for w in x.trainable_weights) == (
        3_325_800 + 128 + 768
    )
    trainable = sum(w.value.shape.num_elements() for w in model.trainable_weights)
    assert trainable == 27_161_264  # torchvision's inception_v3
    tapped = model.get_layer("AuxLogits_AvgPool_1a_5x5")
    assert tapped.input is model.get_layer("Mixed_6e").output
    assert tapped.output.shape[1:] == (5, 5, 768)
    assert model.get_layer("AuxLogits_Conv2d_2a_5x5").output.shape[1:] == (1, 1, 768)


@pytest.mark.parametrize("size", [(75, 88), (331, 363)])
def test_auxiliary_head_takes_other_sizes(size: tuple[int, int]) -> None:
    model = build_model("inception_v3", 5, (*size, 1), aux=True)
    images = np.random.default_rng(0).normal(size=(2, *size, 1)).astype("f4")
    outputs = model(images)
    assert {name: tuple(logits.shape) for name, logits in outputs.items()} == {
        "logits": (2, 5),
        "AuxLogits": (2, 5),
    }
    assert all(np.isfinite(logits).all() for logits in outputs.values())
    assert np.abs(outputs["logits"] - outputs["AuxLogits"]).max() > 0


def test_v2_is_the_papers_table_1() -> None:
    spec, model = model_spec("inception_v2"), build_model("inception_v2")
    shapes = {
        "Conv2d_1a_3x3": (149, 149, 32),
        "Conv2d_2a_3x3": (147, 147, 32),
        "Conv2d_2b_3x3": (147, 147, 64),
        "MaxPool_3a_3x3": (73, 73, 64),
        "Conv2d_3b_3x3": (71, 71, 80),
        "Conv2d_4a_3x3": (35, 35, 192),
        "Conv2d_4b_3x3": (35, 35, 288),
        **{f"Mixed_5{letter}": (35, 35, 288) for letter in "bcd"},
        **{f"Mixed_6{letter}": (17, 17, 768) for letter in "abcdef"},
        "Mixed_7a": (8, 8, 1280),
        **{f"Mixed_7{letter}": (8, 8, 2048) for letter in "bc"},
    }
    assert [name for name, _ in spec.parts] == list(shapes)
    assert {name: model.get_layer(name).output.shape[1:] for name in shapes} == shapes
    assert spec.params_trainable < 25e6
    assert count_multiply_adds(model) / 1e9 == pytest.approx(3.8, abs=0.05)


def test_v2_factorizes_as_the_figures() -> None:
    names = {layer.name for layer in build_model("inception_v2").layers}

    def branches(module: str) -> list[str]:
        parts = (name.removeprefix(f"{module}_Branch_") for name in names if f"{module}_B" in name)
        return sorted(part for part in parts if not part.endswith(("_bn", "_relu")))

    lines = ("1x1", "1x7", "7x1", "1x7", "7x1")
    assert branches("Mixed_5b") == [
        "0_Conv2d_0a_1x1",
        "1_Conv2d_0a_1x1",
        "1_Conv2d_0b_3x3",
        "2_Conv2d_0a_1x1",
        "2_Conv2d_0b_3x3",
        "2_Conv2d_0c_3x3",
        "3_AvgPool_0a_3x3",
        "3_Conv2d_0b_1x1",
    ]
    assert branches("Mixed_6a") == [
        "0_Conv2d_0a_1x1",
        "0_Conv2d_1a_3x3",
        "1_Conv2d_0a_1x1",
        "1_Conv2d_0b_3x3",
        "1_Conv2d_1a_3x3",
        "2_MaxPool_1a_3x3",
    ]
    assert branches("Mixed_6b") == [
        "0_Conv2d_0a_1x1",
        *(f"1_Conv2d_0{letter}_{size}" for letter, size in zip("abc", lines[:3], strict=True)),
        *(f"2_Conv2d_0{letter}_{size}" for letter, size in zip("abcde", lines, strict=True)),
        "3_AvgPool_0a_3x3",
        "3_Conv2d_0b_1x1",
    ]
    assert branches("Mixed_7b") == [
        "0_Conv2d_0a_1x1",
        "1_Conv2d_0a_1x1",
        "1_Conv2d_0b_1x3",
        "1_Conv2d_0c_3x1",
        "2_Conv2d_0a_1x1",
        "2_Conv2d_0b_3x3",
        "2_Conv2d_0c_1x3",
        "2_Conv2d_0d_3x1",
        "3_AvgPool_0a_3x3",
        "3_Conv2d_0b_1x1",
    ]
