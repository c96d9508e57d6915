"""GoogLeNet without auxiliary heads, as Caffe's bvlc_googlenet."""

from published import Published

ROWS = {
    "googlenet": Published(
        6_998_552,
        0,
        1583,
        {
            "conv1_7x7_s2": (112, 112, 64),
            "conv2_3x3": (56, 56, 192),
            "inception_3b_output": (28, 28, 480),
            "inception_4e_output": (14, 14, 832),
            "inception_5b_output": (7, 7, 1024),
        },
        default=True,
    ),
}
