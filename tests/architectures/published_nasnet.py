"""NASNet-A: slim's counts, for ImageNet also those of keras.applications."""

from dataclasses import replace

from published import Published


def _endpoints(names, sides, channels):
    return {n: (s, s, c) for n, s, c in zip(names.split(), sides, channels, strict=True)}


ROWS = {
    "nasnet_mobile": Published(
        5_289_978,
        36_738,
        563.6,
        _endpoints(
            "conv0 cell_stem_0 cell_3 cell_7 cell_11",
            (111, 56, 28, 14, 7),
            (32, 44, 264, 528, 1056),
        ),
    ),
    "nasnet_large": Published(
        88_753_150,
        196_668,
        23_783,
        _endpoints(
            "conv0 cell_stem_0 cell_5 cell_11 cell_17",
            (165, 83, 42, 21, 11),
            (96, 168, 1008, 2016, 4032),
        ),
    ),
    # The statistics were counted here.
    "nasnet_cifar10": Published(
        3_346_538,
        37_248,
        544.3,
        _endpoints("cell_5 cell_11 cell_17", (32, 16, 8), (192, 384, 768)),
    ),
}
# The same networks with their padding counted otherwise.
ROWS["nasnet_mobile_slim"] = replace(ROWS["nasnet_mobile"], default=False)
ROWS["nasnet_large_slim"] = ROWS["nasnet_large_timm"] = ROWS["nasnet_large"]
