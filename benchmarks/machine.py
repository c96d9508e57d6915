"""What tables say of the machine."""

import os
import platform
from pathlib import Path


def machine() -> str:
    """Its cores, and their make."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if platform.system() == "Linux" else []
    fields = dict(map(str.strip, line.split(":", 1)) for line in lines if ":" in line)
    model = fields.get("model name", platform.machine())
    halves = " with bfloat16" if "avx512_bf16" in fields.get("flags", "") else ""
    family = f", family {fields['cpu family']} model {fields['model']}" if "model" in fields else ""
    return f"{os.cpu_count()} cores of {model}{family}{halves}, no GPU"
