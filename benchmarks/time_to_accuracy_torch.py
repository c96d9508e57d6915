"""The speed run airbench94 (Jordan 2024, arXiv 2404.00498) in PyTorch on a CPU: torch and NumPy.

``python time_to_accuracy_torch.py DATA.npz [--epochs E] [--seed S] [--threads T]`` trains on the
arrays ``train_images`` (uint8 [N, 32, 32, 3]), ``train_labels``, ``test_images`` and
``test_labels`` and prints a line of JSON an epoch: the seconds of training so far, without judging,
and the accuracy of one view; in the last line also that of six views. A run of other than the
source's 9.9 epochs goes through the same curves, stretched. ``--weights WEIGHTS.npz
--logits LOGITS.npy`` computes the logits of the test images instead, with given weights.
"""

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

MEAN, DEVIATION = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
WIDTHS = (64, 256, 256)
BATCH = 1024
MOMENTUM = 0.85
# Both are decoupled in the source: divided by what Nesterov's momentum multiplies a step by.
RATE = 11.5 / (1 + 1 / (1 - MOMENTUM))  # for the mean of a batch's losses
DECAY = 0.0153 / 11.5  # towards the gradient
BIAS_RATE = 64  # times as high for the biases of normalization
SMOOTHING = 0.2
SHIFT = 2
LOOKAHEAD_EVERY, LOOKAHEAD_BASE = 5, 0.95
# Three of the source's 9.9 epochs: so long the whitening bias learns; then lookahead begins.
FIRST_PART = 0.3
WHITENING_IMAGES, WHITENING_EPSILON = 5000, 5e-4


class Smaller(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / 9


class Block(nn.Module):
    """Two convolutions, the first one's maxima, normalization and GELU behind each."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.conv1 = identity(nn.Conv2d(inputs, width, 3, padding=1, bias=False))
        self.conv2 = identity(nn.Conv2d(width, width, 3, padding=1, bias=False))
        self.norm1 = normalization(width)
        self.norm2 = normalization(width)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(self.conv1(x), 2)
        x = functional.gelu(self.norm1(x))
        return functional.gelu(self.norm2(self.conv2(x)))


def identity(layer: nn.Conv2d) -> nn.Conv2d:
    """The first filters repeat the inputs."""
    nn.init.dirac_(layer.weight.data[: layer.in_channels])
    return layer


def normalization(width: int) -> nn.BatchNorm2d:
    layer = nn.BatchNorm2d(width, eps=1e-12, momentum=0.4)
    layer.weight.requires_grad_(False)
    return layer


def make_network() -> nn.Sequential:
    whitening = nn.Conv2d(3, 24, 2)
    whitening.weight.requires_grad_(False)
    nn.init.zeros_(whitening.bias)
    blocks = [Block(i, o) for i, o in zip((24, *WIDTHS), WIDTHS, strict=False)]
    return nn.Sequential(
        whitening,
        nn.GELU(),
        *blocks,
        nn.MaxPool2d(3),
        nn.Flatten(),
        nn.Linear(WIDTHS[-1], 10, bias=False),
        Smaller(),
    ).to(memory_format=torch.channels_last)


def whiten(layer: nn.Conv2d, images: Tensor) -> None:
    """The filters become the scaled principal components of patches, and their negatives."""
    size = layer.weight[0].numel()
    patches = images.unfold(2, 2, 1).unfold(3, 2, 1).permute(0, 2, 3, 1, 4, 5).reshape(-1, size)
    variances, components = torch.linalg.eigh((patches.T @ patches / len(patches)).double())
    scaled = (components / torch.sqrt(variances + WHITENING_EPSILON)).T.flip(0)
    layer.weight.data[:] = torch.cat([scaled, -scaled]).reshape(layer.weight.shape)


def prepared(images: np.ndarray) -> Tensor:
    """uint8 [N, H, W, 3] -> float32 [N, 3, H, W], scaled."""
    scaled = (torch.from_numpy(images).float() / 255 - torch.tensor(MEAN)) / torch.tensor(DEVIATION)
    return scaled.permute(0, 3, 1, 2)


class Batches:
    """Shifted images, mirrored in every second epoch: the same images first, then the others."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        mirrored = torch.rand(len(images)) < 0.5
        images = torch.where(mirrored.view(-1, 1, 1, 1), images.flip(-1), images)
        padded = functional.pad(images, (SHIFT,) * 4, "reflect")
        self._images = padded.to(torch.bfloat16).contiguous(memory_format=torch.channels_last)
        self._labels = labels

    def __len__(self) -> int:
        return len(self._labels) // BATCH

    def epoch(self, number: int):
        order = torch.randperm(len(self._labels))
        side = self._images.shape[-1] - 2 * SHIFT
        for start in range(0, len(self) * BATCH, BATCH):
            chosen = order[start : start + BATCH]
            canvas = self._images[chosen]
            images = torch.empty(
                (len(chosen), 3, side, side),
                dtype=canvas.dtype,
                memory_format=torch.channels_last,
            )
            rows, columns = torch.randint(0, 2 * SHIFT + 1, (2, len(chosen)))
            for row in range(2 * SHIFT + 1):
                for column in range(2 * SHIFT + 1):
                    here = (rows == row) & (columns == column)
                    images[here] = canvas[here, :, row : row + side, column : column + side]
            yield images.flip(-1) if number % 2 else images, self._labels[chosen]


def rate_share(step: int, steps: int) -> float:
    """0.2 at first, 1 at 23 % of the run, 0.07 in the end, straight lines between them."""
    points = (0, int(0.23 * steps), steps)
    return float(np.interp(step, points, (0.2, 1.0, 0.07)))


class Lookahead:
    """A moving average of the network, to which the network is set back."""

    def __init__(self, network: nn.Module) -> None:
        self._average = {name: value.clone() for name, value in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: nn.Module, keep: float) -> None:
        for name, value in network.state_dict().items():
            if value.is_floating_point():
                self._average[name].lerp_(value, 1 - keep)
                value.copy_(self._average[name])


def logits_of(network: nn.Module, images: Tensor, views: int, bfloat16: bool = True) -> Tensor:
    """Those of one view, or of six: mirrored, and shifted to and fro by one pixel."""

    def once(x: Tensor) -> Tensor:
        return network(x.contiguous(memory_format=torch.channels_last)).float()

    def both(x: Tensor) -> Tensor:
        return (once(x) + once(x.flip(-1))) / 2

    network.eval()
    found = []
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        for part in images.split(1000):
            if views == 1:
                found.append(once(part))
                continue
            padded = functional.pad(part, (1,) * 4, "reflect")
            ends = both(padded[..., :-2, :-2]) + both(padded[..., 2:, 2:])
            found.append(both(part) / 2 + ends / 4)
    return torch.cat(found)


def train(data: dict[str, np.ndarray], epochs: float) -> None:
    images, labels = prepared(data["train_images"]), torch.from_numpy(data["train_labels"]).long()
    test, truth = prepared(data["test_images"]), torch.from_numpy(data["test_labels"]).long()
    network = make_network()
    whiten(network[0], images[:WHITENING_IMAGES])
    start = time.perf_counter()
    batches = Batches(images, labels)
    steps = math.ceil(len(batches) * epochs)
    first_part = round(FIRST_PART * steps)
    trained = {n: p for n, p in network.named_parameters() if p.requires_grad}
    biases = [p for name, p in trained.items() if "norm" in name]
    others = [p for name, p in trained.items() if "norm" not in name]
    optimizer = torch.optim.SGD(
        [
            {"params": biases, "lr": RATE * BIAS_RATE, "weight_decay": DECAY / BIAS_RATE},
            {"params": others, "lr": RATE, "weight_decay": DECAY},
        ],
        momentum=MOMENTUM,
        nesterov=True,
        fused=True,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: rate_share(i, steps))
    lookahead, step, seconds = None, 0, time.perf_counter() - start
    for epoch in range(math.ceil(epochs)):
        start = time.perf_counter()
        network.train()
        for inputs, targets in batches.epoch(epoch):
            network[0].bias.requires_grad_(step < first_part)
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast("cpu", torch.bfloat16):
                logits = network(inputs)
            loss = functional.cross_entropy(logits.float(), targets, label_smoothing=SMOOTHING)
            loss.backward()
            optimizer.step()
            schedule.step()
            step += 1
            if step > first_part and step % LOOKAHEAD_EVERY == 0:
                if lookahead is None:
                    lookahead = Lookahead(network)
                else:
                    keep = LOOKAHEAD_BASE**LOOKAHEAD_EVERY * (step / steps) ** 3
                    lookahead.update(network, keep)
            if step == steps:
                break
        if lookahead is not None:
            lookahead.update(network, 1.0)
        seconds += time.perf_counter() - start
        line = {"epoch": epoch + 1, "seconds": round(seconds, 2), "loss": loss.item()}
        line["accuracy"] = accuracy(logits_of(network, test, 1), truth)
        if step == steps:
            line["accuracy of six views"] = accuracy(logits_of(network, test, 6), truth)
        print(json.dumps(line), flush=True)


def accuracy(logits: Tensor, truth: Tensor) -> float:
    return (logits.argmax(1) == truth).float().mean().item()


def load_weights(network: nn.Sequential, weights: dict[str, np.ndarray]) -> None:
    """Those of ``airbench94_cifar10``, by the paths of its variables."""

    def tensor(path: str) -> Tensor:
        return torch.from_numpy(weights[path])

    with torch.no_grad():
        network[0].weight.copy_(tensor("whitening/kernel").permute(3, 2, 0, 1))
        network[0].bias.copy_(tensor("whitening/bias"))
        for number, block in enumerate(network[2:5], 1):
            for part in (1, 2):
                name = f"block{number}_conv{part}"
                kernel = tensor(f"{name}/kernel").permute(3, 2, 0, 1)
                getattr(block, f"conv{part}").weight.copy_(kernel)
                norm = getattr(block, f"norm{part}")
                norm.bias.copy_(tensor(f"{name}_bn/beta"))
                norm.running_mean.copy_(tensor(f"{name}_bn/moving_mean"))
                norm.running_var.copy_(tensor(f"{name}_bn/moving_variance"))
        network[7].weight.copy_(tensor("logits/kernel").T)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("--epochs", type=float, default=9.9)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--logits", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(given.seed)
    data = dict(np.load(given.data))
    if given.weights is None:
        train(data, given.epochs)
        return
    network = make_network()
    load_weights(network, dict(np.load(given.weights)))
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    found = logits_of(network, prepared(data["test_images"]), 6, bfloat16=False)
    np.save(given.logits, found.numpy())
    print(json.dumps({"parameters": trained}))


if __name__ == "__main__":
    main()
