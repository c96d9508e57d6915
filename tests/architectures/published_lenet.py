"""LeNet-5 as it is built today: 156 + 2,416 + 48,120 + 10,164 + 850."""

from published import Published

ROWS = {
    "lenet5": Published(
        61_706,
        0,
        0.417,
        {"C1": (28, 28, 6), "C3": (10, 10, 16), "C5": (1, 1, 120)},
        default=True,
    ),
}
