"""ResNet for CIFAR-10 (He et al. 2015, section 4.2), and its plain twins without shortcuts."""

from dataclasses import dataclass
from typing import Literal

import keras

from keras_cls.architectures._registry import register
from keras_cls.architectures.layers import ZeroPadChannels
from keras_cls.architectures.resnet import (
    BASIC,
    NEWS,
    PAPER,
    convolution,
    projection,
    residual_unit,
)
from keras_cls.architectures.spec import ModelSpec, Network, ReportedError, Tensor, Views
from keras_cls.preprocessing import Preprocessing


@dataclass(frozen=True, kw_only=True)
class CifarResNetSpec(ModelSpec):
    """A network of 6n + 2 layers: n units in each of its three stages."""

    units: int
    shortcut: Literal["zero_pad", "projection", "none"]


_ZEROS = {
    "zero_pad": (
        "The paper does not say where a shortcut's zero channels go; the released weights have "
        "half of them on either side: so has this network.",
    ),
    "none": (),
}


def _cifar_spec(
    name: str,
    units: int,
    params: tuple[int, int],
    multiply_adds: int,
    errors: tuple[float, float] | None,
    shortcut: Literal["zero_pad", "none"] = "zero_pad",
) -> CifarResNetSpec:
    readme = "github.com/akamaster/pytorch_resnet_cifar10, README"
    return CifarResNetSpec(
        name=name,
        family="resnet_cifar",
        paper=PAPER,
        news=NEWS,
        input_shape=(32, 32, 3),
        min_size=(8, 8),
        num_classes=10,
        params_trainable=params[0],
        params_total=params[1],
        multiply_adds=multiply_adds,
        preprocessing=Preprocessing(size=(32, 32), resize="squash", crop=1.0),
        endpoints=("conv2_x", "conv3_x", "conv4_x"),
        units=units,
        shortcut=shortcut,
        reported=()
        if errors is None
        else (
            ReportedError(
                "paper_best",
                "CIFAR-10 test",
                errors[0],
                None,
                f"paper, as quoted in {readme}",
                views=Views(),
            ),
            ReportedError(
                "release",
                "CIFAR-10 test, released weights",
                errors[1],
                None,
                readme,
                views=Views(),
            ),
        ),
        deviations=(
            "The paper subtracts the mean image; the released weights (akamaster) scale with "
            "ImageNet's mean and deviation: so does the preprocessing here.",
            *_ZEROS[shortcut],
        ),
    )


CIFAR_RESNETS = (
    _cifar_spec("resnet20_cifar10", 3, (269_722, 271_098), 40_551_040, (8.75, 8.27)),
    _cifar_spec("resnet32_cifar10", 5, (464_154, 466_426), 68_862_592, (7.51, 7.37)),
    _cifar_spec("resnet44_cifar10", 7, (658_586, 661_754), 97_174_144, (7.17, 6.90)),
    _cifar_spec("resnet56_cifar10", 9, (853_018, 857_082), 125_485_696, (6.97, 6.61)),
    _cifar_spec("resnet110_cifar10", 18, (1_727_962, 1_736_058), 252_887_680, (6.43, 6.32)),
    _cifar_spec("plain20_cifar10", 3, (269_722, 271_098), 40_551_040, None, "none"),
    _cifar_spec("plain56_cifar10", 9, (853_018, 857_082), 125_485_696, None, "none"),
)


@register(*CIFAR_RESNETS)
def resnet_cifar(images: Tensor, spec: CifarResNetSpec, num_classes: int) -> Network:
    """[N, H, W, C] -> logits [N, num_classes]; stages are numbered as in the ImageNet networks."""
    endpoints = {}
    x = convolution(images, 16, 3, 1, name="conv1")
    x = keras.layers.ReLU(name="conv1_relu")(x)
    for stage, width in enumerate((16, 32, 64), start=2):
        for number in range(1, spec.units + 1):
            stride = 2 if stage > 2 and number == 1 else 1
            x = residual_unit(
                x, BASIC, width, stride, _SHORTCUTS[spec.shortcut], name=f"conv{stage}_{number}"
            )
        endpoints[f"conv{stage}_x"] = x
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    logits = keras.layers.Dense(
        num_classes, kernel_initializer="he_normal", dtype="float32", name=spec.head
    )(x)
    return Network(logits, endpoints)


def _zero_pad(x: Tensor, filters: int, stride: int, name: str) -> Tensor:
    """Option A, without parameters: every second pixel, and channels of zeros on either side."""
    if stride > 1:
        # A window of one pixel keeps it as it is.
        x = keras.layers.MaxPooling2D(1, stride, name=f"{name}_subsample")(x)
    missing = filters - x.shape[-1]
    if missing:
        x = ZeroPadChannels(missing // 2, missing - missing // 2, name=f"{name}_pad")(x)
    return x


_SHORTCUTS = {"zero_pad": _zero_pad, "projection": projection, "none": None}
