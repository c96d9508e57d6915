"""Networks of repeated cells: a cell as data, and the one way from cells to a network.

NASNet (arXiv 1707.07012) and PNASNet (arXiv 1712.00559) are built here from their published cells,
and a search builds its candidates here. A cell has numbered hidden states: 0 is its input, brought
to the cell's width by a 1x1 convolution; 1 is the output of the cell before (the input itself where
there is none); each of its blocks appends one. Layer names are the release's scopes
(tensorflow/models, research/slim/nets/nasnet) with "_" for "/".
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, TypeAlias

import keras

from keras_cls.architectures.layers import BatchNormalization, DropPath
from keras_cls.architectures.spec import ModelSpec, Network, Tensor
from keras_cls.errors import ConfigError


@dataclass(frozen=True)
class Block:
    """Two hidden states, an operation on each, and the way the two results become one.

    Attributes:
        left: (operation, hidden state): a name of :data:`OPERATIONS` and what it is applied to.
        right: the other one.
        combine: add the two, or put their channels one after the other.
    """

    left: tuple[str, int]
    right: tuple[str, int]
    combine: Literal["add", "concat"] = "add"


@dataclass(frozen=True)
class Cell:
    """A cell, of any width and of stride 1 or 2; in the latter, what reads state 0 or 1 strides.

    Attributes:
        blocks: the blocks; the first appends hidden state 2.
        output: the hidden states whose channels, one after the other, are the cell's output.

    Raises:
        ConfigError: an unknown operation or combination, or a state that is not there (yet).
    """

    blocks: tuple[Block, ...]
    output: tuple[int, ...]

    def __post_init__(self) -> None:
        for number, block in enumerate(self.blocks):
            for operation, state in (block.left, block.right):
                if operation not in OPERATIONS:
                    known = ", ".join(OPERATIONS)
                    raise ConfigError(
                        f"block {number}: expected an operation among {known}, found {operation!r}"
                    )
                _check_state(f"block {number}", state, number + 2)
            if block.combine not in COMBINATIONS:
                raise ConfigError(
                    f"block {number}: combine: expected add or concat, found {block.combine!r}"
                )
        if not self.blocks:
            raise ConfigError("blocks: expected one at least, found none")
        if not self.output:
            raise ConfigError("output: expected a hidden state at least, found none")
        for state in self.output:
            _check_state("output", state, len(self.blocks) + 2)


def _check_state(place: str, found: int, states: int) -> None:
    if not 0 <= found < states:
        raise ConfigError(f"{place}: expected a hidden state 0 to {states - 1}, found {found!r}")


@dataclass(frozen=True)
class Normalization:
    """Batch normalization as all layers of a network have it; the defaults are ImageNet's."""

    momentum: float = 0.9997
    epsilon: float = 1e-3

    def __call__(self, x: Tensor, name: str) -> Tensor:
        """Normalize [N, H, W, C]."""
        return BatchNormalization(momentum=self.momentum, epsilon=self.epsilon, name=name)(x)


@dataclass(frozen=True)
class Stem:
    """What comes before the first stage: a 3x3 convolution, then reduction cells.

    Attributes:
        conv: the name of the convolution.
        bn: the name of its batch normalization.
        filters: its width.
        stride: 2 is unpadded (ImageNet), 1 is padded (CIFAR).
        cells: how many reduction cells follow, each half as wide as the next.
    """

    conv: str
    bn: str
    filters: int
    stride: int
    cells: int


def imagenet_stem(filters: int) -> Stem:
    """A convolution and two reduction cells: an eighth of the image's side."""
    return Stem("conv0", "conv0_bn", filters, stride=2, cells=2)


def cifar_stem(filters: int) -> Stem:
    """A convolution alone: the image's side is kept."""
    return Stem("l1_stem_3x3", "l1_stem_bn", filters, stride=1, cells=0)


@dataclass(frozen=True, kw_only=True)
class CellNetworkSpec(ModelSpec):
    """A network of three stages of equal cells, the width doubled from stage to stage.

    Attributes:
        normal: the cell of stride 1.
        reduction: the cell of stride 2; a search that has one cell names it twice.
        reductions_between: True where a reduction cell of its own stands between two stages, False
            where the first cell of the second and third stage strides.
        repeats: cells a stage, the reductions between them not counted (the paper's N).
        filters: width of the first stage's cells (the paper's F).
        stem: what comes before the stages.
        skip_reduction: where reductions stand between stages: the cell after one takes for its
            hidden state 1 what the reduction took, and not the reduction's input.
        drop_path: probability with which the last cell drops a path in the end; smaller in the
            cells before, in proportion to their number.
        dropout: probability with which an input of the last layer is dropped.
        normalization: momentum and epsilon of batch normalization.
    """

    normal: Cell
    reduction: Cell
    reductions_between: bool
    repeats: int
    filters: int
    stem: Stem
    skip_reduction: bool = False
    drop_path: float = 0.0
    dropout: float = 0.5
    normalization: Normalization = field(default_factory=Normalization)


@dataclass(frozen=True)
class Place:
    """A cell's place in a network; ``previous``: how many outputs back hidden state 1 is."""

    name: str
    cell: Cell
    filters: int
    stride: int = 1
    previous: int = 2


def places(spec: CellNetworkSpec) -> list[Place]:
    """The cells of a network, first to last, those of the stem among them."""
    found = [
        Place(f"cell_stem_{i}", spec.reduction, spec.filters >> (spec.stem.cells - i), stride=2)
        for i in range(spec.stem.cells)
    ]
    for stage in range(3):
        filters = spec.filters * 2**stage
        after_reduction = stage > 0 and spec.reductions_between
        strided = stage > 0 and not spec.reductions_between
        if after_reduction:
            found.append(Place(f"reduction_cell_{stage - 1}", spec.reduction, filters, stride=2))
        for i in range(spec.repeats):
            name = f"cell_{stage * spec.repeats + i}"
            if i == 0 and strided:
                found.append(Place(name, spec.reduction, filters, stride=2))
            elif i == 0 and after_reduction and spec.skip_reduction:
                found.append(Place(name, spec.normal, filters, previous=3))
            else:
                found.append(Place(name, spec.normal, filters))
    return found


def stage_ends(spec: CellNetworkSpec) -> tuple[str, ...]:
    """The names of the stages' last cells."""
    return tuple(f"cell_{(stage + 1) * spec.repeats - 1}" for stage in range(3))


def cell_network(
    images: Tensor, spec: CellNetworkSpec, num_classes: int, aux: bool = False
) -> Network:
    """[N, H, W, C] -> logits [N, num_classes]; the auxiliary head reads the second stage's end."""
    endpoints = {spec.stem.conv: _stem(images, spec)}
    outputs = list(endpoints.values())
    plan = places(spec)
    for number, place in enumerate(plan, start=1):
        endpoints[place.name] = cell(
            outputs[-1],
            outputs[-place.previous] if len(outputs) >= place.previous else None,
            place,
            spec.normalization,
            drop_path=spec.drop_path * number / len(plan),
        )
        outputs.append(endpoints[place.name])

    x = keras.layers.ReLU(name="final_relu")(outputs[-1])
    x = keras.layers.GlobalAveragePooling2D(name="global_pool")(x)
    if spec.dropout > 0:
        x = keras.layers.Dropout(spec.dropout, name="final_dropout")(x)
    logits = keras.layers.Dense(num_classes, dtype="float32", name=spec.head)(x)
    heads = {}
    if aux:
        (head,) = spec.aux_heads
        read = endpoints[stage_ends(spec)[1]]
        heads[head] = _auxiliary_head(read, num_classes, spec.normalization, name=head)
    return Network(logits, {name: endpoints[name] for name in spec.endpoints}, heads)


def _stem(images: Tensor, spec: CellNetworkSpec) -> Tensor:
    stem = spec.stem
    padding = "same" if stem.stride == 1 else "valid"
    x = _convolution(images, stem.filters, 3, stem.stride, stem.conv, padding)
    return spec.normalization(x, stem.bn)


def _auxiliary_head(x: Tensor, num_classes: int, norm: Normalization, name: str) -> Tensor:
    """Logits, of a convolution as large as the pooled map; ``name`` is that of the last layer."""
    x = keras.layers.ReLU(name="aux_relu")(x)
    # Only an image smaller than the published ones has a map smaller than the window.
    window = (min(5, x.shape[1]), min(5, x.shape[2]))
    x = keras.layers.AveragePooling2D(window, 3, name="aux_pool")(x)
    x = norm(_convolution(x, 128, 1, 1, "aux_proj"), "aux_bn0")
    x = keras.layers.ReLU(name="aux_bn0_relu")(x)
    x = norm(_convolution(x, 768, tuple(x.shape[1:3]), 1, "aux_conv", "valid"), "aux_bn1")
    x = keras.layers.ReLU(name="aux_bn1_relu")(x)
    x = keras.layers.Flatten(name="aux_flatten")(x)
    return keras.layers.Dense(num_classes, dtype="float32", name=name)(x)


def cell(
    x: Tensor, previous: Tensor | None, place: Place, norm: Normalization, drop_path: float = 0.0
) -> Tensor:
    """One cell: [N, H, W, C] and the output before it -> [N, H/stride, W/stride, outputs * width].

    Sizes are rounded up. ``previous`` may have the size of ``x`` or be one reduction larger, and
    any number of channels.
    """
    name, filters = place.name, place.filters
    states = [
        _beginning(x, filters, norm, name),
        x if previous is None else _like(previous, x, filters, norm, name),
    ]
    for number, block in enumerate(place.cell.blocks):
        scope = f"{name}_comb_iter_{number}"
        sides = []
        for side, (operation, state) in (("left", block.left), ("right", block.right)):
            # A block's output is already as small as the cell's.
            stride = place.stride if state < 2 else 1
            h = OPERATIONS[operation](states[state], filters, stride, norm, f"{scope}_{side}")
            if drop_path > 0 and operation != "identity":
                h = ScheduledDropPath(drop_path, name=f"{scope}_{side}_drop_path")(h)
            sides.append(h)
        states.append(COMBINATIONS[block.combine](name=f"{scope}_combine")(sides))
    outputs = [
        _fit(states[state], states[-1], filters, norm, f"{name}_reduction_{state}")
        for state in place.cell.output
    ]
    return keras.layers.Concatenate(name=name)(outputs)


def _beginning(x: Tensor, filters: int, norm: Normalization, name: str) -> Tensor:
    """Hidden state 0."""
    x = keras.layers.ReLU(name=f"{name}_relu")(x)
    return norm(_convolution(x, filters, 1, 1, f"{name}_1x1"), f"{name}_beginning_bn")


def _like(previous: Tensor, x: Tensor, filters: int, norm: Normalization, name: str) -> Tensor:
    """Hidden state 1: brought to the size of ``x`` and the cell's width where it has another."""
    same_size = previous.shape[1:3] == x.shape[1:3]
    if same_size and previous.shape[-1] == filters:
        return previous
    previous = keras.layers.ReLU(name=f"{name}_prev_relu")(previous)
    if not same_size:
        return _factorized_reduction(previous, filters, norm, name)
    return norm(_convolution(previous, filters, 1, 1, f"{name}_prev_1x1"), f"{name}_prev_bn")


def _fit(h: Tensor, other: Tensor, filters: int, norm: Normalization, name: str) -> Tensor:
    """A hidden state on its way out: as large as ``other``, and of the cell's width."""
    if h.shape[1:3] != other.shape[1:3]:
        return _factorized_reduction(h, filters, norm, name)
    if h.shape[-1] == filters:
        return h
    return norm(_convolution(h, filters, 1, 1, f"{name}_path_conv"), f"{name}_path_bn")


def _factorized_reduction(x: Tensor, filters: int, norm: Normalization, name: str) -> Tensor:
    """Half the size, and no pixel of a diagonal lost: one path reads the even, one the odd ones.

    The release pools with a window of one pixel and convolves then: a strided 1x1 convolution.
    """
    even = _convolution(x, filters // 2, 1, 2, f"{name}_path1_conv")
    # Of an odd side, the second path reads a zero at the end, so that both are equally long.
    odd = keras.layers.ZeroPadding2D(((0, 1), (0, 1)), name=f"{name}_path2_pad")(x)
    odd = keras.layers.Cropping2D(((1, 0), (1, 0)), name=f"{name}_path2_crop")(odd)
    odd = _convolution(odd, filters - filters // 2, 1, 2, f"{name}_path2_conv")
    x = keras.layers.Concatenate(name=f"{name}_paths")([even, odd])
    return norm(x, f"{name}_final_path_bn")


# Everything strided pads as TensorFlow's SAME, computed from the input's size, so that sides are
# rounded up in every branch. Pooling leaves the padding out of its averages and maxima.

# (x, filters, stride, normalization, name) -> [N, H/stride, W/stride, filters]
Operation: TypeAlias = Callable[[Tensor, int, int, Normalization, str], Tensor]


def _identity(x: Tensor, filters: int, stride: int, norm: Normalization, name: str) -> Tensor:
    """The hidden state itself; a 1x1 convolution where the shape has to change."""
    if stride == 1 and x.shape[-1] == filters:
        return x
    x = keras.layers.ReLU(name=f"{name}_relu")(x)
    return norm(_convolution(x, filters, 1, stride, f"{name}_1x1"), f"{name}_bn_1")


def _separable(
    x: Tensor, filters: int, stride: int, norm: Normalization, name: str, *, kernel: int
) -> Tensor:
    """ReLU, separable convolution and normalization, twice; the first one bears the stride."""
    for number in (1, 2):
        suffix = f"{kernel}x{kernel}_{number}"
        x = keras.layers.ReLU(name=f"{name}_relu_{suffix}")(x)
        x = keras.layers.SeparableConv2D(
            filters,
            kernel,
            strides=stride if number == 1 else 1,
            padding="same",
            use_bias=False,
            depthwise_initializer=_he_fan_out(),
            pointwise_initializer=_he_fan_out(),
            name=f"{name}_separable_{suffix}",
        )(x)
        x = norm(x, f"{name}_bn_sep_{suffix}")
    return x


def _pooling(
    x: Tensor,
    filters: int,
    stride: int,
    norm: Normalization,
    name: str,
    *,
    layer: "type[keras.layers.Layer]",
    zeros: bool = False,
) -> Tensor:
    """3x3 pooling; a 1x1 convolution after it where the width has to change.

    ``zeros``: the padding counts, as so many zeros.
    """
    width = x.shape[-1]
    if zeros:
        padding = tuple(_same_padding(side, 3, stride) for side in x.shape[1:3])
        x = keras.layers.ZeroPadding2D(padding, name=f"{name}_pad")(x)
    x = layer(3, stride, padding="valid" if zeros else "same", name=f"{name}_pool_3x3")(x)
    if width == filters:
        return x
    return norm(_convolution(x, filters, 1, 1, f"{name}_1x1"), f"{name}_bn_1")


def _same_padding(side: int, window: int, stride: int) -> tuple[int, int]:
    """How much of zeros SAME puts before and after a side."""
    positions = -(-side // stride)
    total = max((positions - 1) * stride + window - side, 0)
    return total // 2, total - total // 2


OPERATIONS: dict[str, Operation] = {
    "identity": _identity,
    "sep3": partial(_separable, kernel=3),
    "sep5": partial(_separable, kernel=5),
    "sep7": partial(_separable, kernel=7),
    "avg3": partial(_pooling, layer=keras.layers.AveragePooling2D),
    "max3": partial(_pooling, layer=keras.layers.MaxPooling2D),
    "avg3_zeros": partial(_pooling, layer=keras.layers.AveragePooling2D, zeros=True),
    "max3_zeros": partial(_pooling, layer=keras.layers.MaxPooling2D, zeros=True),
}

COMBINATIONS = {"add": keras.layers.Add, "concat": keras.layers.Concatenate}


def _convolution(
    x: Tensor,
    filters: int,
    kernel: int | tuple[int, ...],
    stride: int,
    name: str,
    padding: str = "same",
) -> Tensor:
    return keras.layers.Conv2D(
        filters,
        kernel,
        strides=stride,
        padding=padding,
        use_bias=False,
        kernel_initializer=_he_fan_out(),
        name=name,
    )(x)


def _he_fan_out() -> "keras.initializers.Initializer":
    """The release's; a new one for each kernel, because one draws the same numbers again."""
    return keras.initializers.VarianceScaling(2.0, mode="fan_out")


class _Progress:
    """A number that a compiled training step reads anew each time, and no weight of the network.

    Keras tracks the variables of a layer's attributes, but not those within a plain object.
    """

    def __init__(self) -> None:
        self.variable = keras.Variable(1.0, trainable=False, dtype="float32", name="progress")


@keras.saving.register_keras_serializable(package="keras_cls")
class ScheduledDropPath(DropPath):
    """Drop path whose probability grows with training: ``rate * progress`` (arXiv 1707.07012).

    ``progress`` is 1 from the start. The release lets it grow in a straight line from 0 in the
    first step to 1 in the last one; a callback does so, whether the step is compiled or not::

        keras.callbacks.LambdaCallback(
            on_epoch_begin=lambda epoch, logs: set_drop_path_progress(model, epoch / epochs)
        )

    It is not saved with the model. Shapes and dtypes are :class:`DropPath`'s.

    Args:
        rate: the probability of dropping a path in the end, 0 <= rate < 1.
        seed: an integer makes the choice repeatable; None draws one.
    """

    def __init__(self, rate: float, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(rate, seed, **kwargs)
        self._progress = _Progress()

    @property
    def progress(self) -> float:
        """How much of the training is done, 0 to 1."""
        return float(keras.ops.convert_to_numpy(self._progress.variable))

    @progress.setter
    def progress(self, done: float) -> None:
        if not 0 <= done <= 1:
            raise ConfigError(f"progress: expected 0 to 1, found {done!r}")
        self._progress.variable.assign(done)

    def call(self, inputs: Any, training: bool = False) -> Any:
        """Drop examples in training."""
        if not training or self.rate == 0:
            return inputs
        keep = 1 - self.rate * self._progress.variable.value
        each_example = (keras.ops.shape(inputs)[0], *(1 for _ in inputs.shape[1:]))
        draw = keras.random.uniform(each_example, dtype="float32", seed=self.seed_generator)
        scale = keras.ops.cast(draw < keep, "float32") / keep
        return inputs * keras.ops.cast(scale, inputs.dtype)


def set_drop_path_progress(model: keras.Model, done: float) -> None:
    """Tell every :class:`ScheduledDropPath` of a model how much of the training is done, 0 to 1.

    Raises:
        ConfigError: ``done`` is not between 0 and 1.
    """
    for layer in model.layers:
        if isinstance(layer, ScheduledDropPath):
            layer.progress = done
        elif isinstance(layer, keras.Model):
            set_drop_path_progress(layer, done)
