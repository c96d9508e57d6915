"""A network's card: what its spec tells, as Markdown."""

from keras_cls.architectures.spec import ModelSpec, ReportedError

COLUMNS = {
    "paper_single": "paper, one network, one crop",
    "paper_best": "paper, best",
    "release": "released weights",
}


def card(spec: ModelSpec) -> str:
    """The whole card, Markdown."""
    height, width, channels = spec.input_shape
    paper, least = spec.paper, spec.min_size
    facts = {
        "paper": f"[{paper.title}]({paper.url}), {paper.authors}, {paper.year}",
        "input": f"{height} x {width} x {channels}, at least {least[0]} x {least[1]}",
        "classes": f"{spec.num_classes:,}",
        "parameters": f"{spec.params_trainable:,} trainable, {spec.params_total:,} with statistics",
        "size": f"{megabytes(spec):,.1f} MB in float32",
        "multiply-adds": f"{spec.multiply_adds:,}",
        "endpoints": ", ".join(spec.endpoints),
        "preprocessing": _preprocessing(spec),
    }
    if spec.aux_heads:
        facts["auxiliary heads"] = ", ".join(spec.aux_heads)
    parts = [f"## {spec.name}", spec.news]
    parts.append("\n".join(f"- {name}: {value}" for name, value in facts.items()))
    if spec.reported:
        parts.append(_errors(spec))
    if spec.review is not None:
        parts.append(
            f"Reviews quote a top-5 error of {spec.review.top5:g} %: {spec.review.meaning}"
        )
    if spec.deviations:
        parts.append("\n".join(["Deviations:", "", *(f"- {text}" for text in spec.deviations)]))
    return "\n\n".join(part for part in parts if part)


def megabytes(spec: ModelSpec) -> float:
    """The size of the weights in float32, in units of 10**6 bytes."""
    return spec.params_total * 4 / 1e6


def best_top5(spec: ModelSpec) -> float | None:
    """The top-5 error to sort by, in percent: one network and crop where there is such a figure."""
    for column in ("paper_single", "release", "paper_best"):
        for row in spec.reported:
            if row.column == column and row.top5 is not None:
                return row.top5
    return None


def _errors(spec: ModelSpec) -> str:
    lines = ["| figure | top-1 error | top-5 error | of what | source |", "|---|--:|--:|---|---|"]
    for column, title in COLUMNS.items():
        for row in spec.reported:
            if row.column == column:
                lines.append(
                    f"| {title} | {_percent(row.top1)} | {_percent(row.top5)} | {row.protocol} | "
                    f"{_source(row)} |"
                )
    return "\n".join(lines)


def _source(row: ReportedError) -> str:
    return f"{row.source} (recalled, to be checked)" if row.recalled else row.source


def _percent(error: float | None) -> str:
    return "" if error is None else f"{error:g} %"


def _preprocessing(spec: ModelSpec) -> str:
    rule = spec.preprocessing
    return (
        f"{rule.resize}, crop {rule.crop:g}, {rule.interpolation}, mean {_numbers(rule.mean)}, "
        f"std {_numbers(rule.std)} on the 0..1 scale, {rule.color_mode}"
    )


def _numbers(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:.4g}" for value in values)
