"""The weights of keras.applications (Apache-2.0), in the files of every Keras.

What differs from the networks here, and how nothing of it is lost:

* VGG and ResNet v1 read blue, green, red on 0..255 less the mean colour, as in Caffe. Here images
  are in red, green, blue: the stem's kernel is turned round.
* ResNet v1 has a bias in front of each batch normalization: it is taken from the moving mean.
* ResNet's normalization has an epsilon of 1.001e-5, here 1e-5: the difference goes into the moving
  variance. It is below the rounding of all but the smallest variances.
* The Inceptions' normalization has no scale (gamma): here it is one.
* VGG flattens the last map in front of dense layers, which are convolutions here.

Layers of the Inceptions have no names but numbers, in the order in which the network is written
down. The numbers of a second network in the same process go on where the first one's ended; only
their order counts.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import keras
import numpy as np

from keras_cls.architectures import model_spec
from keras_cls.architectures.inception_v2_v3 import InceptionSpec
from keras_cls.preprocessing import Preprocessing
from keras_cls.weights._plan import Origin, Reshape, Reverse, Shape
from keras_cls.weights.formats import WeightsFile
from keras_cls.weights.formats.keras_h5 import numbers_variables
from keras_cls.weights.source import Release, Source

_URL = "https://storage.googleapis.com/tensorflow/keras-applications"


@dataclass(frozen=True)
class Plus:
    """Adds a number: to a variance, what another epsilon would add."""

    number: float

    @property
    def said(self) -> str:
        """Which number."""
        return f"{self.number:+.3g}"

    def shape_in_file(self, shape: Shape) -> Shape:
        """The same."""
        return shape

    def __call__(self, tensor: np.ndarray) -> np.ndarray:
        """Add."""
        return tensor + np.float32(self.number)


# --- Names of layers: ours -> theirs --------------------------------------------------------------

# (network, file) -> for each of the network's layers with weights, the file's layer.
Layers = Callable[[keras.Model, WeightsFile], Mapping[str, str]]

_HEAD = "predictions"


def _by_name(theirs: Callable[[str], str | None]) -> Layers:
    def layers(model: keras.Model, file: WeightsFile) -> dict[str, str]:
        return {layer: _named(model, layer, theirs) for layer in _with_weights(model)}

    return layers


def _with_weights(model: keras.Model) -> list[str]:
    return [layer.name for layer in model.layers if layer.weights]


def _named(model: keras.Model, layer: str, theirs: Callable[[str], str | None]) -> str:
    if layer == model_spec(model.name).head:
        return _HEAD
    # Auxiliary heads, which keras.applications has not, are missing under our own names.
    return theirs(layer) or layer


def vgg_layer(layer: str) -> str | None:
    """``"conv3_2"`` -> ``"block3_conv2"``; None for what keras.applications does not have."""
    if match := re.fullmatch(r"conv(\d)_(\d)", layer):
        return f"block{match[1]}_conv{match[2]}"
    return {"fc6": "fc1", "fc7": "fc2"}.get(layer)


def resnet_layer(layer: str) -> str | None:
    """``"conv3_2_conv1_bn"`` -> ``"conv3_block2_1_bn"``; the shortcut is number 0."""
    ends = {"conv1": "conv1_conv", "conv1_bn": "conv1_bn", "postnorm_bn": "post_bn"}
    if layer in ends:
        return ends[layer]
    if match := re.fullmatch(r"(conv\d)_(\d+)_preact_bn", layer):
        return f"{match[1]}_block{match[2]}_preact_bn"
    if match := re.fullmatch(r"(conv\d)_(\d+)_(?:conv(\d)|shortcut)(_bn)?", layer):
        stage, unit, number, normalization = match.groups()
        return f"{stage}_block{unit}_{number or 0}_{'bn' if normalization else 'conv'}"
    return None


_NASNET_PARTS = {
    "1x1": "{kind}_conv_1",
    "beginning_bn": "{kind}_bn_1",
    "prev_1x1": "adjust_conv_projection",
    "prev_bn": "adjust_bn",
    "path1_conv": "adjust_conv_1",
    "path2_conv": "adjust_conv_2",
    "final_path_bn": "adjust_bn",
}


def _nasnet_layers(model: keras.Model, file: WeightsFile) -> dict[str, str]:
    found = {
        layer: _named(model, layer, lambda ours: nasnet_layer(model.name, ours))
        for layer in _with_weights(model)
    }
    # The published files are of github.com/titu1994/Keras-NASNet, which has one name otherwise.
    # Keras does not notice: it goes by the order of the layers.
    if "separable_conv_1_reduction_1_stem_1/depthwise_kernel" in file.tensors:
        return {
            layer: name.replace("reduction_right1", "reduction_1") for layer, name in found.items()
        }
    return found


def nasnet_layer(network: str, layer: str) -> str | None:
    """``"cell_5_comb_iter_0_left_bn_sep_5x5_1"`` -> ``"separable_conv_1_bn_normal_left1_6"``.

    Cells are counted with the reductions there (but for those of the stem), without them here.
    """
    if layer in ("conv0", "conv0_bn"):
        return {"conv0": "stem_conv1", "conv0_bn": "stem_bn1"}[layer]
    match = re.fullmatch(r"(cell_stem|reduction_cell|cell)_(\d+)_(.+)", layer)
    if match is None:
        return None
    cells = model_spec(network).repeats  # type: ignore[attr-defined]
    number = int(match[2])
    kind = "normal" if match[1] == "cell" else "reduction"
    cell = {
        "cell_stem": f"stem_{number + 1}",
        "reduction_cell": f"reduce_{(number + 1) * cells}",
        "cell": str(number if number < cells else number + 1),
    }[match[1]]
    if match[3] in _NASNET_PARTS:
        return f"{_NASNET_PARTS[match[3]].format(kind=kind)}_{cell}"
    separable = re.fullmatch(
        r"comb_iter_(\d)_(left|right)_(separable|bn_sep)_\dx\d_([12])", match[3]
    )
    if separable is None:
        return None
    block, side, part, which = separable.groups()
    # The left side of a reduction's last block is called as if it were the fourth's.
    place = 4 if kind == "reduction" and block == "4" else int(block) + 1
    bn = "bn_" if part == "bn_sep" else ""
    return f"separable_conv_{which}_{bn}{kind}_{side}{place}_{cell}"


def inception_resnet_layer(layer: str) -> str | None:
    """``"Repeat_1_block17_3_Conv2d_1x1"`` -> ``"block17_3_conv"``: the layers that have a name."""
    if match := re.fullmatch(r"Repeat(?:_\d)?_(block\d+_\d+)_Conv2d_1x1", layer):
        return f"{match[1]}_conv"
    return {
        "Block8_Conv2d_1x1": "block8_10_conv",
        "Conv2d_7b_1x1": "conv_7b",
        "Conv2d_7b_1x1_bn": "conv_7b_bn",
    }.get(layer)


def _by_number(named: Callable[[str], str | None]) -> Layers:
    """Layers without a name go by their order: that of our parts, and that of the numbers."""

    def layers(model: keras.Model, file: WeightsFile) -> dict[str, str]:
        found = {layer: _named(model, layer, named) for layer in _with_weights(model)}
        convolutions = [
            layer for layer in _as_written_down(model) if named(layer) is None and layer in found
        ]
        numbered = zip(
            convolutions,
            _numbered(file, "conv2d"),
            _numbered(file, "batch_normalization"),
            strict=False,  # they go on without end
        )
        for layer, convolution, normalization in numbered:
            found[layer] = convolution
            found[f"{layer}_bn"] = normalization
        return found

    return layers


def _as_written_down(model: keras.Model) -> Iterator[str]:
    """The convolutions of an Inception, part by part, branch by branch.

    Within a part the order of the names is that order: Branch_0 before Branch_1, 0a before 0b, and
    those before 1a, which halves the map at a branch's end.
    """
    spec = model_spec(model.name)
    assert isinstance(spec, InceptionSpec)
    layers = {layer.name for layer in model.layers if isinstance(layer, keras.layers.Conv2D)}
    for part, _ in spec.parts:
        yield from sorted(layer for layer in layers if f"{layer}_".startswith(f"{part}_"))


def _numbered(file: WeightsFile, kind: str) -> Iterator[str]:
    """The file's ``conv2d``, ``conv2d_1``, ..., and then names that it does not have."""
    pattern = re.compile(rf"{kind}(?:_(\d{{1,9}}))?")
    names = dict.fromkeys(key.rpartition("/")[0] for key in file.tensors)
    numbers = {
        name: int(match[1] or 0) for name in names if (match := pattern.fullmatch(name)) is not None
    }
    yield from sorted(numbers, key=lambda name: numbers[name])
    number = max(numbers.values(), default=-1)
    while True:
        number += 1
        yield f"{kind}_{number}" if number else kind


# --- Families -------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Family:
    """How keras.applications builds a family.

    Attributes:
        layers: which layer of a file is which of ours.
        bgr: images are in blue, green, red on 0..255, less the mean colour; else -1..1.
        scale: batch normalization has a gamma.
        biased: convolutions in front of a batch normalization have a bias.
        epsilon: what its batch normalization adds to a variance beyond what ours does.
        top: layers behind the last feature map.
    """

    layers: Layers
    bgr: bool = False
    scale: bool = True
    biased: bool = False
    epsilon: float = 0.0
    top: tuple[str, ...] = (_HEAD,)


# keras.applications' ResNets add 1.001e-5 to a variance, ours 1e-5.
MORE_EPSILON = 1.001e-5 - 1e-5
_FAMILIES = {
    "vgg": _Family(layers=_by_name(vgg_layer), bgr=True, top=("fc1", "fc2", _HEAD)),
    "resnet": _Family(layers=_by_name(resnet_layer), bgr=True, biased=True, epsilon=MORE_EPSILON),
    "resnet_v2": _Family(layers=_by_name(resnet_layer), epsilon=MORE_EPSILON),
    "inception_v2_v3": _Family(layers=_by_number(lambda layer: None), scale=False),
    "inception_resnet": _Family(layers=_by_number(inception_resnet_layer), scale=False),
    "nasnet": _Family(layers=_nasnet_layers),
}


def origins(model: keras.Model, file: WeightsFile) -> dict[str, Origin]:
    """For each variable's path, the file's tensor."""
    family = _FAMILIES[model_spec(model.name).family]
    names = family.layers(model, file)
    numbered = numbers_variables(file)
    layers = [layer for layer in model.layers if layer.weights]
    found = {
        variable.path: _origin(family, names[layer.name], layer, variable, numbered)
        for layer in layers
        for variable in layer.weights
    }
    if family.bgr:
        stem = layers[0].kernel.path
        found[stem] = replace(found[stem], changes=(Reverse(axis=2),))
    return found


def _origin(
    family: _Family, name: str, layer: keras.Layer, variable: keras.Variable, numbered: bool
) -> Origin:
    """``name`` is the layer's in the file, which numbers its variables or names them."""
    there = [v.name for v in layer.weights if family.scale or v.name != "gamma"]
    if variable.name not in there:
        return Origin(None, value=1.0)
    key = f"{name}/{there.index(variable.name) if numbered else variable.name}"
    match variable.name:
        case "kernel" if name in ("fc1", "fc2"):
            return Origin(key, (_dense(tuple(variable.shape)),))
        case "moving_mean" if family.biased:
            bias = f"{name.removesuffix('_bn')}_conv/{1 if numbered else 'bias'}"
            return Origin(key, less=bias)
        case "moving_variance" if family.epsilon:
            return Origin(key, (Plus(family.epsilon),))
        case _:
            return Origin(key)


def _dense(kernel: Shape) -> Reshape:
    height, width, channels, units = kernel
    return Reshape(in_file=(height * width * channels, units), ours=kernel)


# --- Releases -------------------------------------------------------------------------------------

# Caffe's mean colour, in red, green, blue on 0..255.
_MEAN_COLOUR = (123.68, 116.779, 103.939)


def _preprocessing(network: str) -> Preprocessing:
    """The network's own rule of size and crop, with the values that these weights expect."""
    spec = model_spec(network)
    if _FAMILIES[spec.family].bgr:
        mean = tuple(value / 255 for value in _MEAN_COLOUR)
        return replace(spec.preprocessing, mean=mean, std=(1 / 255,) * 3)
    return replace(spec.preprocessing, mean=(0.5,) * 3, std=(0.5,) * 3)


def _release(network: str, name: str, file: str, md5: str) -> Release:
    top = _FAMILIES[model_spec(network).family].top
    return Release(
        name=name,
        preprocessing=_preprocessing(network),
        head=(f"{_HEAD}/",),
        top=tuple(f"{layer}/" for layer in top),
        url=f"{_URL}/{file}",
        md5=md5,
    )


_KERNELS = "weights_tf_dim_ordering_tf_kernels.h5"
_STRIDE_ON_THE_1X1 = (
    "the ResNets of keras.applications have their stride on the first 1x1 convolution: {}_v1 is "
    "that network"
)

SOURCE = Source(
    name="keras-applications",
    about="the weights of keras.applications (each under the licence of its authors)",
    endings=(".h5", ".weights.h5", ".keras"),
    releases={
        network: _release(network, name, file, md5)
        for network, name, file, md5 in (
            ("vgg16", "vgg16", f"vgg16/vgg16_{_KERNELS}", "64373286793e3c8b2b4e3219cbf3544b"),
            ("vgg19", "vgg19", f"vgg19/vgg19_{_KERNELS}", "cbe5617147190e668d6c5d5026f83318"),
            (
                "resnet50_v1",
                "resnet50",
                f"resnet/resnet50_{_KERNELS}",
                "2cb95161c43110f7111970584f804107",
            ),
            (
                "resnet101_v1",
                "resnet101",
                f"resnet/resnet101_{_KERNELS}",
                "f1aeb4b969a6efcfb50fad2f0c20cfc5",
            ),
            (
                "resnet152_v1",
                "resnet152",
                f"resnet/resnet152_{_KERNELS}",
                "100835be76be38e30d865e96f2aaae62",
            ),
            (
                "resnet50_v2",
                "resnet50v2",
                f"resnet/resnet50v2_{_KERNELS}",
                "3ef43a0b657b3be2300d5770ece849e0",
            ),
            (
                "resnet101_v2",
                "resnet101v2",
                f"resnet/resnet101v2_{_KERNELS}",
                "6343647c601c52e1368623803854d971",
            ),
            (
                "resnet152_v2",
                "resnet152v2",
                f"resnet/resnet152v2_{_KERNELS}",
                "a49b44d1979771252814e80f8ec446f9",
            ),
            (
                "inception_v3",
                "inception_v3",
                f"inception_v3/inception_v3_{_KERNELS}",
                "9a0d58056eeedaa3f26cb7ebd46da564",
            ),
            (
                "inception_resnet_v2",
                "inception_resnet_v2",
                f"inception_resnet_v2/inception_resnet_v2_{_KERNELS}",
                "e693bd0210a403b3192acc6073ad2e96",
            ),
            (
                "nasnet_mobile",
                "nasnet_mobile",
                "nasnet/NASNet-mobile.h5",
                "020fb642bf7360b370c678b08e0adf61",
            ),
            (
                "nasnet_large",
                "nasnet_large",
                "nasnet/NASNet-large.h5",
                "11577c9a518f0070763c2b964a382f17",
            ),
        )
    },
    refused={
        **{
            network: _STRIDE_ON_THE_1X1.format(network)
            for network in ("resnet50", "resnet101", "resnet152")
        },
        "inception_resnet_v2_paper": (
            "keras.applications has the network as it was released: inception_resnet_v2 is that one"
        ),
    },
    origins=origins,
)
