"""VGG: the counts of Keras, timm and TF-slim, which agree."""

from published import Published


def _endpoints(*names):
    shapes = ((224, 64), (112, 128), (56, 256), (28, 512), (14, 512), (7, 512))
    return {name: (s, s, c) for name, (s, c) in zip(names, shapes, strict=True)}


ROWS = {
    "vgg16": Published(
        138_357_544,
        0,
        15_470,
        _endpoints("conv1_2", "conv2_2", "conv3_3", "conv4_3", "conv5_3", "pool5"),
    ),
    "vgg19": Published(
        143_667_240,
        0,
        19_632,
        _endpoints("conv1_2", "conv2_2", "conv3_4", "conv4_4", "conv5_4", "pool5"),
    ),
}
