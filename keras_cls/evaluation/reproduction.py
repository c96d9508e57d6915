"""Measure a network again by the protocols of its card, beside the published figures.

When a figure counts as reproduced. Ours and the published one are of the same images, so chance
plays no part where the weights are the same; what remains is what implementations differ by: JPEG
decoders, resizing, sizes that are not published. :data:`IMPLEMENTATIONS` allows for that. Where the
weights are others, or the images fewer, chance does play a part: half the width of the 95 %
interval of the published figure on as many images is allowed on top. Of ImageNet's 50,000 images
this is 0.37 points at an error of 24 %, and the tolerance 0.77. A figure is reproduced where both
its top-1 and its top-5 error, if published, are within their tolerances.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any, Literal, TypeAlias

from rich.table import Table

from keras_cls.architectures import ModelSpec, ReportedError, Views, model_spec
from keras_cls.classifier import BATCH_SIZE, Classifier
from keras_cls.errors import ConfigError
from keras_cls.evaluation import Evaluation, evaluate
from keras_cls.evaluation.metrics import Interval
from keras_cls.evaluation.views import TEN_CROPS_OF_IMAGE, Protocol
from keras_cls.weights import SOURCES, Source, create_model, own, provenance

IMPLEMENTATIONS = 0.4
"""Points of error by which libraries differ with the same weights on the same images: the authors'
ResNet-50 has a top-1 error of 24.7 % in Caffe, 24.8 in TF-slim and 25.1 in keras.applications."""

Verdict: TypeAlias = Literal["reproduced", "consistent", "better", "worse"]

# The images that figures are published of, by the network's classes: ImageNet's validation images
# and the test images of CIFAR-10 and MNIST.
_PUBLISHED_IMAGES: Mapping[int, int] = {1000: 50_000, 10: 10_000}
_PROTOCOLS: Mapping[Any, int | str | Protocol] = {
    1: 1,
    10: 10,
    "10 of the whole image": TEN_CROPS_OF_IMAGE,
    144: 144,
    "dense": "dense",
}
_HALF_WIDTH = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True)
class Comparison:
    """A published figure beside ours; errors and tolerances in percent, None where not published.

    Attributes:
        published: the row of the card.
        top1: our top-1 error by the row's views.
        top1_interval: its 95 % interval.
        top5: our top-5 error.
        top5_interval: its 95 % interval.
        tolerance1: how far ours may be from the published top-1 error.
        tolerance5: how far from the top-5 error.
        verdict: ``"reproduced"``; ``"consistent"``, which is the same on fewer images than the
            published figure is of; ``"better"`` or ``"worse"`` than the tolerance allows.
    """

    published: ReportedError
    top1: float
    top1_interval: tuple[float, float]
    top5: float | None
    top5_interval: tuple[float, float] | None
    tolerance1: float | None
    tolerance5: float | None
    verdict: Verdict


@dataclass(frozen=True)
class Reproduction:
    """What :func:`reproduce` found.

    Attributes:
        network: the registry's name.
        weights: the source and the file that they were read from, in words.
        count: images that were judged.
        published_images: images that the published figures are of.
        comparisons: a published figure each, in the card's order, grouped by protocol.
        left_out: the card's rows that cannot be measured with one network.
    """

    network: str
    weights: str
    count: int
    published_images: int
    comparisons: tuple[Comparison, ...]
    left_out: tuple[ReportedError, ...]

    @property
    def reproduced(self) -> bool:
        """Whether at least one published figure is."""
        return any(row.verdict in ("reproduced", "consistent") for row in self.comparisons)

    def table(self) -> Table:
        """All figures for a terminal: errors in percent, top-1 / top-5; ours with intervals."""
        table = Table(
            title=f"{self.network}, {self.weights}, {self.count:,} images",
            caption="errors in percent, top-1 / top-5; below ours their 95 % intervals",
        )
        for column in ("protocol", "source"):
            table.add_column(column, overflow="fold")
        for column in ("published", "ours", "tolerance"):
            table.add_column(column, justify="right", no_wrap=True)
        table.add_column("verdict", no_wrap=True)
        shown: Views | None = None
        for row in self.comparisons:
            again, shown = row.published.views == shown, row.published.views
            table.add_row(
                row.published.protocol,
                _source(row.published),
                _pair(row.published.top1, row.published.top5),
                "" if again else _ours(row),
                _pair(row.tolerance1, row.tolerance5),
                row.verdict,
            )
        return table

    def notes(self) -> list[str]:
        """What must be known to read the table, a sentence or two each."""
        notes = [
            "Tolerance, in points: half the 95 % interval of the published figure on as many "
            f"images, and {IMPLEMENTATIONS} for what decoders and resizing differ by."
        ]
        if self.count < self.published_images:
            notes.append(
                f"{self.count:,} images are fewer than the {self.published_images:,} that the "
                "figures are of: the intervals are wide. 'consistent' says that nothing speaks "
                "against the figure, not that it is reproduced."
            )
        if self.left_out:
            rows = "; ".join(f"{row.protocol} ({row.source})" for row in self.left_out)
            notes.append(f"Not measured, for one network and these images do not suffice: {rows}.")
        return notes

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON's own types."""
        return {
            "network": self.network,
            "weights": self.weights,
            "count": self.count,
            "published_images": self.published_images,
            "comparisons": [
                {
                    "protocol": row.published.protocol,
                    "column": row.published.column,
                    "source": row.published.source,
                    "recalled": row.published.recalled,
                    "published": {"top1": row.published.top1, "top5": row.published.top5},
                    "ours": {"top1": row.top1, "top5": row.top5},
                    "intervals": {
                        "top1": list(row.top1_interval),
                        "top5": None if row.top5_interval is None else list(row.top5_interval),
                    },
                    "tolerance": {"top1": row.tolerance1, "top5": row.tolerance5},
                    "verdict": row.verdict,
                }
                for row in self.comparisons
            ],
            "notes": self.notes(),
        }


def reproduce(
    network: str,
    data: Any,
    weights: str | os.PathLike[str] | None = None,
    *,
    batch_size: int = BATCH_SIZE,
    folder: str | os.PathLike[str] | None = None,
    strict: bool = False,
    quiet: bool = False,
) -> Reproduction:
    """Run the protocols of a network's card with published weights.

    Args:
        network: a name of the registry.
        data: the images that the figures are of, such as ILSVRC's folder; as for
            :func:`keras_cls.evaluate`.
        weights: a file, or the name of a source; None for the first source that publishes a file
            of them.
        batch_size: views that go through the network at once.
        folder: where each protocol's evaluation is kept, in a folder of its own; the same call
            goes on after a kill.
        strict: stop at unreadable images.
        quiet: show no progress.

    Raises:
        ConfigError: the card has nothing to measure, or there are no weights for it.
        DataError: the data cannot be used.
    """
    spec = model_spec(network)
    protocols = list(dict.fromkeys(row.views for row in spec.reported if row.views is not None))
    if not protocols:
        raise ConfigError(
            f"{network}: its card has no figure that one network can be measured for; "
            f"`keras-cls models {network}` shows it"
        )
    chosen = _default_source(spec) if weights is None else weights
    measured: dict[Views, Evaluation] = {}
    said = ""
    for size in dict.fromkeys(views.size for views in protocols):
        classifier, said = _classifier(spec, chosen, size)
        for views in protocols:
            if views.size == size:
                found = evaluate(
                    classifier,
                    data,
                    crops=_PROTOCOLS[views.crops],
                    scales=views.scales or None,
                    batch_size=batch_size,
                    folder=None if folder is None else Path(folder) / _folder_name(views),
                    strict=strict,
                    quiet=quiet,
                )
                assert isinstance(found, Evaluation)  # published weights give one class an image
                measured[views] = found
    published_images = _PUBLISHED_IMAGES[spec.num_classes]
    return Reproduction(
        network=network,
        weights=said,
        count=measured[protocols[0]].count,
        published_images=published_images,
        comparisons=tuple(
            compare(row, measured[views], published_images)
            for views in protocols
            for row in spec.reported
            if row.views == views
        ),
        left_out=tuple(row for row in spec.reported if row.views is None),
    )


def compare(published: ReportedError, ours: Evaluation, published_images: int) -> Comparison:
    """Our result beside a published figure, which is of ``published_images`` images."""
    top1 = 100 * (1 - ours.top1)
    top5 = None if ours.top5 is None else 100 * (1 - ours.top5)
    tolerances = (tolerance(published.top1, ours.count), tolerance(published.top5, ours.count))
    beyond = [
        found - figure
        for found, figure, allowed in (
            (top1, published.top1, tolerances[0]),
            (top5, published.top5, tolerances[1]),
        )
        if found is not None
        and figure is not None
        and allowed is not None
        and abs(found - figure) > allowed
    ]
    verdict: Verdict = "reproduced" if ours.count >= published_images else "consistent"
    if beyond:
        verdict = "worse" if max(beyond) > 0 else "better"
    return Comparison(
        published=published,
        top1=top1,
        top1_interval=_error_interval(ours.top1_interval),
        top5=top5,
        top5_interval=(None if ours.top5_interval is None else _error_interval(ours.top5_interval)),
        tolerance1=tolerances[0],
        tolerance5=tolerances[1],
        verdict=verdict,
    )


def tolerance(published: float | None, count: int) -> float | None:
    """How many points an error on ``count`` images may be from a published one, in percent."""
    if published is None:
        return None
    share = published / 100
    return 100 * _HALF_WIDTH * (share * (1 - share) / count) ** 0.5 + IMPLEMENTATIONS


def _classifier(
    spec: ModelSpec, weights: str | os.PathLike[str], size: int | None
) -> tuple[Classifier, str]:
    """The network with these weights and all that they were published with; what to call them."""
    shape = None if size is None else (size, size, spec.input_shape[2])
    model = create_model(spec.name, input_shape=shape, weights=weights)
    found = provenance(model)
    if found is None or found.classes is None:
        raise ConfigError(
            f"{weights}: these are not published weights of {spec.name}, or for other classes: "
            f"give those of one of {_listing(_sources_of(spec))}, or use `keras-cls evaluate` on "
            "a classifier of your own"
        )
    return Classifier(model), f"weights of {found.source} ({Path(found.file).name})"


def _sources_of(spec: ModelSpec) -> list[Source]:
    """Those that publish weights of the network."""
    return [s for s in SOURCES.values() if s != own.SOURCE and spec.name in s.releases]


def _default_source(spec: ModelSpec) -> str:
    """The first source that publishes a file of the network's weights."""
    for source in _sources_of(spec):
        if source.releases[spec.name].url is not None:
            return source.name
    raise ConfigError(
        f"weights: nobody publishes {spec.name}'s in one file to download: give a file of your "
        f"own, with the names of one of these sources: {_listing(_sources_of(spec))}"
    )


def _listing(sources: list[Source]) -> str:
    return ", ".join(source.name for source in sources) or "(there is none)"


def _folder_name(views: Views) -> str:
    """Such as ``"10-of-the-whole-image"`` or ``"dense-256-384-512"``."""
    words = (str(views.crops).replace(" ", "-"), *map(str, views.scales))
    return "-".join(words) + ("" if views.size is None else f"-at-{views.size}")


def _error_interval(accuracy: Interval) -> tuple[float, float]:
    return 100 * (1 - accuracy.high), 100 * (1 - accuracy.low)


def _ours(row: Comparison) -> str:
    intervals = (row.top1_interval, row.top5_interval)
    bounds = [f"{low:.2f} to {high:.2f}" for low, high in filter(None, intervals)]
    return "\n".join([_pair(row.top1, row.top5), *bounds])


def _pair(top1: float | None, top5: float | None) -> str:
    """Top-1 and top-5, as papers print them."""
    return " / ".join("-" if figure is None else f"{figure:.2f}" for figure in (top1, top5))


def _source(row: ReportedError) -> str:
    """Whose figure it is, and where it stands."""
    whose = "released weights: " if row.column == "release" else ""
    return f"{whose}{row.source}{' (recalled)' if row.recalled else ''}"
