"""AlexNet (Krizhevsky et al. 2012) with the two groups and the normalization of the paper."""

import keras

from keras_cls.architectures._registry import register
from keras_cls.architectures.blocks import fully_connected, max_pool_ceil
from keras_cls.architectures.layers import GroupedConv2D, LocalResponseNormalization
from keras_cls.architectures.spec import (
    ModelSpec,
    Network,
    Paper,
    ReportedError,
    ReviewFigure,
    Tensor,
    Views,
)
from keras_cls.preprocessing import IMAGENET_MEAN, Preprocessing

ALEXNET = ModelSpec(
    name="alexnet",
    family="alexnet",
    paper=Paper(
        title="ImageNet Classification with Deep Convolutional Neural Networks",
        authors="Krizhevsky, Sutskever, Hinton",
        year=2012,
        url="https://doi.org/10.1145/3065386",
    ),
    news=(
        "A convolutional network with rectifiers and dropout, spread over two graphics cards, won "
        "ImageNet by ten points over hand-made features. Within two years nobody entered with "
        "anything else."
    ),
    input_shape=(227, 227, 3),
    min_size=(39, 39),
    num_classes=1000,
    params_trainable=60_965_224,
    params_total=60_965_224,
    multiply_adds=724_406_816,
    # The paper subtracts the mean activity over the training set and leaves the scale at 0..255.
    preprocessing=Preprocessing(
        size=(227, 227), crop=227 / 256, mean=IMAGENET_MEAN, std=(1 / 255,) * 3
    ),
    endpoints=("conv1", "conv2", "conv5", "pool5"),
    reported=(
        ReportedError(
            "paper_single",
            "ImageNet validation, one network, ten views averaged",
            40.7,
            18.2,
            "paper, table 2",
            views=Views(10),
        ),
        ReportedError(
            "paper_best",
            "ImageNet 2012 test, five networks",
            None,
            16.4,
            "paper, table 2",
        ),
        ReportedError(
            "paper_best",
            "ImageNet 2012 test, seven networks, two of them first trained on ImageNet 2011",
            None,
            15.3,
            "paper, abstract",
        ),
        ReportedError(
            "release",
            "ImageNet validation, one crop; torchvision's weights, of the variant with one tower",
            43.48,
            20.93,
            "torchvision, models/alexnet.py",
        ),
    ),
    review=ReviewFigure(
        15.3, "seven networks, two of them first trained on ImageNet 2011; ImageNet 2012 test"
    ),
    deviations=(
        "The paper prints an input of 224 pixels; its map of 55 needs 227 without padding, as in "
        "Caffe's bvlc_alexnet: so does this network.",
        "The paper's normalization: k = 2, and alpha is not divided by n = 5. Caffe has k = 1 and "
        "divides: for Caffe's weights set bias=1, alpha=2e-5 on norm1 and norm2.",
        "Normalization comes before pooling, as in the paper and bvlc_alexnet; bvlc_reference_"
        "caffenet has it the other way round.",
        "torchvision's alexnet is another network: one tower of 64-192-384-256-256 maps, without "
        "groups and normalization.",
        "The mean of each colour is subtracted, not the mean image, and colours are not jittered "
        "along their principal components.",
        "Dropout follows fc6 and fc7; in testing nothing is halved, since training doubles what it "
        "keeps.",
        "fc6 is a convolution over the whole 6x6 map; on larger inputs it runs at each position "
        "and fc7 is averaged, on smaller ones its kernel is as small as the map.",
    ),
)


@register(ALEXNET)
def alexnet(images: Tensor, spec: ModelSpec, num_classes: int) -> Network:
    """[N, H, W, C] -> logits [N, num_classes]; the layers bear the names of bvlc_alexnet."""
    endpoints = {}
    x = endpoints["conv1"] = _convolution(images, 96, 11, "conv1", strides=4, padding="valid")
    x = LocalResponseNormalization(name="norm1")(x)
    x = max_pool_ceil(x, name="pool1")
    x = endpoints["conv2"] = _convolution(x, 256, 5, "conv2", groups=2, bias=1)
    x = LocalResponseNormalization(name="norm2")(x)
    x = max_pool_ceil(x, name="pool2")
    # The one convolution that sees what both graphics cards have found.
    x = _convolution(x, 384, 3, "conv3")
    x = _convolution(x, 384, 3, "conv4", groups=2, bias=1)
    x = endpoints["conv5"] = _convolution(x, 256, 3, "conv5", groups=2, bias=1)
    x = endpoints["pool5"] = max_pool_ceil(x, name="pool5")
    x = fully_connected(x, 4096, 6, "fc6", **_initializers(bias=1))
    x = keras.layers.Dropout(0.5, name="drop6")(x)
    x = fully_connected(x, 4096, 1, "fc7", **_initializers(bias=1))
    x = keras.layers.Dropout(0.5, name="drop7")(x)
    x = keras.layers.GlobalAveragePooling2D(name="fc7_pool")(x)
    logits = keras.layers.Dense(
        num_classes, dtype="float32", name=spec.head, **_initializers(bias=0)
    )(x)
    return Network(logits, endpoints)


def _convolution(
    x: Tensor,
    filters: int,
    kernel: int,
    name: str,
    strides: int = 1,
    padding: str = "same",
    groups: int = 1,
    bias: int = 0,
) -> Tensor:
    return GroupedConv2D(
        filters,
        kernel,
        strides=strides,
        padding=padding,
        groups=groups,
        activation="relu",
        name=name,
        **_initializers(bias),
    )(x)


def _initializers(bias: int) -> dict[str, keras.Initializer]:
    """Section 5: biases of one give the rectifiers something to pass on from the start."""
    return {
        "kernel_initializer": keras.initializers.RandomNormal(stddev=0.01),
        "bias_initializer": keras.initializers.Constant(bias),
    }
