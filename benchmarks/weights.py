"""The table of published weights in docs/weights.md, from the sources themselves."""

from benchmarks.tables import markdown_table, write_between
from keras_cls import list_models
from keras_cls.weights import SOURCES
from keras_cls.weights.source import Source


def main() -> None:
    sources = [source for source in SOURCES.values() if source.name != "keras_cls"]
    rows = [
        [f"`{name}`", *(_cell(source, name) for source in sources)]
        for name in list_models()
        if any(name in source.releases or name in source.refused for source in sources)
    ]
    table = markdown_table(["network", *(f"`{source.name}`" for source in sources)], rows)
    abouts = [f"- `{s.name}`: {s.about}; {', '.join(s.endings)}" for s in sources]
    refused = [
        f"- `{name}`, {source.name}: {why}"
        for source in sources
        for name, why in source.refused.items()
        if name not in source.releases
    ]
    write_between("docs/weights.md", "sources", "\n".join(abouts))
    write_between("docs/weights.md", "networks", table)
    write_between("docs/weights.md", "refused", "\n".join(refused))


def _cell(source: Source, name: str) -> str:
    if name not in source.releases:
        return "another network" if name in source.refused else ""
    release = source.releases[name]
    built = "" if release.network in (None, name) else f" (builds `{release.network}`)"
    return f"{release.name}{built}"
