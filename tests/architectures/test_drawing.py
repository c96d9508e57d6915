"""Drawings: layers are gathered into blocks, and every block is in the picture."""

import keras
import pytest

from keras_cls.architectures import build_model
from keras_cls.architectures.drawing import blocks_of, draw
from keras_cls.errors import ConfigError


def test_a_unit_is_one_block_that_reads_the_one_before():
    blocks = {block.name: block for block in blocks_of(build_model("resnet18"))}
    names = list(blocks)
    assert names[:4] == ["images", "conv1", "pool1", "conv2_1"]
    assert names[-2:] == ["pool5", "logits"]
    unit = blocks["conv3_1"]
    assert unit.shape == (28, 28, 128)
    assert unit.layers["Conv2D"] == 3
    assert {names[source] for source in unit.sources} == {"conv2_2"}
    assert blocks["logits"].kind == "dense"


def test_parameters_add_up():
    model = build_model("resnet20_cifar10")
    assert sum(block.parameters for block in blocks_of(model)) == model.count_params()


def test_a_branch_is_an_arrow_from_each_source():
    x = keras.Input((8, 8, 3), name="in")
    a = keras.layers.Conv2D(4, 1, name="a")(x)
    b = keras.layers.Conv2D(4, 1, name="b")(x)
    model = keras.Model(x, keras.layers.Add(name="sum")([a, b]), name="branches")
    blocks = blocks_of(model)
    names = [block.name for block in blocks]
    assert {names[i] for i in blocks[names.index("sum")].sources} == {"a", "b"}


def test_the_picture_names_every_block(tmp_path):
    model = build_model("lenet5")
    text = draw(model, tmp_path / "lenet5.svg").read_text()
    for block in blocks_of(model):
        assert f"<!-- {block.name} -->" in text
    with pytest.raises(ConfigError, match=r"\.svg"):
        draw(model, tmp_path / "lenet5.gif")
