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
    before, _, after = _around(document, mark)
    (ROOT / document).write_text(f"{before}{content}\n{after}")
    print(f"wrote {document}")


def rows_between(document: str, mark: str) -> list[list[str]]:
    """The rows of the table that stands there, without its header."""
    _, content, _ = _around(document, mark)
    lines = [line for line in content.splitlines() if line.startswith("| ")]
    return [line[2:-2].split(" | ") for line in lines[2:]]


def _around(document: str, mark: str) -> tuple[str, str, str]:
    """What stands before a place, in it, and behind it."""
    before, found, rest = (ROOT / document).read_text().partition(f"<!-- {mark}:")
    comment, _, rest = rest.partition("-->")
    content, end, after = rest.partition(f"<!-- /{mark} -->")
    if not found or not end:
        raise SystemExit(f"{document}: there is no place marked {mark!r}")
    return f"{before}{found}{comment}-->\n", content, f"{end}{after}"
