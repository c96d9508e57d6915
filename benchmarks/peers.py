"""Environments of other frameworks, each apart from the project's."""

import os
import subprocess
import sys
from pathlib import Path

from benchmarks.tables import ROOT


def environment(name: str, requirements: tuple[str, ...]) -> Path:
    """The Python of an environment with these packages, under ``.bench/`` (made the first time).

    ``BENCH_PYTHON_<NAME>`` names one to be used instead.
    """
    if given := os.environ.get(f"BENCH_PYTHON_{name.upper()}"):
        return Path(given)
    folder = ROOT / ".bench" / name
    python, stamp = folder / "bin/python", folder / ".installed"
    wanted = "\n".join(requirements)
    if not stamp.is_file() or stamp.read_text() != wanted:
        print(f"making {folder.relative_to(ROOT)}: {' '.join(requirements)}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *requirements], check=True)
        stamp.write_text(wanted)
    return python
