"""How small networks become, beside the figures of Deep Compression (arXiv:1510.00149).

``python -m benchmarks deep_compression``: LeNet-5 as Caffe has it, on MNIST, pruned to the shares
of the paper's Table 3, but for ip1, which bears 96.5 %; ``alexnet`` at 67 pixels on CIFAR-10, to
those of its Table 4, but for fc7, which is most of it there and bears 97 %; ``resnet56_cifar10``.
Each is pruned, its kernels then made of a few values, exported in int8, and packed by a standard
compressor (xz). The ratio is that of the weights in float32, as
in the paper, to the packed file that loads and serves: everything in it counts, the graph and the
preprocessing too. All that is trained stays in ``.bench/deep_compression``; a second call goes on
there. ResNet-56 is pruned as ``compression_cost`` does it, and not again where that has done so.
"""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import compression_cost
from benchmarks.real_images import (
    Arrays,
    cifar_classes,
    cifar_resnet,
    data_folder,
    part_of,
    read_cifar,
    read_mnist,
)
from benchmarks.tables import ROOT, markdown_table, rows_between, write_between

FOLDER = ROOT / ".bench/deep_compression"
BATCH = 128


@dataclass(frozen=True)
class Row:
    """A network, its images, and how it is made small.

    Attributes:
        name: of the row.
        paper: the paper's ratio, where it has this network.
        read: gives the images.
        start: images, folder -> the trained classifier.
        sparsity: of all kernels but those ``by_layer``.
        by_layer: the sparsity of some; empty to divide the zeros by layer-adaptive magnitude.
        clusters: values that each kernel is left with.
        epochs: of pruning, and of clustering.
        pruned: a run of another benchmark that prunes it so, used where it has ended.
    """

    name: str
    paper: str
    read: Callable[[], Arrays]
    start: Callable[[Arrays, Path], Any]
    sparsity: float
    by_layer: dict[str, float]
    clusters: int
    epochs: tuple[int, int]
    pruned: Path | None = None


def _caffe_lenet() -> Any:
    """LeNet-5 as Caffe's example and the paper have it: 431,080 parameters."""
    import keras

    layers = keras.layers
    inputs = x = keras.Input((28, 28, 1), name="images")
    x = layers.Conv2D(20, 5, name="conv1")(x)
    x = layers.MaxPooling2D(2, name="pool1")(x)
    x = layers.Conv2D(50, 5, name="conv2")(x)
    x = layers.MaxPooling2D(2, name="pool2")(x)
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(500, activation="relu", name="ip1")(x)
    return keras.Model(inputs, layers.Dense(10, name="ip2")(x), name="caffe_lenet5")


def _trained_lenet(images: Arrays, folder: Path) -> Any:
    import keras

    import keras_cls

    keras.utils.set_random_seed(0)
    rule = keras_cls.Preprocessing(
        size=(28, 28), color_mode="grayscale", mean=(0.1307,), std=(0.3081,)
    )
    fresh = keras_cls.Classifier(_caffe_lenet(), [str(digit) for digit in range(10)], rule)
    return keras_cls.train(
        fresh,
        part_of(images, "train"),
        validation=part_of(images, "test"),
        recipe="small_gray",
        epochs=12,
        batch_size=BATCH,
        run_dir=folder,
    ).classifier


def _resnet56(images: Arrays, folder: Path) -> Any:
    return cifar_resnet("resnet56")


def _trained_alexnet(images: Arrays, folder: Path) -> Any:
    import keras_cls

    return keras_cls.train(
        "alexnet",
        part_of(images, "train"),
        validation=part_of(images, "test"),
        labels=cifar_classes(),
        input_shape=(67, 67, 3),
        recipe="small_images",
        epochs=16,
        batch_size=BATCH,
        run_dir=folder,
    ).classifier


def _cifar() -> Arrays:
    return read_cifar(data_folder("cifar10"))


ROWS = {
    "lenet5": Row(
        "LeNet-5 (Caffe), MNIST",
        "39",
        lambda: read_mnist(data_folder("mnist")),
        _trained_lenet,
        0.96,
        {"conv1": 0.34, "conv2": 0.88, "ip1": 0.965, "ip2": 0.81},
        16,
        (16, 6),
    ),
    "resnet56": Row(
        "resnet56_cifar10",
        "",
        _cifar,
        _resnet56,
        0.5,
        {},
        32,
        (compression_cost.NETWORKS["resnet56"][0], 1),
        compression_cost.FOLDER / "resnet56/half/refined/50-zeros",
    ),
    "alexnet": Row(
        "alexnet at 67 px, CIFAR-10",
        "35 (on ImageNet)",
        _cifar,
        _trained_alexnet,
        0.91,
        {
            **{"conv1": 0.16, "conv2": 0.62, "conv3": 0.65, "conv4": 0.63, "conv5": 0.63},
            **{"fc6": 0.91, "fc7": 0.97, "logits": 0.75},
        },
        32,
        (3, 1),
    ),
}


def main() -> None:
    header = ["network", "accuracy", "then", "weights", "int8 file", "packed", "ratio", "paper"]
    # BENCH_ROWS=lenet5,resnet56 leaves the others as they stand.
    names = os.environ.get("BENCH_ROWS", ",".join(ROWS)).split(",")
    document, mark = "docs/compression.md", "deep compression"
    made = {ROWS[name].name: _cells(ROWS[name], FOLDER / name) for name in names}
    rows = {cells[0]: cells for cells in rows_between(document, mark)} | made
    order = [row.name for row in ROWS.values() if row.name in rows]
    table = markdown_table(header, [rows[name] for name in order], "|".join(header[1:]))
    write_between(document, mark, table)


def _cells(row: Row, folder: Path) -> list[str]:
    """Train, compress, export and measure; or what of it is still to do."""
    import keras_cls
    from keras_cls.compression.ladder import Training
    from keras_cls.compression.measuring import accuracy_of_version, sizes_of_version
    from keras_cls.compression.refining import refine
    from keras_cls.data.opening import open_training_data
    from keras_cls.data.pipeline import steps_per_epoch
    from keras_cls.training.run_folder import RunFolder

    images = row.read()
    classifier = row.start(images, folder / "trained")
    data = open_training_data(
        part_of(images, "train"),
        part_of(images, "test"),
        labels=list(classifier.labels),
        cache=folder / "cache",
        seed=0,
    )
    steps = steps_per_epoch(data.train, BATCH)
    pruning, clustering = (Training(epochs, BATCH, steps) for epochs in row.epochs)
    sparse = pruning.prune(row.sparsity)
    if row.by_layer:
        shares = replace(sparse.technique, by_layer=row.by_layer, allocation="uniform")
        sparse = replace(sparse, technique=shares)
    done_before = row.pruned is not None and RunFolder(row.pruned).read_state().finished
    plan = {
        row.pruned if done_before else folder / "pruning": sparse,
        folder / "clustering": clustering.cluster(row.clusters, pruned=True),
    }
    small = classifier
    for run, refinement in plan.items():
        small = refine(small, data, refinement, run, teacher=classifier)
    before = keras_cls.evaluate(classifier, part_of(images, "test"), quiet=True).top1
    weights = 4 * sum(int(np.prod(each.shape)) for each in classifier.model.weights)
    made = folder / "models/int8"
    shutil.rmtree(made, ignore_errors=True)  # whatever made it
    chosen = np.linspace(0, len(images["train_images"]) - 1, 256).astype(int)
    version = keras_cls.export(
        small, made, precision="int8", calibration=list(images["train_images"][chosen])
    )
    size, packed = sizes_of_version(version)
    after = accuracy_of_version(version, data.validation, classifier.preprocessing)
    return [
        row.name,
        f"{before:.2%}",
        f"{after:.2%}",
        f"{weights / 1e3:,.0f} kB",
        f"{size / 1e3:,.0f} kB",
        f"{packed / 1e3:,.0f} kB",
        f"{weights / packed:.1f}",
        row.paper,
    ]
