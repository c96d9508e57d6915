"""The side of torch and Pillow, for ``benchmarks.input_pipeline``: imports nothing of the project.

The transforms are those of timm's training: RandomResizedCrop, a mirror image half of the time, a
float tensor, normalization.
"""

import json
import math
import os
import random
import sys
import time
from pathlib import Path

import numpy as np
import PIL
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

WORKERS = 2
MEAN = torch.tensor((0.485, 0.456, 0.406)).view(3, 1, 1)
STD = torch.tensor((0.229, 0.224, 0.225)).view(3, 1, 1)


def random_part(width: int, height: int) -> tuple[int, int, int, int]:
    """Left, top, right, bottom: 8 % to 100 % of the area, of a ratio from 3/4 to 4/3."""
    for _ in range(10):
        area = width * height * random.uniform(0.08, 1.0)
        ratio = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
        columns, rows = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if columns <= width and rows <= height:
            left, top = random.randint(0, width - columns), random.randint(0, height - rows)
            return left, top, left + columns, top + rows
    shorter = min(width, height)
    left, top = (width - shorter) // 2, (height - shorter) // 2
    return left, top, left + shorter, top + shorter


class Photos(Dataset):
    """The files, over and over, as often as it takes."""

    def __init__(self, files: list[Path], length: int, side: int) -> None:
        self.files, self.length, self.side = files, length, side

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        index %= len(self.files)
        with self.files[index].open("rb") as file:
            image = Image.open(file).convert("RGB")
        part = random_part(*image.size)
        image = image.crop(part).resize((self.side, self.side), Image.Resampling.BILINEAR)
        if random.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
        return tensor.float().div_(255).sub_(MEAN).div_(STD), index % 2


def cpu_seconds(pids: list[int]) -> float:
    """Of this process and of its workers."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def main(folder: str, images: int, batch: int, side: int) -> None:
    torch.set_num_threads(1)
    files = sorted(Path(folder).iterdir())
    # A few batches more than are asked for, so that the workers are busy to the end of a turn.
    photos = Photos(files, images + 8 * batch, side)
    loader = DataLoader(photos, batch, shuffle=True, num_workers=WORKERS, drop_last=True)
    print(
        json.dumps({"version": f"torch {torch.__version__}, Pillow {PIL.__version__}"}), flush=True
    )
    for _ in sys.stdin:
        turn = iter(loader)
        workers = [worker.pid for worker in turn._workers]
        next(turn)
        start, cpu = time.perf_counter(), cpu_seconds(workers)
        for _ in range(images // batch):
            next(turn)
        seconds, cpu = time.perf_counter() - start, cpu_seconds(workers) - cpu
        del turn
        print(json.dumps({"seconds": seconds, "cpu_seconds": cpu}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
