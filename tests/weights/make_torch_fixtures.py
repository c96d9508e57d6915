"""Make the fixtures of tests/weights/fixtures with timm and torchvision themselves.

    python tests/weights/make_torch_fixtures.py FOLDER [SOURCE-NAME ...]

in an environment of its own:

    pip install torch==2.13.0 numpy pyyaml safetensors tqdm pillow packaging
    pip install --no-deps timm==1.0.31 torchvision==0.29.2 huggingface_hub

(torchvision's compiled operators need a matching CUDA build of torch; no network here uses them, so
they may be missing.) For each network, or for those named, it draws the weights by the rule of
drawn_weights.py, and writes ``SOURCE-NAME.json.gz``: the versions, every tensor's name and shape,
and the logits in float32 for one or two image sizes; of Inception v3 also those of the auxiliary
head. It runs on the CPU.
"""

import gzip
import json
import sys
from pathlib import Path
from types import ModuleType

import torch

# Fake kernels for torchvision's compiled operators, which fail to register without the operators.
sys.modules["torchvision._meta_registrations"] = ModuleType("torchvision._meta_registrations")
_OPERATORS = torch.library.Library("torchvision", "DEF")
_OPERATORS.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

import timm
import torchvision

sys.path.insert(0, str(Path(__file__).parent))
from drawn_weights import draw, draw_images

# name -> image sizes: the published one, and another where the network takes it.
SMALL = [(224, 224), (97, 130)]
TIMM = {
    **{f"vgg{depth}": [(224, 224)] for depth in (16, 19)},
    **{f"resnet{depth}": SMALL for depth in (18, 34, 50, 101, 152)},
    "resnext50_32x4d": SMALL,
    "resnext101_32x4d": SMALL,
    **{f"legacy_seresnet{depth}": SMALL for depth in (50, 101, 152)},
    "legacy_seresnext50_32x4d": SMALL,
    "legacy_seresnext101_32x4d": SMALL,
    "legacy_senet154": SMALL,
    **{name: [(299, 299), (151, 180)] for name in ("inception_v3", "inception_v4")},
    "inception_resnet_v2": [(299, 299), (151, 180)],
    "nasnetalarge": [(331, 331), (151, 180)],
    "pnasnet5large": [(331, 331), (151, 180)],
    "resnetv2_50": SMALL,
}
TORCHVISION = {
    **{f"vgg{depth}": [(224, 224)] for depth in (16, 19)},
    **{f"resnet{depth}": SMALL for depth in (18, 34, 50, 101, 152)},
    "resnext50_32x4d": SMALL,
    "inception_v3": [(299, 299)],
    "googlenet": [(224, 224)],
    "alexnet": [(224, 224)],
}


def torchvision_model(name: str) -> torch.nn.Module:
    options = {"init_weights": False} if name in ("inception_v3", "googlenet") else {}
    return getattr(torchvision.models, name)(weights=None, **options)


def fixture(source: str, version: str, model: torch.nn.Module, sizes: list) -> dict:
    model.eval()
    tensors = model.state_dict()
    model.load_state_dict(
        {k: torch.from_numpy(draw(k, tuple(v.shape))) for k, v in tensors.items()}
    )
    logits, auxiliary = {}, {}
    with torch.inference_mode():
        for height, width in sizes:
            try:
                found, aux = forward(model, torch.from_numpy(draw_images(height, width)))
            except RuntimeError as error:
                print(f"  {height}x{width}: {error}")
                continue
            logits[f"{height}x{width}"] = rounded(found)
            if aux is not None:
                auxiliary[f"{height}x{width}"] = rounded(aux)
            print(f"  {height}x{width}: {found.abs().max():.3f}", flush=True)
    return {
        "source": source,
        "versions": {"torch": torch.__version__, source: version},
        "tensors": {name: list(tensor.shape) for name, tensor in tensors.items()},
        "logits": logits,
        **({"auxiliary_logits": auxiliary} if auxiliary else {}),
    }


def forward(
    model: torch.nn.Module, images: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The logits, and Inception v3's auxiliary ones, which it gives in training alone."""
    auxiliary = getattr(model, "AuxLogits", None)
    if auxiliary is None:
        return model(images)[0], None
    maps = []
    hook = model.Mixed_6e.register_forward_hook(lambda module, given, found: maps.append(found))
    logits = model(images)[0]
    hook.remove()
    return logits, auxiliary(maps[0])[0]


def rounded(tensor: torch.Tensor) -> list[float]:
    return [float(f"{value:.7g}") for value in tensor.tolist()]


def main(folder: Path, wanted: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    sources = [
        ("timm", timm.__version__, TIMM, lambda name: timm.create_model(name, pretrained=False)),
        ("torchvision", torchvision.__version__, TORCHVISION, torchvision_model),
    ]
    for source, version, names, create in sources:
        for name, sizes in names.items():
            if wanted and f"{source}-{name}" not in wanted:
                continue
            print(f"{source} {name}", flush=True)
            try:
                content = fixture(source, version, create(name), sizes)
            except Exception as error:  # one network that a version lacks must not stop the rest
                print(f"  {type(error).__name__}: {error}")
                continue
            data = json.dumps(content, separators=(",", ":")).encode()
            (folder / f"{source}-{name}.json.gz").write_bytes(gzip.compress(data, mtime=0))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
