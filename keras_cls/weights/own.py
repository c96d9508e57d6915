"""Weights that Keras saved of a network of this project: ``.weights.h5``, ``.keras``, ``.h5``."""

import keras

from keras_cls.architectures import list_models, model_spec
from keras_cls.weights._plan import Origin
from keras_cls.weights.formats import WeightsFile
from keras_cls.weights.formats.keras_h5 import numbers_variables
from keras_cls.weights.source import Release, Source

# Layers behind the last endpoint, where the head is not the only one with weights.
_TOPS = {"alexnet": ("fc6", "fc7"), "vgg": ("fc6", "fc7"), "lenet": ("F6",)}
# The beginnings of the names of auxiliary classifiers' layers: NASNet's, Inception's, GoogLeNet's.
_AUX_HEADS = ("aux_", "AuxLogits", "loss1_", "loss2_")


def origins(model: keras.Model, file: WeightsFile) -> dict[str, Origin]:
    """Layers have our names; Keras numbers their variables, or gives their names in ``.h5``."""
    numbers = numbers_variables(file)
    return {
        variable.path: Origin(f"{layer.name}/{index if numbers else variable.name}")
        for layer in model.layers
        for index, variable in enumerate(layer.weights)
    }


def _release(name: str) -> Release:
    spec = model_spec(name)
    return Release(
        name=name,
        preprocessing=spec.preprocessing,
        classes=None,
        head=(f"{spec.head}/",),
        top=tuple(f"{layer}/" for layer in (*_TOPS.get(spec.family, ()), spec.head)),
        aux=_AUX_HEADS if spec.aux_heads else (),
    )


SOURCE = Source(
    name="keras_cls",
    about="files that Keras saved of this project's networks",
    endings=(".weights.h5", ".keras", ".h5"),
    releases={name: _release(name) for name in list_models()},
    origins=origins,
)
