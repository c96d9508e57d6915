"""Small networks, with weights at random."""

import keras
import numpy as np
import tf_keras

from keras_cls.architectures import build_model, model_spec

# One or two a family, the small ones.
SMALL = [
    "lenet5",
    "alexnet",
    "vgg16",
    "nin_cifar10",
    "googlenet",
    "bn_inception",
    "inception_v3",
    "inception_v4",
    "inception_resnet_v2",
    "resnet20_cifar10",
    "resnet18",
    "resnet50_v2",
    "resnext50_32x4d",
    "se_bn_inception",
    "nasnet_cifar10",
    "airbench94_cifar10",
]


def drawn(name: str, aux: bool = False, count: int = 4) -> tuple[keras.Model, np.ndarray]:
    """A network of seven classes at its smallest size, and ``count`` images for it."""
    keras.utils.set_random_seed(0)
    shape = (*model_spec(name).min_size, 3)
    model = build_model(name, num_classes=7, input_shape=shape, aux=aux)
    stir(model)
    return model, np.random.default_rng(0).normal(size=(count, *shape)).astype("float32")


def stir(model: keras.Model) -> None:
    """Leave no bias, scale or moving statistic a round number."""
    random = np.random.default_rng(1)
    for variable in model.weights:
        if variable.name in ("beta", "bias", "gamma", "moving_mean", "moving_variance"):
            noise = random.normal(0, 0.05, variable.shape)
            variable.assign(keras.ops.convert_to_numpy(variable) + noise)


def outputs(model: keras.Model | tf_keras.Model, images: np.ndarray) -> list[np.ndarray]:
    """All outputs at inference, the main one first."""
    return [np.asarray(each) for each in keras.tree.flatten(model(images, training=False))]


def trained(
    model: tf_keras.Model, images: np.ndarray, steps: int = 1, callbacks: list | None = None
) -> tf_keras.Model:
    """After small steps of SGD onto random classes, each on all images.

    Of gradients of length 1: those of a network of drawn weights may be so long that one step
    throws all values of a kernel together.
    """
    count = len(model.outputs)
    loss = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(tf_keras.optimizers.SGD(1e-3, global_clipnorm=1.0), [loss] * count)
    classes = np.arange(len(images)) % 7
    model.fit(
        images,
        [classes] * count,
        batch_size=len(images),
        epochs=steps,
        verbose=0,
        callbacks=callbacks,
    )
    return model
