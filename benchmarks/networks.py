"""The registry's tables and figure in the docs, from the specs that tests hold to the networks."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from benchmarks.tables import ROOT, markdown_table, write_between
from keras_cls import ModelSpec, list_models, model_spec
from keras_cls.architectures.card import best_top5, card, megabytes

_FIGURE = "docs/top5_by_year.svg"


def main() -> None:
    specs = sorted(
        (model_spec(name) for name in list_models()),
        key=lambda spec: (spec.paper.year, spec.family, spec.params_trainable),
    )
    write_between("README.md", "networks", _table(specs))
    (ROOT / "docs/models.md").write_text(_document(specs))
    print("wrote docs/models.md")
    _draw(specs)
    print(f"wrote {_FIGURE}")


def _table(specs: Sequence[ModelSpec]) -> str:
    header = ["network", "paper", "input", "parameters", "multiply-adds"]
    rows = [
        [
            f"`{spec.name}`",
            f"[{spec.paper.authors}, {spec.paper.year}]({spec.paper.url})",
            "x".join(map(str, spec.input_shape)),
            f"{spec.params_trainable:,}",
            f"{spec.multiply_adds / 1e6:,.1f} M",
        ]
        for spec in specs
    ]
    return markdown_table(header, rows, right="input|parameters|multiply-adds")


def _document(specs: Sequence[ModelSpec]) -> str:
    header = ["network", "year", "parameters", "MB", "multiply-adds", "top-5 error"]
    rows = [
        [
            f"[{spec.name}](#{spec.name})",
            str(spec.paper.year),
            f"{spec.params_trainable:,}",
            f"{megabytes(spec):,.1f}",
            f"{spec.multiply_adds / 1e6:,.1f} M",
            "" if (top5 := best_top5(spec)) is None else f"{top5:g} %",
        ]
        for spec in specs
    ]
    table = markdown_table(header, rows, right="|".join(header[1:]))
    return (
        "\n\n".join(
            [
                "# Networks",
                "Written by `python -m benchmarks networks` from the cards in the code; `keras-cls "
                "models NAME` prints one. Figures marked as recalled were noted from memory, "
                "and are to be checked against the source.",
                "![top-5 error by year](top5_by_year.svg)",
                table,
                *(card(spec) for spec in specs),
            ]
        )
        + "\n"
    )


def _draw(specs: Sequence[ModelSpec]) -> None:
    """Top-5 error on ImageNet by year: one network and crop, and what reviews quote instead."""
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.add_subplot()
    single = {
        spec.name: (spec.paper.year, row.top5)
        for spec in specs
        for row in spec.reported
        if row.column != "paper_best" and row.top5 is not None
    }
    quoted = {
        spec.name: (spec.paper.year, spec.review.top5) for spec in specs if spec.review is not None
    }
    for points, label, marker in (
        (single, "one network, one crop", "o"),
        (quoted, "quoted by reviews (ensembles, many crops)", "^"),
    ):
        if points:
            years, errors = zip(*points.values(), strict=True)
            axes.scatter(years, errors, label=label, marker=marker, s=28)
    for year, error in sorted(set(quoted.values())):
        names = ", ".join(name for name, point in quoted.items() if point == (year, error))
        axes.annotate(names, (year, error), xytext=(5, -3), textcoords="offset points", fontsize=7)
    if single or quoted:
        axes.legend(frameon=False)
    axes.set(xlabel="year of the paper", ylabel="top-5 error on ImageNet, percent")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)
    figure.savefig(ROOT / _FIGURE, metadata={"Date": None})
