"""Network in network, as in the Caffe zoo."""

from published import Published

ROWS = {
    "nin": Published(
        7_595_176,
        0,
        1100,
        {
            "cccp2": (54, 54, 96),
            "cccp4": (27, 27, 256),
            "cccp6": (13, 13, 384),
            "cccp7": (6, 6, 1024),
        },
    ),
    "nin_cifar10": Published(
        966_986,
        0,
        222.5,
        {"cccp2": (32, 32, 96), "cccp4": (16, 16, 192), "cccp5": (8, 8, 192)},
        default=True,
    ),
}
