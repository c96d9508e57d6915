"""Environments of other frameworks, each apart from the project's."""

import os
import subprocess
import sys
from pathlib import Path

from benchmarks.tables import ROOT


def environment(name: str, requirements: tuple[str, ...]) -> Path:
    """The Python of an environment with these packages, in ``.bench/NAME`` (made the first time).

    ``BENCH_PYTHON_<NAME>`` names one to be used instead; a folder before the name is left out.
    """
    if given := os.environ.get(f"BENCH_PYTHON_{Path(name).name.upper()}"):
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


def convert_to_onnx(python: Path, saved_model: Path, target: Path) -> None:
    """Write a SavedModel as ONNX with the tf2onnx of that environment."""
    # tf2onnx runs on the project's own TensorFlow.
    packages = next(path for path in sys.path if path.endswith("site-packages"))
    command = [python, "-m", "tf2onnx.convert", "--opset", "17", "--saved-model", saved_model]
    subprocess.run(
        [*command, "--output", target],
        check=True,
        env=os.environ | {"PYTHONPATH": packages},
        stderr=subprocess.DEVNULL,
    )
