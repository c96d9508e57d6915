"""AlexNet with its groups, as Caffe's bvlc_alexnet."""

from published import Published

ROWS = {
    "alexnet": Published(
        60_965_224,
        0,
        724.4,
        {
            "conv1": (55, 55, 96),
            "conv2": (27, 27, 256),
            "conv5": (13, 13, 256),
            "pool5": (6, 6, 256),
        },
    ),
}
