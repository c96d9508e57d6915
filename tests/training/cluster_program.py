"""What the tests of clusters run in each process: a small training loop, or a single question.

python cluster_program.py train FOLDER [--pause SECONDS] [--supervised]
python cluster_program.py talk FOLDER
python cluster_program.py disagree FOLDER
python cluster_program.py wait FOLDER
"""

import argparse
import json
import sys
import time
from pathlib import Path

from keras_cls.errors import ConfigError
from keras_cls.training.supervisor import is_supervised, supervise

STEPS = 24
SAVED_EVERY = 4
BATCH = 16


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["train", "talk", "wait"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pause", type=float, default=0.0)
    parser.add_argument("--supervised", action="store_true")
    options = parser.parse_args()
    state = options.folder / "state.npz"
    if options.supervised and not is_supervised():
        return supervise(
            [sys.executable, *sys.argv],
            progress=lambda: state.stat().st_mtime_ns if state.exists() else None,
            first_pause=0.1,
        )
    from keras_cls.training.cluster import WorkerLostError, lost_peers_named

    try:
        with lost_peers_named():
            return globals()[options.what](options)
    except (ConfigError, WorkerLostError) as error:
        print(f"{type(error).__name__}: {error}", flush=True)
        return getattr(error, "exit_code", 1)


def wait(options):
    from keras_cls.training.cluster import make_strategy

    make_strategy("auto", patience=3)


def talk(options):
    import signal

    import numpy as np

    from keras_cls.training.cluster import Workers, describe_strategy, make_strategy

    stopped = []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))
    strategy = make_strategy("auto")
    signal.raise_signal(signal.SIGTERM)
    workers = Workers(strategy)
    workers.barrier("begun")
    answers = {
        "again": make_strategy("auto") is strategy,
        "description": describe_strategy(strategy),
        "index": workers.index,
        "chief": workers.is_chief,
        "stopped": stopped,
        "any": [workers.any(False), workers.any(workers.index == 1)],
        "gathered": workers.gathered("ü" * workers.index),
        "agreed": workers.agreed(7),
    }
    for dtype in ("int32", "int64", "float32", "float64"):
        array = np.array([[workers.index + 1, 2**20 + 1]], dtype)
        total = workers.sum(array)
        answers[dtype] = [total.tolist(), str(total.dtype), list(total.shape)]
    workers.barrier("done")
    write(options.folder / f"talk{workers.index}.json", answers)
    workers.agreed(f"seed {workers.index}", "the seed")  # they are not


def train(options):
    import keras
    import numpy as np
    import tensorflow as tf

    from keras_cls.files import new_file
    from keras_cls.training.cluster import Workers, make_strategy

    strategy = make_strategy("auto", patience=60)
    workers = Workers(strategy)
    keras.utils.set_random_seed(5 + workers.index)  # the chief's first weights hold for all
    if workers.is_chief:
        keras.utils.set_random_seed(5)
    with strategy.scope():
        inputs = keras.Input((8, 8, 3))
        x = keras.layers.Conv2D(8, 3, use_bias=False)(inputs)
        x = keras.layers.BatchNormalization(synchronized=True)(x)
        x = keras.layers.GlobalAveragePooling2D()(keras.layers.ReLU()(x))
        model = keras.Model(inputs, keras.layers.Dense(4)(x))
        optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
        optimizer.build(model.trainable_variables)
    variables = [*model.variables, *optimizer.variables]
    state, done = options.folder / "state.npz", 0
    if state.exists():
        with np.load(state) as archive:
            done = int(archive["done"])
            for number, variable in enumerate(variables):
                variable.assign(archive[str(number)])
    workers.agreed(done)

    def replica(images, labels):
        with tf.GradientTape() as tape:
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(
                labels, model(images, training=True)
            )
            loss = tf.reduce_sum(losses) / BATCH
        optimizer.apply(tape.gradient(loss, model.trainable_variables))
        return loss

    @tf.function
    def step(images, labels):
        return strategy.reduce("SUM", strategy.run(replica, (images, labels)), None)

    part = BATCH // workers.count
    mine = slice(workers.index * part, (workers.index + 1) * part)
    for number in range(done, STEPS):
        drawn = np.random.default_rng(number)
        images = drawn.normal(size=(BATCH, 8, 8, 3)).astype(np.float32)
        labels = drawn.integers(0, 4, BATCH)
        step(tf.constant(images[mine]), tf.constant(labels[mine]))
        with (options.folder / f"steps{workers.index}.txt").open("a") as stream:
            stream.write(f"{number}\n")
        if workers.is_chief and (number + 1) % SAVED_EVERY == 0:
            arrays = {str(n): np.asarray(variable) for n, variable in enumerate(variables)}
            with new_file(state) as temporary, temporary.open("wb") as stream:
                np.savez(stream, done=number + 1, **arrays)
        time.sleep(options.pause)
    np.savez(
        options.folder / f"end{workers.index}.npz",
        **{str(n): np.asarray(variable) for n, variable in enumerate(variables)},
    )
    workers.barrier("the end")


def write(path, content):
    path.write_text(json.dumps(content), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
