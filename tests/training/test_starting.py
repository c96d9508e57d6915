"""What a run starts from: which weights are kept, and when the head is fresh."""

import keras
import numpy as np
import pytest

from keras_cls.classifier import Classifier
from keras_cls.errors import ConfigError
from keras_cls.labels import class_names
from keras_cls.training.starting import starting_classifier
from keras_cls.weights import create_model

TEN = tuple("abcdefghij")


def by_path(model: keras.Model) -> dict[str, np.ndarray]:
    return {variable.path: np.array(variable) for variable in model.weights}


@pytest.mark.data
@pytest.mark.parametrize(
    ("labels", "kept"),
    [
        (class_names("cifar10"), True),
        (tuple(str(number) for number in range(10)), True),
        (tuple(reversed(class_names("cifar10"))), False),
        (TEN, False),
    ],
    ids=["the classes by name", "numbers", "in another order", "other classes"],
)
def test_a_head_for_other_classes_starts_fresh(data_dir, labels, kept) -> None:
    file = data_dir / "weights" / "cifar10_resnet20.npz"
    published = by_path(create_model("resnet20_cifar10", weights=file))
    found = starting_classifier("resnet20_cifar10", labels, None, file)
    for path, value in by_path(found.model).items():
        if path.startswith("logits/"):
            assert np.array_equal(value, published[path]) == kept, path
        else:
            np.testing.assert_array_equal(value, published[path])


def test_a_classifiers_head_stays_for_its_own_classes_alone() -> None:
    start = Classifier(create_model("resnet20_cifar10", 3, (32, 32, 3)), ["x", "y", "z"])
    before = by_path(start.model)
    for labels, kept in ((("x", "y", "z"), True), (("x", "y", "w"), False)):
        found = starting_classifier(start, labels, None, None)
        assert found.labels == labels
        after = by_path(found.model)
        for path, value in before.items():
            same = np.array_equal(value, after[path])
            assert same == (kept or path != "logits/kernel"), path
        assert found.model is not start.model


def test_what_does_not_go_together_is_refused() -> None:
    start = Classifier(create_model("lenet5", 3), ["x", "y", "z"])
    with pytest.raises(ConfigError, match="go with a network's name"):
        starting_classifier(start, start.labels, (32, 32, 1), None)
    foreign = keras.Sequential(
        [keras.Input((32, 32, 1)), keras.layers.Flatten(), keras.layers.Dense(3)], name="mine"
    )
    with pytest.raises(ConfigError, match="cannot get a new head"):
        starting_classifier(
            Classifier(foreign, start.labels, start.preprocessing), ("x", "y"), None, None
        )
