"""Inception v4: timm's and Cadene's counts; the shapes that TF-slim's comments give."""

from published import Published

ROWS = {
    "inception_v4": Published(
        42_679_816,
        63_168,
        12254,
        {
            "Conv2d_2b_3x3": (147, 147, 64),
            "Mixed_4a": (71, 71, 192),
            "Mixed_5e": (35, 35, 384),
            "Mixed_6h": (17, 17, 1024),
            "Mixed_7d": (8, 8, 1536),
        },
    ),
}
