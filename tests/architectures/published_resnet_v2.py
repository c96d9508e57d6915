"""The pre-activated ResNets: counts of TF-slim and keras.applications."""

from published import Published

_ENDPOINTS = {
    "conv1": (112, 112, 64),
    "conv2_x": (56, 56, 256),
    "conv3_x": (28, 28, 512),
    "conv4_x": (14, 14, 1024),
    "conv5_x": (7, 7, 2048),
}

ROWS = {
    "resnet50_v2": Published(25_568_360, 45_440, 3482, _ENDPOINTS, default=True),
    "resnet101_v2": Published(44_577_896, 97_664, 7194, _ENDPOINTS),
    "resnet152_v2": Published(60_236_904, 143_744, 10907, _ENDPOINTS),
}
