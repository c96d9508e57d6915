"""What a technique is asked for, as data that is checked when it is made."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any, Literal, TypeAlias

from keras_cls.errors import ConfigError


@dataclass(frozen=True)
class ConstantSparsity:
    """All of the sparsity from one step on.

    Attributes:
        begin_step: the first step, counted from 0, that prunes.
        end_step: the last one; None to go on to the end. The zeros stay afterwards.
        frequency: steps between two choices of the weights to prune; the last step is one always.

    Raises:
        ConfigError: a step that makes no sense.
    """

    begin_step: int = 0
    end_step: int | None = None
    frequency: int = 100

    def __post_init__(self) -> None:
        _check_steps(self.begin_step, self.end_step, self.frequency)


@dataclass(frozen=True)
class PolynomialDecay:
    """Sparsity that grows, fast at first (Zhu and Gupta, arXiv 1710.01878).

    At step t it is ``final + (initial - final) * (1 - (t - begin) / (end - begin)) ** power``.

    Attributes:
        end_step: the step, counted from 0, at which the sparsity is reached.
        begin_step: the first step that prunes.
        initial_sparsity: the share of zeros at ``begin_step``, smaller than the final one.
        power: how fast it grows at first.
        frequency: steps between two choices of the weights to prune.

    Raises:
        ConfigError: a number that makes no sense.
    """

    end_step: int
    begin_step: int = 0
    initial_sparsity: float = 0.0
    power: float = 3.0
    frequency: int = 100

    def __post_init__(self) -> None:
        _check_steps(self.begin_step, self.end_step, self.frequency)
        _check_share("initial_sparsity", self.initial_sparsity)
        if not _is_real(self.power) or not self.power > 0:
            raise ConfigError(f"power: expected more than 0, found {self.power!r}")


Schedule: TypeAlias = ConstantSparsity | PolynomialDecay


@dataclass(frozen=True)
class Pruning:
    """Weights of small magnitude become zeros.

    Attributes:
        sparsity: the share of zeros that each kernel ends with, 0 <= sparsity < 1. Without effect
            where ``two_of_four``.
        schedule: when.
        two_of_four: of every four weights in a row along the input channels, the two smaller ones
            become zeros: what sparse kernels of recent GPUs and LiteRT take. Kernels whose input
            channels are no multiple of four stay as they are. They are chosen once, in the first
            step: the schedule is without effect too.
        by_layer: the sparsity of layers, by name, that are to have another one; 0 for none.
        allocation: ``"uniform"`` for the same sparsity in each kernel; ``"lamp"`` for that of all
            kernels together, divided among them by layer-adaptive magnitude (Lee, Park, Mo, Ahn and
            Shin, arXiv:2010.07611): layers with weights to spare get more of the zeros.

    Raises:
        ConfigError: a sparsity outside 0 to 1, or not above the schedule's initial one.
    """

    sparsity: float = 0.5
    schedule: Schedule = field(default_factory=ConstantSparsity)
    two_of_four: bool = False
    by_layer: Mapping[str, float] = field(default_factory=dict, hash=False)
    allocation: Literal["uniform", "lamp"] = "uniform"

    def __post_init__(self) -> None:
        _check_share("sparsity", self.sparsity)
        if not isinstance(self.schedule, ConstantSparsity | PolynomialDecay):
            raise ConfigError(
                "schedule: expected a ConstantSparsity or a PolynomialDecay, found "
                f"{self.schedule!r}"
            )
        if self.allocation not in ("uniform", "lamp"):
            raise ConfigError(
                f"allocation: expected 'uniform' or 'lamp', found {self.allocation!r}"
            )
        for name, share in self.by_layer.items():
            _check_share(f"by_layer[{name!r}]", share)
        initial = getattr(self.schedule, "initial_sparsity", 0)
        if initial > self.sparsity:
            raise ConfigError(
                f"sparsity: expected at least the schedule's initial {initial}, found "
                f"{self.sparsity}"
            )


LEAST_WITH_ZERO = 3
"""The fewest values of a kernel of which one is zero, as the toolkit makes them."""


@dataclass(frozen=True)
class Clustering:
    """Weights of a kernel share a few values.

    Attributes:
        clusters: how many different values a kernel may have, at least 2 (3 with
            ``preserve_sparsity``, one of which is zero). Smaller kernels stay as they are.
        per_channel: so many for each output channel of a convolution, and not for all of them.
        preserve_sparsity: zeros stay zeros: for a twin that was pruned before.

    Raises:
        ConfigError: too few clusters.
    """

    clusters: int = 16
    per_channel: bool = False
    preserve_sparsity: bool = False

    def __post_init__(self) -> None:
        least = LEAST_WITH_ZERO if self.preserve_sparsity else 2
        if not _is_integer(self.clusters) or self.clusters < least:
            raise ConfigError(
                f"clusters: expected an integer of {least} or more, found {self.clusters!r}"
            )


@dataclass(frozen=True)
class Quantization:
    """Training that feels the steps of int8: -63 to 63 in each channel of a kernel, 256 in maps.

    Attributes:
        preserve_sparsity: zeros of the kernels stay zeros: for a twin that was pruned before.
        preserve_clusters: kernels keep their number of values, which move in training (those of
            convolutions in each output channel on its own): for a twin that was clustered before.
            Both together: one of the values stays zero.
        range_decay: how much of a map's range stays when the next batch is seen, 0 <= decay < 1.

    Raises:
        ConfigError: a decay outside 0 to 1.
    """

    preserve_sparsity: bool = False
    preserve_clusters: bool = False
    range_decay: float = 0.99

    def __post_init__(self) -> None:
        _check_share("range_decay", self.range_decay)


Technique: TypeAlias = Pruning | Clustering | Quantization


def _is_real(found: Any) -> bool:
    return isinstance(found, Real) and not isinstance(found, bool)


def _is_integer(found: Any) -> bool:
    return isinstance(found, Integral) and not isinstance(found, bool)


def _check_share(name: str, found: Any) -> None:
    if not _is_real(found) or not 0 <= found < 1:
        raise ConfigError(f"{name}: expected 0 <= {name} < 1, found {found!r}")


def _check_steps(begin: Any, end: Any, frequency: Any) -> None:
    if not _is_integer(begin) or begin < 0:
        raise ConfigError(f"begin_step: expected an integer of 0 or more, found {begin!r}")
    if end is not None and (not _is_integer(end) or end <= begin):
        raise ConfigError(f"end_step: expected an integer above {begin}, found {end!r}")
    if not _is_integer(frequency) or frequency < 1:
        raise ConfigError(f"frequency: expected an integer of 1 or more, found {frequency!r}")
