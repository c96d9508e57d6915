"""LeNet-5 (LeCun et al. 1998), as it is built today."""

import keras

from keras_cls.architectures._registry import register
from keras_cls.architectures.spec import ModelSpec, Network, Paper, ReportedError, Tensor, Views
from keras_cls.preprocessing import Preprocessing

LENET5 = ModelSpec(
    name="lenet5",
    family="lenet",
    paper=Paper(
        title="Gradient-Based Learning Applied to Document Recognition",
        authors="LeCun, Bottou, Bengio, Haffner",
        year=1998,
        url="https://doi.org/10.1109/5.726791",
    ),
    news=(
        "Convolutions with shared weights, subsampling and a classifier were trained as one, by "
        "gradients, from pixels to digits. It read cheques for years before the field took notice."
    ),
    input_shape=(32, 32, 1),
    min_size=(32, 32),
    num_classes=10,
    params_trainable=61_706,
    params_total=61_706,
    multiply_adds=416_520,
    # The paper's range: the background (0 in MNIST's files) becomes -0.1, ink (255) 1.175.
    preprocessing=Preprocessing(
        size=(32, 32),
        resize="squash",
        crop=1.0,
        mean=(0.1 / 1.275,),
        std=(1 / 1.275,),
        color_mode="grayscale",
    ),
    endpoints=("C1", "C3", "C5"),
    reported=(
        ReportedError(
            "paper_single",
            "MNIST test",
            0.95,
            None,
            "paper, section III",
            recalled=True,
            views=Views(),
        ),
        ReportedError(
            "paper_best",
            "MNIST test, trained with distortions",
            0.8,
            None,
            "paper, section III",
            recalled=True,
            views=Views(),
        ),
    ),
    deviations=(
        "The original has 60,000 trainable parameters: its subsampling layers S2 and S4 have a "
        "trainable coefficient and bias a map and a squashing function; here they only average.",
        "The original connects each of C3's maps to some of S2's maps (its Table I); here to all.",
        "The original ends in Euclidean radial basis functions with fixed 7x12 bitmaps of the "
        "characters; here a dense layer gives the logits.",
        "The original squashes with 1.7159 tanh(2/3 x); here tanh(x).",
        "C5 is a convolution, as in the paper; on inputs larger than 32x32 its map is averaged.",
        "Weights start Glorot-uniform (2010), derived for tanh; the original drew them uniformly "
        "from +-2.4 / fan-in.",
    ),
)


@register(LENET5)
def lenet5(images: Tensor, spec: ModelSpec, num_classes: int) -> Network:
    """[N, H, W, C] -> logits [N, num_classes]; the layers bear the paper's names."""
    endpoints = {}
    x = endpoints["C1"] = _convolution(images, 6, name="C1")
    x = keras.layers.AveragePooling2D(2, name="S2")(x)
    x = endpoints["C3"] = _convolution(x, 16, name="C3")
    x = keras.layers.AveragePooling2D(2, name="S4")(x)
    x = endpoints["C5"] = _convolution(x, 120, name="C5")
    x = keras.layers.GlobalAveragePooling2D(name="C5_pool")(x)
    x = keras.layers.Dense(84, activation="tanh", name="F6")(x)
    logits = keras.layers.Dense(num_classes, dtype="float32", name=spec.head)(x)
    return Network(logits, endpoints)


def _convolution(x: Tensor, filters: int, name: str) -> Tensor:
    return keras.layers.Conv2D(filters, 5, activation="tanh", name=name)(x)
