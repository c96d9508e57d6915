"""The card's protocols, run: small networks, tiny folders, and CIFAR-10 with published weights."""

import io
import json
from dataclasses import replace

import keras
import numpy as np
import pytest
from PIL import Image
from real_data import cifar10
from rich.console import Console

from keras_cls.architectures import ReportedError, Views, list_models, model_spec
from keras_cls.cli import main
from keras_cls.errors import ConfigError
from keras_cls.evaluation import Evaluation, reproduction
from keras_cls.evaluation.reproduction import (
    IMPLEMENTATIONS,
    Reproduction,
    compare,
    reproduce,
    tolerance,
)
from keras_cls.labels import imagenet_classes
from keras_cls.weights import SOURCES, create_model


def published_weights(file, network, source, seed=0):
    """Random weights under a source's names and in its layout."""
    keras.utils.set_random_seed(seed)
    model = create_model(network)
    origins = SOURCES[source].origins(model, None)
    rng = np.random.default_rng(seed)
    tensors = {}
    for variable in model.variables:
        origin = origins[variable.path]
        shape = origin.shape_in_file(tuple(variable.shape))
        low, high = (0.8, 1.2) if variable.name in ("gamma", "moving_variance") else (-0.1, 0.1)
        tensors[origin.key] = rng.uniform(low, high, shape).astype(np.float32)
    np.savez(file, **tensors)
    return file


def printed(result: Reproduction) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(result.table(), *result.notes())
    return console.file.getvalue()


def evaluation(top1: int, top5: int, count: int, classes: int = 1000) -> Evaluation:
    """A result with so many of ``count`` images right."""
    probabilities = np.full((count, classes), 1e-9)
    targets = np.zeros(count, np.int64)
    probabilities[:, 1:7] = 0.1 + 0.01 * np.arange(6)
    probabilities[:top5, 0] = 0.121  # the fourth
    probabilities[:top1, 0] = 0.3
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    return Evaluation.from_probabilities(probabilities, targets, [str(i) for i in range(classes)])


ONE_CROP = Views()


def row(top1=24.0, top5=7.0, column="release", views=ONE_CROP):
    return ReportedError(column, "ImageNet validation", top1, top5, "somewhere", views=views)


def test_the_tolerance_is_half_an_interval_and_what_implementations_differ_by():
    half_of_50000 = tolerance(24.0, 50_000) - IMPLEMENTATIONS
    assert half_of_50000 == pytest.approx(0.374, abs=0.001)
    assert tolerance(24.0, 500) - IMPLEMENTATIONS == pytest.approx(10 * half_of_50000)
    assert tolerance(None, 50_000) is None


@pytest.mark.parametrize(
    ("top1", "top5", "published", "verdict"),
    [
        (760, 930, row(), "reproduced"),
        (735, 920, row(), "reproduced"),  # 2.5 points off, of 1,000 images
        (700, 925, row(), "worse"),
        (800, 930, row(), "better"),
        (760, 900, row(), "worse"),
        (700, 930, row(top1=None), "reproduced"),
        (760, 800, row(top5=None), "reproduced"),
    ],
)
def test_verdicts(top1, top5, published, verdict):
    found = compare(published, evaluation(top1, top5, 1000), 1000)
    assert found.verdict == verdict
    assert found.top1 == pytest.approx(100 - top1 / 10)
    low, high = found.top1_interval
    assert low < found.top1 < high


def test_fewer_images_reproduce_nothing():
    assert compare(row(), evaluation(760, 930, 1000), 50_000).verdict == "consistent"
    assert compare(row(), evaluation(500, 930, 1000), 50_000).verdict == "worse"


@pytest.fixture
def imagenet(tmp_path):
    """Four validation images with Kaggle's labels: a tiny ILSVRC."""
    rng = np.random.default_rng(0)
    (tmp_path / "imagenet" / "val").mkdir(parents=True)
    rows = ["ImageId,PredictionString"]
    for number in range(1, 5):
        name = f"ILSVRC2012_val_{number:08d}"
        pixels = rng.integers(0, 256, (70, 90, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "imagenet" / "val" / f"{name}.JPEG")
        rows.append(f"{name},{imagenet_classes()[number * 200].wnid} 1 2 3 4")
    (tmp_path / "imagenet" / "LOC_val_solution.csv").write_text("\n".join(rows))
    return tmp_path / "imagenet"


@pytest.fixture(scope="module")
def resnet18(tmp_path_factory):
    file = tmp_path_factory.mktemp("weights") / "resnet18.npz"
    return published_weights(file, "resnet18", "torchvision")


@pytest.mark.slow
def test_all_protocols_of_a_card_are_run(tmp_path, monkeypatch):
    rows = (
        row(30.0, 11.0, "paper_best", Views(10, size=40)),
        row(31.0, 12.0, "paper_best", Views("10 of the whole image")),
        row(31.0, 12.0, "paper_single", Views()),
        row(32.0, 13.0, "paper_best", Views("dense", (32, 40))),
        row(33.0, 14.0, "release", Views(144)),
        row(34.0, 15.0, "release", Views()),
        row(5.0, 3.0, "paper_best", None),
    )
    spec = replace(model_spec("resnet20_cifar10"), reported=rows)
    monkeypatch.setattr(reproduction, "model_spec", lambda name: spec)
    weights = published_weights(tmp_path / "published.npz", spec.name, "akamaster")
    pixels = np.random.default_rng(0).integers(0, 256, (6, 48, 48, 3), dtype=np.uint8)
    result = reproduce(spec.name, (pixels, np.arange(6)), weights, folder=tmp_path, quiet=True)
    assert result.count == 6
    assert result.published_images == 10_000
    assert result.left_out == (rows[6],)
    # Rows of the same views have the same result, and stand together.
    order = [rows.index(found.published) for found in result.comparisons]
    assert order == [0, 1, 2, 5, 3, 4]
    assert result.comparisons[2].top1 == result.comparisons[3].top1
    kept = {path.name for path in tmp_path.iterdir() if path.is_dir()}
    assert kept == {"10-at-40", "10-of-the-whole-image", "1", "dense-32-40", "144"}
    text = printed(result)
    assert "weights of akamaster (published.npz), 6 images" in text
    assert "6 images are fewer than the 10,000" in text
    assert json.loads(json.dumps(result.to_dict()))["count"] == 6


def test_on_the_command_line(imagenet, resnet18, capsys, tmp_path):
    arguments = ["evaluate", "--reproduce", "resnet18", "--data", str(imagenet)]
    arguments += ["--weights", str(resnet18), "--json", str(tmp_path / "result.json")]
    arguments += ["--to", str(tmp_path / "kept")]
    assert main(arguments) == 0
    assert (tmp_path / "kept" / "1" / "evaluation.json").exists()
    out = capsys.readouterr().out
    assert "resnet18" in out and "30.24" in out and "worse" in out and "tolerance" in out.lower()
    saved = json.loads((tmp_path / "result.json").read_text())
    assert saved["network"] == "resnet18"
    assert saved["comparisons"][0]["published"] == {"top1": 30.24, "top5": 10.92}


def test_command_lines_that_make_no_sense_are_refused(capsys, imagenet):
    assert main(["evaluate", "--data", str(imagenet)]) == 1
    assert "a classifier's folder, or --reproduce NETWORK" in capsys.readouterr().err
    assert main(["evaluate", "runs/a", "--reproduce", "resnet18", "--data", str(imagenet)]) == 1
    assert "without it, runs/a is measured" in capsys.readouterr().err
    crops = ["--reproduce", "resnet18", "--crops", "10"]
    assert main(["evaluate", *crops, "--data", str(imagenet)]) == 1
    assert "takes the protocols from the network's card" in capsys.readouterr().err
    assert main(["evaluate", "runs/a", "--weights", "b.npz", "--data", str(imagenet)]) == 1
    assert "--weights goes with --reproduce" in capsys.readouterr().err


def test_what_cannot_be_reproduced_is_refused(tmp_path, imagenet):
    with pytest.raises(ConfigError, match="plain20_cifar10: its card has no figure"):
        reproduce("plain20_cifar10", imagenet)
    with pytest.raises(ConfigError, match="one of these sources: akamaster"):
        reproduce("resnet20_cifar10", imagenet)
    with pytest.raises(ConfigError, match="no network 'resnet19'"):
        reproduce("resnet19", imagenet)
    file = tmp_path / "own.weights.h5"
    create_model("resnet20_cifar10").save_weights(file)
    with pytest.raises(ConfigError, match=r"own\.weights\.h5: these are not published weights"):
        reproduce("resnet20_cifar10", imagenet, file)


@pytest.mark.parametrize("name", list_models())
def test_what_a_card_says_of_views_agrees_with_its_words(name):
    spec = model_spec(name)
    for error in spec.reported:
        views, text = error.views, error.protocol
        if views is None:
            continue
        assert not any(word in text for word in ("two networks", "six networks", "2012 test"))
        words = {1: "crop", 10: "ten", "10 of the whole image": "ten", 144: "144"}
        words["dense"] = "dense" if "dense" in text else "convolutional"
        assert words[views.crops] in text or "CIFAR-10" in text or "MNIST" in text
        assert views.size is None or str(views.size) in text
        assert views.size != spec.input_shape[0]


@pytest.mark.data
@pytest.mark.parametrize(
    ("depth", "error"), [(20, 7.88), pytest.param(56, 6.30, marks=pytest.mark.slow)]
)
def test_cifar10s_resnets_are_consistent_with_paper_and_release(depth, error, data_dir):
    images = cifar10(data_dir / "cifar10", "test_public")
    weights = data_dir / "weights" / f"cifar10_resnet{depth}.npz"
    result = reproduce(f"resnet{depth}_cifar10", images, weights, batch_size=250, quiet=True)
    print(printed(result))
    assert result.count == 5000
    assert [c.published.column for c in result.comparisons] == ["paper_best", "release"]
    assert all(c.top1 == pytest.approx(error, abs=0.01) for c in result.comparisons)
    assert all(c.verdict == "consistent" for c in result.comparisons)
