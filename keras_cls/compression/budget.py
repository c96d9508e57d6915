"""What a compressed network may cost, and which of several keeps to it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from numbers import Real

from keras_cls.errors import ConfigError

_AS_FAST = 1.1
"""Latencies are measured: within a tenth they are the same."""


@dataclass(frozen=True)
class Measured:
    """What an exported network is worth, and what it costs.

    Attributes:
        accuracy: the share of validation images that it classifies correctly; multi-label: its
            mean average precision.
        size: bytes of the files that a server loads.
        compressed_size: bytes of the same, packed as .tar.xz.
        latency: milliseconds for one image, undisturbed on this machine; None before measured.
        in_bytes: the share of multiply-adds that the written graph computes in bytes.
        zeros: the share of zeros among the weights of kernels.
    """

    accuracy: float
    size: int
    compressed_size: int
    latency: float | None = None
    in_bytes: float = 0.0
    zeros: float = 0.0


@dataclass(frozen=True)
class Budget:
    """What is allowed; None for anything.

    Attributes:
        max_accuracy_drop: how much less than the classifier itself, 0.01 for one point.
        max_size: bytes of the files that a server loads.
        max_compressed_size: bytes of the same, packed.
        max_latency: milliseconds for one image.

    Raises:
        ConfigError: one of them is no number above 0 (the drop: 0 or more).
    """

    max_accuracy_drop: float | None = 0.01
    max_size: float | None = None
    max_compressed_size: float | None = None
    max_latency: float | None = None

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value is None:
                continue
            sound = isinstance(value, Real) and not isinstance(value, bool) and value == value
            if name == "max_accuracy_drop":
                if not sound or not 0 <= value <= 1:
                    raise ConfigError(
                        f"{name}: expected a share from 0 to 1 (0.01 is one point of accuracy), "
                        f"found {value!r}"
                    )
            elif not sound or value <= 0:
                raise ConfigError(f"{name}: expected a number above 0, found {value!r}")

    def missed_by(self, found: Measured, accuracy: float) -> dict[str, float]:
        """By how much each limit is missed, as a share of it; the accuracy in points of 1.

        Args:
            found: what is held to the budget.
            accuracy: of the classifier itself.
        """
        over: dict[str, float] = {}
        if self.max_accuracy_drop is not None:
            # A drop that is the limit to the last image is not beyond it.
            over["accuracy"] = accuracy - found.accuracy - self.max_accuracy_drop - 1e-9
        costs = (
            ("size", found.size, self.max_size),
            ("compressed size", found.compressed_size, self.max_compressed_size),
            ("latency", found.latency, self.max_latency),
        )
        for name, value, limit in costs:
            if limit is not None and value is not None:
                over[name] = value / limit - 1
        return {name: by for name, by in over.items() if by > 0}

    def choose(self, found: Sequence[Measured], accuracy: float) -> int:
        """The place of the best one.

        Of those that keep to the budget the smallest packed one among the fastest (within a
        tenth). If none does, the one that misses it by least, first of all in accuracy, and of
        these the smallest packed one.

        Args:
            found: one or more.
            accuracy: of the classifier itself.
        """
        places = range(len(found))
        met = [place for place in places if not self.missed_by(found[place], accuracy)]
        if met:
            latencies = [found[place].latency or 0.0 for place in met]
            fast = [
                place
                for place, latency in zip(met, latencies, strict=True)
                if latency <= _AS_FAST * min(latencies)
            ]
            return min(fast, key=lambda place: found[place].compressed_size)

        def miss(place: int) -> tuple[float, float, int]:
            over = self.missed_by(found[place], accuracy)
            by_accuracy = over.pop("accuracy", 0.0)
            # To a hundredth of the limit: a few bytes more or less do not count.
            return (
                by_accuracy,
                round(max(over.values(), default=0.0), 2),
                found[place].compressed_size,
            )

        return min(places, key=miss)

    def describe_miss(self, found: Measured, accuracy: float) -> str:
        """By how much the budget is missed, in words; empty where it is met."""
        said = []
        for name, by in self.missed_by(found, accuracy).items():
            if name == "accuracy":
                assert self.max_accuracy_drop is not None
                fell, allowed = 100 * (accuracy - found.accuracy), 100 * self.max_accuracy_drop
                digits = 2 if fell - allowed >= 0.01 else 4
                said.append(
                    f"accuracy falls by {fell:.{digits}f} points (allowed {allowed:.{digits}f})"
                )
            else:
                share = f"{by:.0%}" if by >= 0.01 else f"{100 * by:.1g}%"
                said.append(f"{name} is {share} above the limit")
        return ", ".join(said)


def on_the_front(found: Sequence[Measured]) -> list[bool]:
    """For each, whether no other is at least as good in all and better in something (Pareto)."""

    def costs(one: Measured) -> tuple[float, ...]:
        return (-one.accuracy, one.size, one.compressed_size, one.latency or 0.0)

    def beats(one: Measured, other: Measured) -> bool:
        pairs = list(zip(costs(one), costs(other), strict=True))
        return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)

    return [not any(beats(other, one) for other in found) for one in found]
