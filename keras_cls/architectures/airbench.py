"""The network that learns CIFAR-10 in seconds (Jordan 2024, arXiv 2404.00498), as its release."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_cls.architectures._registry import register
from keras_cls.architectures.layers import BatchNormalization, Gelu
from keras_cls.architectures.spec import ModelSpec, Network, Paper, ReportedError, Tensor
from keras_cls.errors import DataError
from keras_cls.preprocessing import Preprocessing

_register = keras.saving.register_keras_serializable(package="keras_cls")

PAPER = Paper(
    title="94% on CIFAR-10 in 3.29 Seconds on a Single GPU",
    authors="Jordan",
    year=2024,
    url="https://arxiv.org/abs/2404.00498",
)

NEWS = (
    "The first convolution whitens patches of the training images and is not trained; the others "
    "start as identities. With large steps for the biases of normalization, averaged weights and "
    "flips that alternate from epoch to epoch, ten epochs are enough for 94 %."
)


def whiten(model: keras.Model, images: np.ndarray, epsilon: float = 5e-4) -> None:
    """Make the network's first layer whiten patches such as these images have.

    Its filters become the principal components of all patches, first to last, each divided by its
    deviation, and the same again with the sign turned: [k, k, C, 2 * k * k * C].

    Args:
        model: an airbench network.
        images: float [N, H, W, C], scaled as the network takes them; 5,000 are enough.
        epsilon: added to the variances.

    Raises:
        DataError: there are no images, or of another number of channels.
    """
    layer = model.get_layer("whitening")
    side, _, channels, _ = layer.kernel.shape
    if images.ndim != 4 or not len(images) or images.shape[-1] != channels:
        raise DataError(
            f"whiten: images: expected [N, H, W, {channels}] with at least one image, found shape "
            f"{list(images.shape)}"
        )
    windows = np.lib.stride_tricks.sliding_window_view(images, (side, side), (1, 2))
    # From [N, h, w, C, k, k] to rows in the order of the kernel: height, width, channel.
    patches = np.moveaxis(windows, 3, 5).reshape(-1, side * side * channels).astype("float32")
    variances, components = np.linalg.eigh((patches.T @ patches / len(patches)).astype("float64"))
    scaled = (components / np.sqrt(variances + epsilon))[:, ::-1]
    kernel = np.concatenate([scaled, -scaled], axis=1).reshape(side, side, channels, -1)
    layer.kernel.assign(kernel.astype("float32"))


@dataclass(frozen=True, kw_only=True)
class AirbenchSpec(ModelSpec):
    """``widths`` of the blocks, each of two convolutions; ``whitened`` is the patches' side."""

    widths: tuple[int, ...]
    whitened: int = 2


AIRBENCH94 = AirbenchSpec(
    name="airbench94_cifar10",
    family="airbench",
    paper=PAPER,
    news=NEWS,
    input_shape=(32, 32, 3),
    min_size=(25, 25),
    num_classes=10,
    params_trainable=1_971_352,
    params_total=1_973_944,
    multiply_adds=118_147_360,
    preprocessing=Preprocessing(
        size=(32, 32),
        resize="squash",
        crop=1.0,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
    ),
    endpoints=("block1", "block2", "block3"),
    prepare=whiten,
    widths=(64, 256, 256),
    reported=(
        ReportedError(
            "release",
            "CIFAR-10 test, six views (mirrored, shifted by one pixel), mean of 1,000 runs",
            5.99,
            None,
            "github.com/KellerJordan/cifar10-airbench, airbench94.py",
        ),
    ),
    deviations=(
        "Batch normalization has no scale, as in the release: the other networks here have one.",
        "The logits are divided by 9 there; here the features are, which is the same.",
        "The whitening kernel, 288 numbers, is not among the trainable parameters. It starts at "
        "random and is made of training images by whiten().",
    ),
)


@_register
class Identity(keras.initializers.Initializer):
    """A convolution's kernel [h, w, inputs, outputs] whose first outputs repeat the inputs.

    Outputs beyond the inputs start uniformly within 1 / sqrt(h * w * inputs), which is PyTorch's
    default.

    Args:
        seed: an integer makes the draw repeatable; None draws one.
    """

    def __init__(self, seed: int | None = None) -> None:
        self.seed = seed
        self._draw = keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform", seed)

    def __call__(self, shape: Sequence[int], dtype: Any = None) -> Any:
        """The kernel."""
        height, width, inputs, outputs = shape
        kernel = np.array(keras.ops.convert_to_numpy(self._draw(shape, dtype="float32")))
        repeated = min(inputs, outputs)
        kernel[..., :repeated] = 0
        for channel in range(repeated):
            kernel[height // 2, width // 2, channel, channel] = 1
        return keras.ops.convert_to_tensor(kernel, dtype)

    def get_config(self) -> dict[str, Any]:
        """What ``__init__`` takes."""
        return {"seed": self.seed}


@_register
class WhiteningConv2D(keras.layers.Conv2D):
    """``keras.layers.Conv2D`` with a kernel that is not trained; see :func:`whiten`."""

    def build(self, input_shape: Sequence[int | None]) -> None:
        """Make the variables; the bias is trained."""
        super().build(input_shape)
        self._kernel.trainable = False


@register(AIRBENCH94)
def airbench(images: Tensor, spec: AirbenchSpec, num_classes: int) -> Network:
    """[N, H, W, C] -> logits [N, num_classes]."""
    patch = spec.whitened**2 * images.shape[-1]
    x = WhiteningConv2D(2 * patch, spec.whitened, name="whitening")(images)
    x = Gelu(name="whitening_gelu")(x)
    endpoints = {}
    for name, width in zip(spec.endpoints, spec.widths, strict=True):
        endpoints[name] = x = _block(x, width, name)
    x = keras.layers.MaxPooling2D(tuple(x.shape[1:3]), name="pool")(x)
    x = keras.layers.Flatten(name="features")(x)
    x = keras.layers.Rescaling(1 / 9, name="smaller_features")(x)
    logits = keras.layers.Dense(
        num_classes,
        use_bias=False,
        kernel_initializer=keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform"),
        dtype="float32",
        name=spec.head,
    )(x)
    return Network(logits, endpoints)


def _block(x: Tensor, width: int, name: str) -> Tensor:
    x = _convolution(x, width, f"{name}_conv1")
    x = keras.layers.MaxPooling2D(2, name=f"{name}_pool")(x)
    x = _normalized_gelu(x, f"{name}_conv1")
    x = _convolution(x, width, f"{name}_conv2")
    return _normalized_gelu(x, f"{name}_conv2")


def _convolution(x: Tensor, width: int, name: str) -> Tensor:
    return keras.layers.Conv2D(
        width, 3, padding="same", use_bias=False, kernel_initializer=Identity(), name=name
    )(x)


def _normalized_gelu(x: Tensor, name: str) -> Tensor:
    x = BatchNormalization(momentum=0.6, epsilon=1e-12, scale=False, name=f"{name}_bn")(x)
    return Gelu(name=f"{name}_gelu")(x)
