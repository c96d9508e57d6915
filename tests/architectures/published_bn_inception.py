"""BN-Inception: Cadene's bninception without the biases of its convolutions; SENet's arithmetic."""

from published import Published

_ENDPOINTS = {
    "conv1_7x7_s2": (112, 112, 64),
    "conv2_3x3": (56, 56, 192),
    "inception_3b": (28, 28, 320),
    "inception_4d": (14, 14, 608),
    "inception_5b": (7, 7, 1024),
}

ROWS = {
    "bn_inception": Published(11_285_224, 20_032, 2033, _ENDPOINTS, default=True),
    "se_bn_inception": Published(11_931_622, 20_032, None, _ENDPOINTS),
}
