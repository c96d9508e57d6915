"""Which images to hold out, so that every class keeps its share on both sides."""

from collections.abc import Sequence

import numpy as np

from keras_cls.errors import ConfigError, DataError


def held_out(
    targets: np.ndarray,
    labels: Sequence[str],
    order: np.ndarray,
    fraction: float,
    seed: int,
    origin: str,
) -> np.ndarray:
    """About ``fraction`` of the images of each class, by whichever rule the targets are of.

    Args:
        targets: int64 [N], or float32 [N, K] of zeros and ones where an image may show several.
        labels: the class names, which the draw depends on.
        order: int64 [N], the images in an order that is always the same.
        fraction: in 0..1, both excluded.
        seed: what is drawn from; not negative.
        origin: how messages name the images.

    Returns:
        bool [N], true where an image is held out.

    Raises:
        ConfigError: ``fraction`` is not in (0, 1), or ``seed`` is negative.
        DataError: no class has two images, so that none can be set apart.
    """
    if not 0 < fraction < 1:
        raise ConfigError(f"the validation fraction is {fraction}: it must lie between 0 and 1")
    if seed < 0:
        raise ConfigError(f"the seed is {seed}: it must not be negative")
    rule = held_out_by_classes if targets.ndim == 2 else held_out_by_class
    found = rule(targets, labels, order, fraction, seed)
    if not found.any():
        raise DataError(
            f"{origin}: no class has two images, so none can be set apart for validation: add "
            "images, or give a validation set"
        )
    return found


def held_out_by_class(
    targets: np.ndarray, labels: Sequence[str], order: np.ndarray, fraction: float, seed: int
) -> np.ndarray:
    """About ``fraction`` of each class; at least one of two or more images, and never all.

    Args:
        targets: int64 [N], each in 0..len(labels) - 1.
        labels: the class names, which the draw depends on.
        order: int64 [N], the images in an order that is always the same.
        fraction: in 0..1.
        seed: what is drawn from.

    Returns:
        bool [N], true where an image is held out.
    """
    held_out = np.zeros(len(targets), dtype=bool)
    targets_in_order = targets[order]
    for target, label in enumerate(labels):
        members = order[targets_in_order == target]
        count = _held_out_count(len(members), fraction)
        held_out[_drawn(members, label, seed)[:count]] = True
    return held_out


def held_out_by_classes(
    targets: np.ndarray, labels: Sequence[str], order: np.ndarray, fraction: float, seed: int
) -> np.ndarray:
    """The same where an image may show several classes, or none: iterative stratification.

    As in Sechidis, Tsoumakas and Vlahavas 2011, "On the Stratification of Multi-Label Data", the
    class with the fewest images left is served first, and its images are settled with it: a rare
    class has no choice of images, a common one still has. An image is never held out if one of its
    classes would be left without another; so a class of one image keeps it for training, and one
    of more has an image on either side wherever the other classes allow it. Images without any
    class are a group of their own. Where each image has one class, this is
    :func:`held_out_by_class`.

    Args:
        targets: float32 [N, K] of zeros and ones.
        labels: the class names, which the draw depends on.
        order: int64 [N], the images in an order that is always the same.
        fraction: in 0..1.
        seed: what is drawn from.

    Returns:
        bool [N], true where an image is held out.
    """
    shown = targets > 0
    counts = shown.sum(axis=0)
    wanted = [_held_out_count(count, fraction) for count in counts.tolist()]
    held_out = np.zeros(len(targets), dtype=bool)
    settled = np.zeros(len(targets), dtype=bool)
    held, left = np.zeros_like(counts), counts.copy()

    def hold_out(images: np.ndarray, target: int, until: int) -> None:
        for image in images.tolist():
            if held[target] >= until:
                return
            if (counts - held)[shown[image]].min() > 1:
                held_out[image] = True
                held[shown[image]] += 1

    drawn = [_drawn(order[shown[order, k]], label, seed) for k, label in enumerate(labels)]
    waiting = set(np.flatnonzero(counts).tolist())
    while waiting:
        rarest = min(waiting, key=lambda target: (left[target], labels[target]))
        waiting.remove(rarest)
        members = drawn[rarest][~settled[drawn[rarest]]]
        hold_out(members, rarest, until=wanted[rarest])
        settled[members] = True
        left -= shown[members].sum(axis=0)
    # A class whose images were all settled for rarer ones may still have none held out.
    lacking = np.flatnonzero((held == 0) & (counts > 1)).tolist()
    for target in sorted(lacking, key=lambda target: labels[target]):
        hold_out(drawn[target], target, until=1)

    without = _drawn(order[~shown[order].any(axis=1)], "", seed)
    held_out[without[: round(fraction * len(without))]] = True
    return held_out


def _held_out_count(count: int, fraction: float) -> int:
    return min(max(round(fraction * count), 1), count - 1) if count > 1 else 0


def _drawn(members: np.ndarray, label: str, seed: int) -> np.ndarray:
    # Seeded by the name, so that another class more or less does not reshuffle this one.
    return np.random.default_rng([seed, *label.encode()]).permutation(members)
