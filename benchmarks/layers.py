"""What the project's own layers gain over Keras' in training.

The training step of ResNet-50 against keras.applications' (``resnet50_v1``, which has its strides);
that of ``resnet50`` with the fused batch normalization against the same network with
``keras.layers.BatchNormalization`` and nothing else changed, in float32 and mixed bfloat16; and the
forward and backward pass of a ResNeXt block with ``GroupedConv2D`` against ``Conv2D(groups=32)``.
Each has a process of its own, as a training has, and they run a step in turns.
"""

import os
import platform
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection

import keras
import numpy as np
import tensorflow as tf

from benchmarks.speed import turn_by_turn
from benchmarks.tables import markdown_table, write_between
from keras_cls import create_model
from keras_cls.architectures.layers import BatchNormalization, GroupedConv2D

ROUNDS = 7
STEP_BATCH, STEP_SIDE = 32, 128
BLOCK_BATCH, BLOCK_SIDE = 8, 28


_PEER = {
    "keras.applications, float32": ("keras.applications", "float32"),
    "keras_cls, float32": ("resnet50_v1", "float32"),
    "keras_cls, mixed bfloat16": ("resnet50_v1", "mixed_bfloat16"),
}
_NORMALIZATIONS = {
    f"{layer}, {policy}": (network, policy)
    for policy in ("float32", "mixed_bfloat16")
    for layer, network in {"Keras' layer": "unfused", "fused": "resnet50"}.items()
}
_BLOCKS = {
    "Conv2D(groups=32)": (keras.layers.Conv2D,),
    "GroupedConv2D": (GroupedConv2D,),
}


def main() -> None:
    step = f"training step, {STEP_SIDE} px, batch {STEP_BATCH}"
    block = f"forward and backward, {BLOCK_SIDE} px, batch {BLOCK_BATCH}"
    rows = [
        *_rows(f"ResNet-50 v1, {step}", _step, _PEER),
        *_rows(f"ResNet-50, {step}", _step, _NORMALIZATIONS),
        *_rows(f"ResNeXt block, {block}", _block, _BLOCKS),
    ]
    table = markdown_table(["what", "how", "ms", "times as fast"], rows, "ms|times as fast")
    note = (
        f"\nMeasured on {os.cpu_count()} cores ({platform.machine()}, no GPU), without XLA; medians"
        f" of {ROUNDS} rounds."
    )
    write_between("docs/speed.md", "layers", table + "\n" + note)


def _rows(what: str, make: Callable[..., Callable], ways: dict[str, tuple]) -> list[list[str]]:
    with ExitStack() as stack:
        runs = [stack.enter_context(_own_process(make, way)) for way in ways.values()]
        times = turn_by_turn(runs, ROUNDS, warm=2)
    rows = [
        [what, name, f"{seconds * 1e3:,.0f}", f"{times[0] / seconds:.2f}"]
        for name, seconds in zip(ways, times, strict=True)
    ]
    for row in rows:
        print(" | ".join(row), flush=True)
    return rows


@contextmanager
def _own_process(make: Callable[..., Callable], arguments: tuple) -> Iterator[Callable[[], object]]:
    """Calls what ``make(*arguments)`` gives, there."""
    context = get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, make, arguments), daemon=True)
    process.start()

    def run() -> None:
        here.send(True)
        here.recv()

    try:
        yield run
    finally:
        here.send(False)
        process.join()


def _serve(connection: Connection, make: Callable[..., Callable], arguments: tuple) -> None:
    run = make(*arguments)
    while connection.recv():
        run()
        connection.send(True)


def _step(network: str, policy: str) -> Callable[[], object]:
    keras.config.set_dtype_policy(policy)
    shape = (STEP_SIDE, STEP_SIDE, 3)
    if network == "keras.applications":
        model = keras.applications.ResNet50(
            weights=None, input_shape=shape, classifier_activation=None
        )
    else:
        model = create_model("resnet50" if network == "unfused" else network, input_shape=shape)
        if network == "unfused":
            model = keras.models.clone_model(model, clone_function=_plain)
    model.compile(
        keras.optimizers.SGD(0.01, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,
    )
    rng = np.random.default_rng(0)
    images = tf.constant(rng.random((STEP_BATCH, STEP_SIDE, STEP_SIDE, 3), "float32"))
    classes = tf.constant(rng.integers(0, 1000, STEP_BATCH))
    return lambda: model.train_on_batch(images, classes)


def _plain(layer: keras.layers.Layer) -> keras.layers.Layer:
    kind = keras.layers.BatchNormalization if isinstance(layer, BatchNormalization) else type(layer)
    return kind.from_config(layer.get_config())


def _block(convolution: type[keras.layers.Conv2D]) -> Callable[[], object]:
    """Conv3 of ResNeXt-50 (32x4d): 1x1 to 256, 3x3 in 32 groups, 1x1 to 512, and the shortcut."""
    inputs = keras.Input((BLOCK_SIDE, BLOCK_SIDE, 512))
    x = keras.layers.Conv2D(256, 1, use_bias=False)(inputs)
    x = keras.layers.ReLU()(BatchNormalization()(x))
    x = convolution(256, 3, padding="same", groups=32, use_bias=False)(x)
    x = keras.layers.ReLU()(BatchNormalization()(x))
    x = BatchNormalization()(keras.layers.Conv2D(512, 1, use_bias=False)(x))
    model = keras.Model(inputs, keras.layers.ReLU()(keras.layers.Add()([inputs, x])))
    shape = (BLOCK_BATCH, BLOCK_SIDE, BLOCK_SIDE, 512)
    images = tf.constant(np.random.default_rng(0).random(shape, "float32"))

    @tf.function(jit_compile=False)
    def gradients() -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model(images, training=True) ** 2)
        return tape.gradient(loss, model.trainable_variables)

    return lambda: [gradient.numpy() for gradient in gradients()]
