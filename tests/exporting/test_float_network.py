"""What TensorFlow's own optimizer makes of the graphs."""

from collections import Counter
from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf
from test_lowering import enlivened

from keras_cls import contract
from keras_cls.architectures import model_spec
from keras_cls.architectures.cells import cell_network
from keras_cls.classifier import Classifier
from keras_cls.exporting import export
from keras_cls.preprocessing import Preprocessing

LABELS = ["a", "b", "c"]
SIDE = 16


def steps_that_run(version) -> Counter:
    """How many operations of each kind, with those that are joined to them."""
    with tf.compat.v1.Session(graph=tf.Graph()) as session:
        found = tf.compat.v1.saved_model.load(session, [contract.SERVE_TAG], str(version))
        signature = found.signature_def[contract.SIGNATURE_IMAGES]
        (pixels,), (answers,) = signature.inputs.values(), signature.outputs.values()
        ran = tf.compat.v1.RunMetadata()
        session.run(
            answers.name,
            {pixels.name: np.zeros((1, SIDE, SIDE, 3), np.uint8)},
            tf.compat.v1.RunOptions(output_partition_graphs=True),
            ran,
        )
    return Counter(
        "+".join([node.op, *(step.decode() for step in node.attr["fused_ops"].list.s)])
        for graph in ran.partition_graphs
        for node in graph.node
    )


@pytest.mark.parametrize("name", ["nasnet_cifar10", "pnasnet5_mobile"])
def test_sums_with_several_readers_leave_the_others_joined(name, tmp_path):
    """A ReLU of a sum that something else reads as well made the optimizer give up everything."""
    cells = model_spec("nasnet_cifar10").stem
    spec = replace(model_spec(name), stem=cells, repeats=1, filters=8, endpoints=(), aux_heads=())
    images = keras.Input((SIDE, SIDE, 3))
    model = enlivened(keras.Model(images, cell_network(images, spec, len(LABELS)).logits))
    classifier = Classifier(model, LABELS, Preprocessing(size=(SIDE, SIDE)))
    steps = steps_that_run(export(classifier, tmp_path / "m"))
    assert not {"BiasAdd", "_MklNativeConv2DWithBias"} & set(steps)
    assert sum(count for step, count in steps.items() if step.endswith("+BiasAdd+Relu")) >= 9
