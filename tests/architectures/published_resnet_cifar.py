"""The CIFAR-10 ResNets: the paper's depths, option-A shortcuts, batch normalization."""

from published import Published

_ENDPOINTS = {"conv2_x": (32, 32, 16), "conv3_x": (16, 16, 32), "conv4_x": (8, 8, 64)}


def _row(n, trainable, default=False):
    """Each of 6n + 1 convolutions is normalized; a third each is 16, 32 and 64 wide."""
    statistics = 2 * (16 + 2 * n * (16 + 32 + 64))
    return Published(trainable, statistics, None, _ENDPOINTS, default)


ROWS = {
    "resnet20_cifar10": _row(3, 269_722, default=True),
    "resnet32_cifar10": _row(5, 464_154),
    "resnet44_cifar10": _row(7, 658_586),
    "resnet56_cifar10": _row(9, 853_018),
    "resnet110_cifar10": _row(18, 1_727_962),
    "plain20_cifar10": _row(3, 269_722, default=True),
    "plain56_cifar10": _row(9, 853_018),
}
