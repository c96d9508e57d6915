"""The ResNeXts: counts of torchvision and timm."""

from published import Published

_ENDPOINTS = {
    "conv1": (112, 112, 64),
    "conv2_x": (56, 56, 256),
    "conv3_x": (28, 28, 512),
    "conv4_x": (14, 14, 1024),
    "conv5_x": (7, 7, 2048),
}


def _statistics(units):
    """Two a normalized channel: conv1, three convolutions a unit, one projection a stage."""
    channels = 64
    for number, count in enumerate(units):
        narrow, wide = 128 * 2**number, 256 * 2**number
        channels += count * (2 * narrow + wide) + wide
    return 2 * channels


ROWS = {
    "resnext50_32x4d": Published(
        25_028_904, _statistics((3, 4, 6, 3)), 4230, _ENDPOINTS, default=True
    ),
    "resnext101_32x4d": Published(44_177_704, _statistics((3, 4, 23, 3)), 7970, _ENDPOINTS),
}
