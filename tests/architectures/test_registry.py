"""The registry: what it lists, describes and refuses."""

from dataclasses import replace

import keras
import numpy as np
import pytest

from keras_cls.architectures import _registry, build_model, list_models, model_spec
from keras_cls.architectures._registry import register
from keras_cls.architectures.lenet import LENET5
from keras_cls.architectures.spec import Network
from keras_cls.errors import ConfigError


def test_lists_sorted_names_by_pattern() -> None:
    assert list_models() == sorted(list_models())
    assert {"lenet5", "resnet50", "resnet20_cifar10"} <= set(list_models())
    assert list_models("resnet1??") == ["resnet101", "resnet152"]
    assert list_models("no such*") == []


@pytest.mark.parametrize("name", ["resnet51", "ResNet50", "resnet-50", 50, None, ["resnet50"]])
def test_unknown_name_gets_a_suggestion_or_the_list(name: object) -> None:
    with pytest.raises(ConfigError, match="resnet50"):
        model_spec(name)


@pytest.mark.parametrize("name", list_models())
def test_spec_is_coherent(name: str) -> None:
    spec = model_spec(name)
    assert spec.name == name
    assert spec.preprocessing.size == spec.input_shape[:2]
    assert len(spec.preprocessing.mean) in (1, spec.input_shape[2])
    assert all(least <= side for least, side in zip(spec.min_size, spec.input_shape, strict=False))
    assert spec.params_total >= spec.params_trainable
    assert spec.paper.url.startswith("https://")
    for error in spec.reported:
        known = [figure for figure in (error.top5, error.top1) if figure is not None]
        assert known and known == sorted(known)
        assert all(0 < figure < 100 for figure in known)
        assert error.source


@pytest.mark.parametrize("num_classes", [0, -1, True, 2.0, "10", [10]])
def test_refuses_num_classes(num_classes: object) -> None:
    with pytest.raises(ConfigError, match="lenet5: num_classes: expected an integer"):
        build_model("lenet5", num_classes=num_classes)


def test_takes_integers_of_numpy() -> None:
    model = build_model("lenet5", np.int64(3), (np.int32(32), 40, 3))
    assert model.output_shape == (None, 3)


@pytest.mark.parametrize(
    ("input_shape", "expected"),
    [
        (32, "three integers"),
        ((32, 32), "three integers"),
        ((32, 32, 3, 1), "three integers"),
        ((32.0, 32, 3), "three integers"),
        ((None, None, 3), "three integers"),
        ((32, 32, True), "three integers"),
        ("abc", "three integers"),
        ((3, 32, 32), "1, 3 or 4 channels"),
        ((32, 32, 2), "1, 3 or 4 channels"),
        ((31, 32, 3), "32 x 32 or larger"),
        ((32, 0, 3), "32 x 32 or larger"),
    ],
)
def test_refuses_input_shape(input_shape: object, expected: str) -> None:
    with pytest.raises(ConfigError, match=f"lenet5: input_shape: expected {expected}"):
        build_model("lenet5", input_shape=input_shape)


def test_refuses_auxiliary_heads_where_there_are_none() -> None:
    with pytest.raises(ConfigError, match="lenet5: aux: expected False"):
        build_model("lenet5", aux=True)
    with pytest.raises(ConfigError, match="features and aux"):
        build_model("lenet5", features=True, aux=True)


def test_auxiliary_heads_come_only_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_registry, "_SPECS", {})
    monkeypatch.setattr(_registry, "_BUILDERS", {})

    @register(replace(LENET5, name="with_aux", aux_heads=("aux1",)))
    def build(images, spec, num_classes, aux=False):
        x = keras.layers.GlobalAveragePooling2D(name="pool")(images)
        logits = keras.layers.Dense(num_classes, name=spec.head)(x)
        heads = {"aux1": keras.layers.Dense(num_classes, name="aux1")(x)} if aux else {}
        return Network(logits, {"images": images}, heads)

    assert build_model("with_aux").output_shape == (None, 10)
    model = build_model("with_aux", 3, aux=True)
    outputs = model.compute_output_spec(model.input)
    assert {name: x.shape for name, x in outputs.items()} == {
        "logits": (None, 3),
        "aux1": (None, 3),
    }


def test_two_networks_cannot_share_a_name() -> None:
    with pytest.raises(ValueError, match="lenet5"):
        register(LENET5)(lambda images, spec, num_classes: Network(None, {}))
