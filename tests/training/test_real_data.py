"""Training on public images: MNIST and CIFAR-10 reach what the recipes promise."""

import pytest
from real_data import cifar10, mnist

import keras_cls

pytestmark = pytest.mark.data


@pytest.mark.slow
def test_lenet5_on_a_part_of_mnist(data_dir, tmp_path):
    images, labels = mnist(data_dir / "mnist", "train")
    part = (images[:20_000], labels[:20_000])
    run = keras_cls.train("lenet5", part, epochs=10, batch_size=64, run_dir=tmp_path, quiet=True)
    result = keras_cls.evaluate(run.classifier, mnist(data_dir / "mnist", "t10k"))
    assert result.count == 10_000
    assert result.top1 >= 0.98


@pytest.mark.slow
def test_resnet20_on_a_part_of_cifar10(data_dir, tmp_path):
    part = cifar10(data_dir / "cifar10", "train_0")
    run = keras_cls.train("resnet20_cifar10", part, epochs=10, run_dir=tmp_path, quiet=True)
    result = keras_cls.evaluate(run.classifier, cifar10(data_dir / "cifar10", "test_public"))
    assert result.count == 5_000
    assert result.top1 >= 0.60


@pytest.mark.slow
def test_fine_tuning_carries_cifar_over_to_other_classes(data_dir, tmp_path):
    """The ten classes of Imagenette at 32 pixels, 100 images each, in six epochs."""
    weights = data_dir / "weights" / "cifar10_resnet56.npz"
    settings = {"data": data_dir / "imagenette224", "epochs": 6, "quiet": True}
    tuned = keras_cls.train(
        "resnet56_cifar10", weights=weights, run_dir=tmp_path / "tuned", **settings
    )
    fresh = keras_cls.train("resnet56_cifar10", run_dir=tmp_path / "fresh", **settings)
    assert tuned.classifier.training["resolved"]["recipe"]["name"] == "fine_tuning"
    best = [max(row["val_accuracy"] for row in run.history) for run in (tuned, fresh)]
    assert best[0] >= 0.6
    assert best[0] >= best[1] + 0.15
