"""What zeros and training for int8 cost on real images: the figures of docs/compression.md."""

import numpy as np
import pytest
from real_data import cifar10

import keras_cls

pytestmark = [pytest.mark.data, pytest.mark.slow]

ACCURACY = 92.12


@pytest.mark.parametrize(
    ("options", "lost"),
    [
        (
            {"precision": ("bfloat16", "int8"), "sparsity": (0.5,)},
            {
                "bfloat16": 0.2,
                "int8": 0.5,
                "50 % zeros, int8": 0.5,
                "trained for int8, int8": 0.2,
            },
        ),
        # Of so few weights each must find its place anew.
        (
            {"precision": ("bfloat16",), "sparsity": (0.8,), "epochs": 12},
            {"80 % zeros, bfloat16": 1.5},
        ),
    ],
    ids=["half and less", "four fifths"],
)
def test_accuracy_is_kept(data_dir, tmp_path, options, lost):
    """``lost``: by how many points less of the 5,000 images may be right, by candidate."""
    folder = data_dir / "cifar10"
    weights = data_dir / "weights" / "cifar10_resnet20.npz"
    network = keras_cls.create_model("resnet20_cifar10", weights=weights)
    classifier = keras_cls.Classifier(network, (folder / "classes.txt").read_text().split())
    sheets = [cifar10(folder, f"train_{number}") for number in range(5)]
    images, targets = (np.concatenate(each) for each in zip(*sheets, strict=True))
    result = keras_cls.compress(
        classifier,
        (images, targets),
        validation=cifar10(folder, "test_public"),
        clusters=(),
        run_dir=tmp_path / "run",
        **options,
    )
    assert result.accuracy == pytest.approx(ACCURACY / 100, abs=1e-4)
    found = {each.name: 100 * each.measured.accuracy for each in result.candidates}
    for name, points in lost.items():
        assert found[name] >= ACCURACY - points, name
    assert result.met
