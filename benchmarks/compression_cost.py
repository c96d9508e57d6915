"""What bytes and zeros cost in accuracy: published CIFAR networks through ``compress()``.

``python -m benchmarks compression_cost``: the ResNet-20 and ResNet-56 of akamaster, trained on with
the 50,000 training images and judged on the 5,000 of ``test_public``, each candidate as the
SavedModel that is served. Takes hours on two cores: BENCH_ROWS=resnet56 and BENCH_CLIMBS=half,fifth
leave the other rows as they stand. All that is trained stays in ``.bench/compression_cost``; a
second call goes on there.
"""

import os
from dataclasses import dataclass
from typing import Any

from benchmarks.real_images import Arrays, cifar_resnet, data_folder, part_of, read_cifar
from benchmarks.tables import ROOT, markdown_table, rows_between, write_between

FOLDER = ROOT / ".bench/compression_cost"
# By network the epochs for a half and for four fifths of zeros.
NETWORKS = {"resnet20": (2, 12), "resnet56": (4, 6)}


@dataclass(frozen=True)
class Climb:
    """A call of ``compress()``, and which of its candidates are rows.

    Attributes:
        name: of its folder.
        precisions: that it exports in.
        sparsity: the share of zeros; 0 for none, which is to be trained for int8.
        epochs: of training.
        rows: the candidates, and whether each was trained.
    """

    name: str
    precisions: tuple[str, ...]
    sparsity: float
    epochs: int
    rows: dict[str, bool]


def _climbs(network: str) -> tuple[Climb, ...]:
    half, fifth = NETWORKS[network]
    return (
        Climb(
            "bytes",
            ("bfloat16", "int8"),
            0,
            2,
            {"bfloat16": False, "int8": False, "trained for int8, int8": True},
        ),
        Climb("half", ("bfloat16",), 0.5, half, {"50 % zeros, bfloat16": True}),
        Climb("fifth", ("bfloat16",), 0.8, fifth, {"80 % zeros, bfloat16": True}),
    )


def main() -> None:
    header = ["network", "", "epochs", "right", "points lost"]
    document, mark = "docs/compression.md", "compression cost"
    names = os.environ.get("BENCH_ROWS", ",".join(NETWORKS)).split(",")
    chosen = os.environ.get("BENCH_CLIMBS", "bytes,half,fifth").split(",")
    if strange := set(chosen) - {climb.name for climb in _climbs(names[0])}:
        raise SystemExit(f"BENCH_CLIMBS: bytes, half and fifth there are; found {sorted(strange)}")
    images = read_cifar(data_folder("cifar10"))
    order = [f"{name}_cifar10" for name in NETWORKS]
    rows = {(row[0], row[1]): row for row in rows_between(document, mark)}
    for name in names:
        for climb in _climbs(name):
            if climb.name not in chosen:
                continue
            rows |= {(row[0], row[1]): row for row in _rows(name, climb, images)}
            # What is known stands there, whatever becomes of the rest.
            table = sorted(rows.values(), key=lambda row: order.index(row[0]))
            write_between(document, mark, markdown_table(header, table, "|".join(header[2:])))


def _rows(name: str, climb: Climb, images: Arrays) -> list[list[str]]:
    import keras_cls

    result = keras_cls.compress(
        cifar_resnet(name),
        part_of(images, "train"),
        validation=part_of(images, "test"),
        precision=climb.precisions,
        sparsity=climb.sparsity,
        clusters=(),
        epochs=climb.epochs,
        run_dir=FOLDER / name / climb.name,
    )
    found = {each.name: each.measured for each in result.candidates}
    made = []
    for candidate, trained in climb.rows.items():
        measured: Any = found[candidate]
        lost = 100 * (result.accuracy - measured.accuracy)
        right = f"{measured.accuracy:.2%}"
        epochs = str(climb.epochs if trained else 0)
        made.append([f"{name}_cifar10", candidate, epochs, right, f"{lost:.2f}"])
    return made
