"""PNASNet-5: slim's counts."""

from published import Published


def _endpoints(names, sides, channels):
    return {n: (s, s, c) for n, s, c in zip(names.split(), sides, channels, strict=True)}


ROWS = {
    # The statistics were counted here.
    "pnasnet5_mobile": Published(
        5_064_487,
        33_664,
        587.3,
        _endpoints(
            "conv0 cell_stem_0 cell_2 cell_5 cell_8", (111, 56, 28, 14, 7), (32, 65, 270, 540, 1080)
        ),
    ),
    "pnasnet5_large": Published(
        86_057_668,
        176_988,
        24_937,
        _endpoints(
            "conv0 cell_stem_0 cell_3 cell_7 cell_11",
            (165, 83, 42, 21, 11),
            (96, 270, 1080, 2160, 4320),
        ),
    ),
}
