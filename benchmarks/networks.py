"""The registry's table in the README, from the specs that the tests hold to the networks."""

from benchmarks.tables import markdown_table, write_between
from keras_cls import list_models, model_spec


def main() -> None:
    specs = sorted(
        (model_spec(name) for name in list_models()),
        key=lambda spec: (spec.paper.year, spec.family, spec.params_trainable),
    )
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
    header = ["network", "paper", "input", "parameters", "multiply-adds"]
    right = "input|parameters|multiply-adds"
    write_between("README.md", "networks", markdown_table(header, rows, right))
