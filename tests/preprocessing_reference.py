"""The rule of keras_cls/preprocessing.py once more, in plain NumPy and float64.

It shares no code with the package, so that the two check each other, and it writes the golden
vectors that ports to other runtimes are held to::

    python -m tests.preprocessing_reference     # rewrites tests/golden/preprocessing.json

The file is one JSON object. ``bound`` is the largest difference from ``expected`` that a port may
show, counted in grey levels (multiply a difference by ``255 * std``). Each of ``cases`` has

* ``rule``: the fields of ``Preprocessing.to_dict()``;
* ``image``: ``shape`` [h, w, c] and its uint8 ``pixels``, flat, row by row, channels last;
* ``frame``, ``resized``: what steps 1 and 2 come to, each [height, width];
* ``expected``: the network's input, ``shape`` [H, W, C] and ``values``, flat in the same order.
"""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

GOLDEN = Path(__file__).parent / "golden" / "preprocessing.json"

BOUND = 0.02
"""Grey levels. float32 places a kernel to about 1e-7 of the image's side, so that its weights err
by some 1e-5 where the side is 100 pixels; a step from black to white then errs by 0.0026."""


def triangle(x: float) -> float:
    return max(1 - abs(x), 0)


def keys_cubic(x: float) -> float:
    """Keys's cubic convolution with a = -1/2."""
    x = abs(x)
    if x < 1:
        return (1.5 * x - 2.5) * x * x + 1
    return ((-0.5 * x + 2.5) * x - 4) * x + 2 if x < 2 else 0


def lanczos3(x: float) -> float:
    return float(np.sinc(x) * np.sinc(x / 3)) if abs(x) < 3 else 0


def box(x: float) -> float:
    x = abs(x)
    return 1 if x < 0.5 else 0.5 if x == 0.5 else 0


KERNELS: dict[str, Callable[[float], float]] = {
    "bilinear": triangle,
    "bicubic": keys_cubic,
    "lanczos": lanczos3,
    "box": box,
}
CHANNELS = {"grayscale": 1, "rgb": 3, "rgba": 4}


def frame_size(rule: Mapping[str, Any]) -> tuple[int, int]:
    height, width = rule["size"]
    return round(height / rule["crop"]), round(width / rule["crop"])


def resized_size(rule: Mapping[str, Any], height: int, width: int) -> tuple[int, int]:
    rows, columns = frame_size(rule)
    if rule["resize"] == "squash":
        return rows, columns
    wide = width * rows >= height * columns
    if wide == (rule["resize"] == "shorter"):
        return rows, max(width * rows // height, 1)
    return max(height * columns // width, 1), columns


def weights(source: int, resized: int, wanted: int, kernel: Callable[[float], float]) -> np.ndarray:
    """[wanted, source]: how much of each source pixel goes into each pixel of the central crop."""
    scale = resized / source
    spread = max(1 / scale, 1)  # antialiasing: the kernel widens as the image shrinks
    offset = math.trunc((resized - wanted) / 2)
    out = np.zeros((wanted, source))
    for target in range(wanted):
        centre = (target + 0.5 + offset) / scale
        if not 0 <= centre <= source:
            continue  # beyond the image: black
        row = [kernel((index + 0.5 - centre) / spread) for index in range(source)]
        out[target] = np.array(row) / sum(row)
    return out


def resize_and_crop(image: np.ndarray, rule: Mapping[str, Any]) -> np.ndarray:
    """Steps 1 to 4: float64 [H, W, c] on the 0..255 scale."""
    kernel = KERNELS[rule["interpolation"]]
    resized = resized_size(rule, *image.shape[:2])
    vertical, horizontal = (
        weights(source, target, wanted, kernel)
        for source, target, wanted in zip(image.shape[:2], resized, rule["size"], strict=True)
    )
    out = np.einsum("yh,hwc,xw->yxc", vertical, image.astype(np.float64), horizontal, optimize=True)
    return out.clip(0, 255)


def transform(image: np.ndarray, rule: Mapping[str, Any]) -> np.ndarray:
    """The whole rule: float64 [H, W, C]."""
    out = resize_and_crop(image, rule)
    if rule["color_mode"] == "grayscale":
        out = out @ np.array([[0.299], [0.587], [0.114]])
    return (out / 255 - np.array(rule["mean"])) / np.array(rule["std"])


def golden() -> dict[str, Any]:
    """The content of the golden file."""
    return {
        "description": "written by python -m tests.preprocessing_reference, which explains it",
        "bound": BOUND,
        "cases": [_case(*arguments) for arguments in _CASES],
    }


# The name, the image's height and width, and what differs from a plain rule.
_CASES: list[tuple[str, int, int, dict[str, Any]]] = [
    ("shorter, wide, downscaled", 23, 31, {}),
    ("shorter, tall, downscaled, central crop", 37, 21, {"crop": 0.875}),
    ("shorter, upscaled, bicubic", 5, 4, {"interpolation": "bicubic"}),
    ("shorter, lanczos, odd sizes", 29, 17, {"interpolation": "lanczos", "size": [7, 9]}),
    ("shorter, very wide", 3, 200, {}),
    ("shorter, very tall, cubic", 150, 2, {"interpolation": "bicubic"}),
    ("squash, box, by whole factors", 20, 30, {"resize": "squash", "interpolation": "box"}),
    ("squash, down and up at once", 33, 6, {"resize": "squash", "crop": 0.9}),
    ("squash, lanczos, overshooting", 12, 12, {"resize": "squash", "interpolation": "lanczos"}),
    ("pad, wide, an odd black remainder", 12, 31, {"resize": "pad", "crop": 1.0}),
    ("pad, tall and thin", 90, 1, {"resize": "pad", "crop": 1.0}),
    ("pad, cropped afterwards", 30, 20, {"resize": "pad", "crop": 0.8}),
    ("one pixel", 1, 1, {}),
    ("one pixel, padded to a wide input", 1, 1, {"resize": "pad", "size": [4, 9], "crop": 1.0}),
    ("grey", 17, 19, {"color_mode": "grayscale", "mean": [0.5], "std": [0.25]}),
    ("rgba", 17, 19, {"color_mode": "rgba", "mean": [0.5], "std": [0.5]}),
    ("a frame that lies half way between two sizes", 16, 16, {"size": [5, 7], "crop": 0.4}),
    ("mean and std for each channel", 10, 10, {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 1.0]}),
]


def _case(name: str, height: int, width: int, changed: dict[str, Any]) -> dict[str, Any]:
    rule: dict[str, Any] = {
        "size": [10, 10],
        "resize": "shorter",
        "crop": 1.0,
        "interpolation": "bilinear",
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "color_mode": "rgb",
    } | changed
    shape = (height, width, 4 if rule["color_mode"] == "rgba" else 3)
    image = np.random.default_rng(list(name.encode())).integers(0, 256, shape)
    out = transform(image, rule)
    return {
        "name": name,
        "rule": rule,
        "image": {"shape": list(shape), "pixels": image.ravel().tolist()},
        "frame": list(frame_size(rule)),
        "resized": list(resized_size(rule, height, width)),
        "expected": {"shape": list(out.shape), "values": np.round(out, 6).ravel().tolist()},
    }


def main() -> None:
    """Write the golden file."""
    content = golden()
    cases = ",\n".join(json.dumps(case) for case in content.pop("cases"))
    head = json.dumps(content)[:-1]
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_text(f'{head}, "cases": [\n{cases}\n]}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
