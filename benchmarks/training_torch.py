"""A training step of PyTorch, for ``benchmarks.training``: imports nothing but torch.

``python training_torch.py NETWORK WAY STEPS`` prints a line of JSON (parameters, versions) when it
is warm; then, for every line that it reads, it takes STEPS steps and prints the seconds of one.
"""

import json
import sys
import time

import torch
from torch import Tensor, nn
from torch.nn import functional

THREADS = 2
SHAPES = {"resnet50": (128, 32, 1000), "resnet20_cifar10": (32, 64, 10)}  # side, batch, classes
# way: (bfloat16, compiled)
WAYS = {
    "eager float32": (False, False),
    "eager bfloat16": (True, False),
    "compile float32": (False, True),
    "compile bfloat16": (True, True),
}


class Normalized(nn.Sequential):
    """A convolution without bias and its batch normalization."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
            nn.BatchNorm2d(outputs),
        )


class Bottleneck(nn.Module):
    """ResNet-50's unit, the stride on the 3x3 convolution."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.reduce = Normalized(inputs, width, 1)
        self.look = Normalized(width, width, 3, stride)
        self.expand = Normalized(width, 4 * width, 1)
        changes = stride > 1 or inputs != 4 * width
        self.shortcut = Normalized(inputs, 4 * width, 1, stride) if changes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.look(functional.relu(self.reduce(x), inplace=True)), inplace=True)
        return functional.relu(self.expand(y).add_(self.shortcut(x)), inplace=True)


class Basic(nn.Module):
    """The CIFAR networks' unit; shortcuts have channels of zeros on either side (option A)."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.first = Normalized(inputs, width, 3, stride)
        self.second = Normalized(width, width, 3)
        self.stride = stride
        self.zeros = (width - inputs) // 2

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(functional.relu(self.first(x), inplace=True))
        if self.zeros:
            x = x[:, :, :: self.stride, :: self.stride]
            x = functional.pad(x, (0, 0, 0, 0, self.zeros, self.zeros))
        return functional.relu(y.add_(x), inplace=True)


def units(kind: type[nn.Module], inputs: int, stages: tuple, expansion: int) -> nn.Sequential:
    found = []
    for width, count, stride in stages:
        for number in range(count):
            found.append(kind(inputs, width, stride if number == 0 else 1))
            inputs = width * expansion
    return nn.Sequential(*found)


def resnet50(classes: int) -> nn.Module:
    return nn.Sequential(
        Normalized(3, 64, 7, 2),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2, 1),
        units(Bottleneck, 64, ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)), 4),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(2048, classes),
    )


def resnet20_cifar10(classes: int) -> nn.Module:
    return nn.Sequential(
        Normalized(3, 16, 3),
        nn.ReLU(inplace=True),
        units(Basic, 16, ((16, 3, 1), (32, 3, 2), (64, 3, 2)), 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, classes),
    )


NETWORKS = {"resnet50": resnet50, "resnet20_cifar10": resnet20_cifar10}


def main(name: str, way: str, steps: int) -> None:
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    half, compiled = WAYS[way]
    side, batch, classes = SHAPES[name]
    network = NETWORKS[name](classes).to(memory_format=torch.channels_last).train()
    images = torch.randn(batch, 3, side, side).to(memory_format=torch.channels_last)
    targets = torch.randint(0, classes, (batch,))
    optimizer = torch.optim.SGD(
        network.parameters(), 0.01, momentum=0.9, weight_decay=1e-4, fused=True
    )
    forward = torch.compile(network) if compiled else network

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            logits = forward(images)
        loss = functional.cross_entropy(logits.float(), targets)
        loss.backward()
        optimizer.step()
        return loss.item()

    for _ in range(3):
        step()
    count = sum(p.numel() for p in network.parameters() if p.requires_grad)
    print(json.dumps({"parameters": count, "version": f"PyTorch {torch.__version__}"}), flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        for _ in range(steps):
            step()
        print((time.perf_counter() - start) / steps, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
