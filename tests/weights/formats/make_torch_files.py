"""Make the files of tests/weights/formats/files with torch and safetensors themselves.

    python tests/weights/formats/make_torch_files.py

in an environment of its own: pip install torch==2.13.0 safetensors==0.8.0 numpy. What is in the
files is said in test_pth.py, which computes the same numbers with NumPy.
"""

import argparse
import io
import pickle
import struct
import tarfile
from collections import Counter, OrderedDict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

FILES = Path(__file__).parent / "files"

base = torch.arange(24, dtype=torch.float32)
image = torch.arange(60, dtype=torch.float32).reshape(2, 3, 2, 5)
VIEWS = {
    "whole": base,
    "part": base[8:16],
    "matrix": base.view(4, 6),
    "transposed": base.view(4, 6).T,
    "steps": base[1::5],
    "channels_last": image.contiguous(memory_format=torch.channels_last),
    "repeated": torch.tensor([3.0]).expand(5),
    "scalar": base[7],
    "empty": torch.zeros(0, 3),
    "tied": base,
}
KINDS = {
    str(kind).removeprefix("torch."): torch.tensor([0, 1, 2.5, 3], dtype=torch.float32).to(kind)
    for kind in (
        *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.bool),
        *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8),
    )
}


def network() -> torch.nn.Module:
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 2), torch.nn.BatchNorm2d(2))
    with torch.no_grad():
        for place, tensor in enumerate(net.state_dict().values()):
            tensor.copy_(torch.arange(tensor.numel()).reshape(tensor.shape) + place)
    return net


def save_tar(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """As torch before 0.1.10: written by hand, for torch still reads it."""
    storages, places, pickled = io.BytesIO(), io.BytesIO(), io.BytesIO()
    kept = {tensor.untyped_storage().data_ptr(): tensor for tensor in tensors.values()}
    pickle.dump(len(kept), storages, 2)
    for key, tensor in enumerate(kept.values()):
        numbers = torch.tensor([], dtype=tensor.dtype).set_(tensor.untyped_storage()).numpy()
        pickle.dump((key, "cpu", torch.FloatStorage), storages, 2)
        storages.write(struct.pack("<q", numbers.size) + numbers.tobytes())
    view = (50, 0, 1, 2)  # two numbers of the first storage, from its second on
    pickle.dump([view], storages, 2)
    pickle.dump(len(tensors) + 1, places, 2)
    for key, tensor in enumerate(tensors.values(), start=100):
        pointer = tensor.untyped_storage().data_ptr()
        pickle.dump((key, list(kept).index(pointer), torch.FloatTensor), places, 2)
        place = (*tensor.shape, *tensor.stride(), tensor.storage_offset())
        places.write(struct.pack(f"<ii{len(place)}q", tensor.dim(), 0, *place))
    pickle.dump((99, 50, torch.FloatTensor), places, 2)
    places.write(struct.pack("<ii3q", 1, 0, 2, 1, 0))

    class Pickler(pickle.Pickler):
        def persistent_id(self, value: object) -> int | None:
            return value.key if isinstance(value, Key) else None

    entries = {name: Key(key) for key, name in enumerate(tensors, start=100)}
    Pickler(pickled, 2).dump(OrderedDict(**entries, view=Key(99)))
    with tarfile.open(path, "w:", format=tarfile.PAX_FORMAT) as archive:
        for name, content in {"storages": storages, "tensors": places, "pickle": pickled}.items():
            header = tarfile.TarInfo(name)
            header.size = content.tell()
            header.mtime = 0.5  # makes a PAX header, as torch's files have them
            archive.addfile(header, io.BytesIO(content.getvalue()))
    read = torch.load(path, weights_only=False)
    assert all(torch.equal(read[name], tensor) for name, tensor in tensors.items())
    assert torch.equal(read["view"], base[1:3])


@dataclass(frozen=True)
class Key:
    key: int


def main() -> None:
    save_tar(
        {name: VIEWS[name] for name in ("whole", "part", "steps", "channels_last")},
        FILES / "views_tar.pth",
    )
    for name, tensors in {
        "views": VIEWS,
        "kinds": KINDS,
        "network": network().state_dict(),
    }.items():
        torch.save(tensors, FILES / f"{name}_zip.pth")
        torch.save(tensors, FILES / f"{name}_stream.pth", _use_new_zipfile_serialization=False)
    torch.save(network().state_dict(), FILES / "network_protocol4.pth", pickle_protocol=4)
    save_file(
        {**KINDS, "scalar": torch.tensor(7.0), "empty": torch.zeros(0, 3)},
        FILES / "kinds.safetensors",
        {"format": "pt"},
    )
    torch.save(network(), FILES / "module_zip.pth")
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    net(torch.ones(1, 1, 3, 3)).sum().backward()
    optimizer.step()
    torch.save(
        {
            "epoch": 3,
            "arch": "network",
            "best": torch.tensor(0.5),
            "figure": np.float64(0.25),
            "args": argparse.Namespace(lr=0.1, milestones=Counter([3, 4]), seen={1, 2}),
            "optimizer": optimizer.state_dict(),
            "state_dict": torch.nn.DataParallel(network()).state_dict(),
        },
        FILES / "checkpoint.pth",
    )
    averaged = torch.optim.swa_utils.AveragedModel(network())
    torch.save(
        {"model": net.state_dict(), "model_ema": averaged.state_dict()}, FILES / "averaged.pth"
    )


main()
