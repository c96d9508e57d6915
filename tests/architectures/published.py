"""What was published of each network, written down a second time, apart from the specs.

Each family has its rows in a file ``published_<family>.py`` beside this one, as ``ROWS``.
"""

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Published:
    """Counts at the published size and the shapes of the endpoints, in their order.

    Attributes:
        trainable: trainable parameters.
        statistics: the moving statistics of batch normalization, beside them.
        millions: multiply-adds in millions, as far as they were published; None where not.
        endpoints: endpoint name -> (height, width, channels).
        default: whether the heavier checks of this network run by default.
    """

    trainable: int
    statistics: int
    millions: float | None
    endpoints: dict[str, Shape]
    default: bool = False


def _all_rows() -> dict[str, Published]:
    rows: dict[str, Published] = {}
    for file in sorted(Path(__file__).parent.glob("published_*.py")):
        rows |= import_module(file.stem).ROWS
    return rows


PUBLISHED = _all_rows()
