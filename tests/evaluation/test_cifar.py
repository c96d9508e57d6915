"""CIFAR-10's published ResNets on public test images: the table of docs/evaluation.md."""

import pytest
from real_data import cifar10

import keras_cls

pytestmark = pytest.mark.data

DEPTHS = (20, 56)
# Percent of 5,000 images; one image is 0.02.
ONE_CROP = {20: 92.12, 56: 93.70, "together": 94.16}
TEN_CROPS = {20: 92.88, 56: 94.04, "together": 94.58}
ONE_IMAGE = 0.021  # another processor may round one image's way


@pytest.fixture(scope="module")
def classifiers(data_dir):
    names = (data_dir / "cifar10" / "classes.txt").read_text().split()
    return [
        keras_cls.Classifier(
            keras_cls.create_model(
                f"resnet{depth}_cifar10",
                weights=data_dir / "weights" / f"cifar10_resnet{depth}.npz",
            ),
            names,
        )
        for depth in DEPTHS
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("crops", "expected"), [(1, ONE_CROP), (10, TEN_CROPS)])
def test_each_and_together(data_dir, classifiers, crops, expected):
    data = cifar10(data_dir / "cifar10", "test_public")
    each = keras_cls.evaluate(classifiers, data, crops=crops, ensemble=False, batch_size=100)
    together = keras_cls.evaluate(classifiers, data, crops=crops, batch_size=100)
    found = {depth: 100 * result.top1 for depth, result in zip(DEPTHS, each, strict=True)}
    found["together"] = 100 * together.top1
    print(crops, found)
    assert together.count == 5_000
    assert found == {key: pytest.approx(value, abs=ONE_IMAGE) for key, value in expected.items()}


def test_a_part_of_the_images(data_dir, classifiers):
    images, targets = cifar10(data_dir / "cifar10", "test_public")
    result = keras_cls.evaluate(classifiers[0], (images[:500], targets[:500]), crops=10)
    assert result.count == 500
    assert result.top1_interval.low <= 0.9212 <= result.top1_interval.high
