"""A second opinion on networks of cells: slim's way through them, written out in NumPy, float64.

The weights come from a model's variables by their names. Tables and control flow are slim's
(research/slim/nets/nasnet: operations, used_hiddenstates, hiddenstate_indices, prev_layer), not
those of keras_cls.architectures.cells.
"""

from dataclasses import dataclass

import keras
import numpy as np


@dataclass(frozen=True)
class Slim:
    """The attributes of a cell in slim."""

    operations: str
    used: tuple[int, ...]
    indices: tuple[int, ...]


NORMAL = Slim(
    "sep5 sep3 sep5 sep3 avg none avg avg sep3 none",
    (1, 0, 0, 0, 0, 0, 0),
    (0, 1, 1, 1, 0, 1, 1, 1, 0, 0),
)
REDUCTION = Slim(
    "sep5 sep7 max sep7 avg sep5 none avg sep3 max",
    (1, 1, 1, 0, 0, 0, 0),
    (0, 1, 0, 1, 0, 1, 3, 2, 2, 0),
)
PNASNET = Slim(
    "sep5 max sep7 max sep5 sep3 sep3 max sep3 none",
    (1, 1, 0, 0, 0, 0, 0),
    (1, 1, 0, 0, 0, 0, 4, 0, 1, 0),
)


class InNumpy:
    """Forward passes of a model's layers, found by name; notes which of them it used."""

    def __init__(self, model: keras.Model, epsilon: float) -> None:
        self.weights = {v.path: keras.ops.convert_to_numpy(v).astype("f8") for v in model.weights}
        self.epsilon = epsilon
        self.read: set[str] = set()

    def of(self, path: str) -> np.ndarray:
        self.read.add(path)
        return self.weights[path]

    def bn(self, x: np.ndarray, name: str) -> np.ndarray:
        x = (x - self.of(f"{name}/moving_mean")) / np.sqrt(
            self.of(f"{name}/moving_variance") + self.epsilon
        )
        return x * self.of(f"{name}/gamma") + self.of(f"{name}/beta")

    def conv_bn(self, x: np.ndarray, conv: str, bn: str, stride: int = 1) -> np.ndarray:
        """A 1x1 convolution."""
        return self.bn(x[:, ::stride, ::stride] @ self.of(f"{conv}/kernel")[0, 0], bn)

    def separable(self, x: np.ndarray, name: str, size: int, stride: int) -> np.ndarray:
        for number in (1, 2):
            layer = f"{name}_separable_{size}x{size}_{number}"
            depthwise = self.of(f"{layer}/depthwise_kernel")[..., 0]
            x = sum(
                window * depthwise[i, j]
                for (i, j), window in windows(relu(x), size, stride, 0.0).items()
            )
            x = self.bn(
                x @ self.of(f"{layer}/pointwise_kernel")[0, 0],
                f"{name}_bn_sep_{size}x{size}_{number}",
            )
            stride = 1
        return x

    def factorized_reduction(self, x: np.ndarray, name: str) -> np.ndarray:
        shifted = np.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))[:, 1:, 1:]
        paths = [
            path[:, ::2, ::2] @ self.of(f"{name}_path{number}_conv/kernel")[0, 0]
            for number, path in ((1, x), (2, shifted))
        ]
        return self.bn(np.concatenate(paths, -1), f"{name}_final_path_bn")

    def operation(
        self, x: np.ndarray, kind: str, filters: int, stride: int, name: str
    ) -> np.ndarray:
        if kind.startswith("sep"):
            return self.separable(x, name, int(kind[3:]), stride)
        if kind == "none":
            if stride == 1 and x.shape[-1] == filters:
                return x
            return self.conv_bn(relu(x), f"{name}_1x1", f"{name}_bn_1", stride)
        seen = np.stack(list(windows(x, 3, stride, np.nan).values()))
        y = np.nanmax(seen, 0) if kind == "max" else np.nanmean(seen, 0)
        if x.shape[-1] != filters:
            y = self.conv_bn(y, f"{name}_1x1", f"{name}_bn_1")
        return y

    def cell(
        self,
        net: np.ndarray,
        slim: Slim,
        filters: int,
        stride: int,
        previous: np.ndarray | None,
        name: str,
    ) -> np.ndarray:
        if previous is None:
            previous = net
        elif previous.shape[1:3] != net.shape[1:3]:
            previous = self.factorized_reduction(relu(previous), name)
        elif previous.shape[-1] != filters:
            previous = self.conv_bn(relu(previous), f"{name}_prev_1x1", f"{name}_prev_bn")
        states = [self.conv_bn(relu(net), f"{name}_1x1", f"{name}_beginning_bn"), previous]
        for number in range(5):
            added = 0.0
            for i, side in ((2 * number, "left"), (2 * number + 1, "right")):
                state = slim.indices[i]
                added = added + self.operation(
                    states[state],
                    slim.operations.split()[i],
                    filters,
                    stride if state < 2 else 1,
                    f"{name}_comb_iter_{number}_{side}",
                )
            states.append(added)
        outputs = []
        for i, (state, used) in enumerate(zip(states, slim.used, strict=True)):
            if not used:
                if state.shape[1:3] != states[-1].shape[1:3]:
                    state = self.factorized_reduction(state, f"{name}_reduction_{i}")
                elif state.shape[-1] != filters:
                    path = f"{name}_reduction_{i}_path"
                    state = self.conv_bn(state, f"{path}_conv", f"{path}_bn")
                outputs.append(state)
        return np.concatenate(outputs, -1)

    def stem(self, images: np.ndarray, slim: Slim, filters: int) -> list[np.ndarray | None]:
        """ImageNet's; the outputs so far, None before the first."""
        kernel = self.of("conv0/kernel")
        height, width = ((side - 3) // 2 + 1 for side in images.shape[1:3])
        net = sum(
            images[:, i : i + 2 * height : 2, j : j + 2 * width : 2][:, :height, :width]
            @ kernel[i, j]
            for i in range(3)
            for j in range(3)
        )
        outputs = [None, self.bn(net, "conv0_bn")]
        for number in (0, 1):
            width = int(filters * 0.25 * 2**number)
            net = self.cell(outputs[-1], slim, width, 2, outputs[-2], f"cell_stem_{number}")
            outputs.append(net)
        return outputs

    def nasnet(self, images: np.ndarray, repeats: int, filters: int, skip: bool) -> np.ndarray:
        """slim's _build_nasnet_base."""
        outputs = self.stem(images, REDUCTION, filters)
        for number in range(3 * repeats):
            if skip:
                previous = outputs[-2]
            if number in (repeats, 2 * repeats):
                filters *= 2
                name = f"reduction_cell_{number // repeats - 1}"
                outputs.append(self.cell(outputs[-1], REDUCTION, filters, 2, outputs[-2], name))
            if not skip:
                previous = outputs[-2]
            outputs.append(self.cell(outputs[-1], NORMAL, filters, 1, previous, f"cell_{number}"))
        return self.logits(outputs[-1])

    def pnasnet(self, images: np.ndarray, repeats: int, filters: int) -> np.ndarray:
        """slim's _build_pnasnet_base."""
        outputs = self.stem(images, PNASNET, filters)
        for number in range(3 * repeats):
            strided = number in (repeats, 2 * repeats)
            filters *= 2 if strided else 1
            stride = 2 if strided else 1
            outputs.append(
                self.cell(outputs[-1], PNASNET, filters, stride, outputs[-2], f"cell_{number}")
            )
        return self.logits(outputs[-1])

    def logits(self, net: np.ndarray) -> np.ndarray:
        return relu(net).mean((1, 2)) @ self.of("logits/kernel") + self.of("logits/bias")


def relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)


def windows(x: np.ndarray, size: int, stride: int, fill: float) -> dict:
    """(row, column) of a window -> what lies there at every position; SAME, filled outside."""
    padding, positions = [(0, 0)], []
    for side in x.shape[1:3]:
        count = -(-side // stride)
        total = max((count - 1) * stride + size - side, 0)
        padding.append((total // 2, total - total // 2))
        positions.append(count)
    x = np.pad(x, (*padding, (0, 0)), constant_values=fill)
    return {
        (i, j): x[:, i::stride, j::stride][:, : positions[0], : positions[1]]
        for i in range(size)
        for j in range(size)
    }
