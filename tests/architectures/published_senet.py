"""The SENets: Cadene's and timm's counts; a gate has no statistics, so they are the ResNe(X)ts'."""

from published import Published


def _endpoints(conv1):
    return {
        "conv1": (112, 112, conv1),
        "conv2_x": (56, 56, 256),
        "conv3_x": (28, 28, 512),
        "conv4_x": (14, 14, 1024),
        "conv5_x": (7, 7, 2048),
    }


ROWS = {
    "se_resnet50": Published(28_088_024, 53_120, 3860, _endpoints(64), default=True),
    "se_resnet101": Published(49_326_872, 105_344, 7575, _endpoints(64)),
    "se_resnet152": Published(66_821_848, 151_424, 11289, _endpoints(64)),
    "se_resnext50_32x4d": Published(27_559_896, 68_224, 4233, _endpoints(64)),
    "se_resnext101_32x4d": Published(48_955_416, 137_856, 7975, _endpoints(64)),
    "senet154": Published(115_088_984, 247_552, 20688, _endpoints(128)),
}
