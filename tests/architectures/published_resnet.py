"""The ResNets of ImageNet: torchvision's and timm's counts; _v1 has the paper's stride."""

from published import Published


def _endpoints(*channels):
    names = ("conv1", "conv2_x", "conv3_x", "conv4_x", "conv5_x")
    sides = (112, 56, 28, 14, 7)
    return {n: (s, s, c) for n, s, c in zip(names, sides, channels, strict=True)}


_BASIC = _endpoints(64, 64, 128, 256, 512)
_BOTTLENECK = _endpoints(64, 256, 512, 1024, 2048)

ROWS = {
    "resnet18": Published(11_689_512, 9_600, 1814, _BASIC, default=True),
    "resnet34": Published(21_797_672, 17_024, 3664, _BASIC),
    "resnet50": Published(25_557_032, 53_120, 4089, _BOTTLENECK, default=True),
    "resnet101": Published(44_549_160, 105_344, 7801, _BOTTLENECK),
    "resnet152": Published(60_192_808, 151_424, 11514, _BOTTLENECK),
    "resnet50_v1": Published(25_557_032, 53_120, 3858, _BOTTLENECK),
    "resnet101_v1": Published(44_549_160, 105_344, 7570, _BOTTLENECK),
    "resnet152_v1": Published(60_192_808, 151_424, 11282, _BOTTLENECK),
}
