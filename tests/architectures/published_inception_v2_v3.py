"""Inception v2: shapes of the paper's Table 1, no published counts. Inception v3: timm's counts."""

from published import Published

ROWS = {
    "inception_v2": Published(
        13_308_840,
        29_024,
        None,
        {
            "Conv2d_2b_3x3": (147, 147, 64),
            "Conv2d_3b_3x3": (71, 71, 80),
            "Mixed_5d": (35, 35, 288),
            "Mixed_6f": (17, 17, 768),
            "Mixed_7c": (8, 8, 2048),
        },
    ),
    "inception_v3": Published(
        23_834_568,
        34_432,
        5713,
        {
            "Conv2d_2b_3x3": (147, 147, 64),
            "Conv2d_4a_3x3": (71, 71, 192),
            "Mixed_5d": (35, 35, 288),
            "Mixed_6e": (17, 17, 768),
            "Mixed_7c": (8, 8, 2048),
        },
    ),
}
# The same network with its padding counted otherwise.
ROWS["inception_v3_torch"] = ROWS["inception_v3"]
