"""Write a table into a document, between the comments that mark its place."""

from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], right: str = "") -> str:
    """A Markdown table; ``right`` names the columns to align to the right."""
    rule = ["--:" if column in right.split("|") else "---" for column in header]
    lines = [header, rule, *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write_between(document: str, mark: str, content: str) -> None:
    """Replace what stands between ``<!-- MARK ... -->`` and ``<!-- /MARK -->``."""
    path = ROOT / document
    before, found, rest = path.read_text().partition(f"<!-- {mark}:")
    comment, _, rest = rest.partition("-->")
    _, end, after = rest.partition(f"<!-- /{mark} -->")
    if not found or not end:
        raise SystemExit(f"{document}: there is no place marked {mark!r}")
    path.write_text(f"{before}{found}{comment}-->\n{content}\n{end}{after}")
    print(f"wrote {document}")
