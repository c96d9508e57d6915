"""The network of arXiv 2404.00498, counted layer by layer."""

from published import Published

_CONVOLUTIONS = 9 * (24 * 64 + 64 * 64 + 64 * 256 + 3 * 256 * 256)
_NORMALIZED = 2 * (64 + 256 + 256)
_WHITENING = 2 * 2 * 3 * 24  # beside the statistics: it is not trained either

ROWS = {
    "airbench94_cifar10": Published(
        24 + _CONVOLUTIONS + _NORMALIZED + 256 * 10,
        2 * _NORMALIZED + _WHITENING,
        None,
        {"block1": (15, 15, 64), "block2": (7, 7, 256), "block3": (3, 3, 256)},
        default=True,
    )
}
