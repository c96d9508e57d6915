"""Inception-ResNet: the paper's figures by arithmetic, the release as timm counts it."""

from published import Published


def _endpoints(quarter, eighth, sixteenth, last):
    return {
        "Conv2d_2b_3x3": (147, 147, 64),
        quarter: (71, 71, 192),
        eighth[0]: (35, 35, eighth[1]),
        sixteenth[0]: (17, 17, sixteenth[1]),
        last[0]: (8, 8, last[1]),
    }


ROWS = {
    "inception_resnet_v1": Published(
        22_756_328,
        27_040,
        6206,
        _endpoints(
            "Conv2d_4a_3x3",
            ("Repeat_block35_5", 256),
            ("Repeat_1_block17_10", 896),
            ("Repeat_2_block8_5", 1792),
        ),
    ),
    "inception_resnet_v2": Published(
        55_843_464,
        60_544,
        13156,
        _endpoints(
            "Conv2d_4a_3x3",
            ("Repeat_block35_10", 320),
            ("Repeat_1_block17_20", 1088),
            ("Conv2d_7b_1x1", 1536),
        ),
    ),
    "inception_resnet_v2_paper": Published(
        32_433_928,
        32_864,
        9258,
        _endpoints(
            "Mixed_4a",
            ("Repeat_block35_5", 384),
            ("Repeat_1_block17_10", 1152),
            ("Repeat_2_block8_5", 2144),
        ),
    ),
}
