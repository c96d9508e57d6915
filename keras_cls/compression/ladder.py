"""The ladder that a budget search climbs: from what costs nothing to what must be trained."""

from collections.abc import Sequence
from dataclasses import dataclass

from keras_cls.compression.refining import Refinement
from keras_cls.compression.settings import (
    LEAST_WITH_ZERO,
    Clustering,
    ConstantSparsity,
    PolynomialDecay,
    Pruning,
    Quantization,
)
from keras_cls.exporting.networks import Precision


@dataclass(frozen=True)
class Rung:
    """One way to make a network small.

    Attributes:
        precision: what it is exported in.
        refinements: what it is trained for before, in this order.
    """

    precision: Precision
    refinements: tuple[Refinement, ...] = ()

    @property
    def name(self) -> str:
        """What tables call it."""
        return ", ".join([*self.names, self.precision])

    @property
    def names(self) -> list[str]:
        """What messages call each of its refinements."""
        return [_words(refinement) for refinement in self.refinements]


@dataclass(frozen=True)
class Training:
    """How long refinements are trained.

    Attributes:
        epochs: of each; 0 for none of them.
        batch_size: images a step.
        steps: of an epoch.
    """

    epochs: int
    batch_size: int
    steps: int

    def prune(self, sparsity: float) -> Refinement:
        """By and by in the first third, then what is left learns on."""
        end = self.epochs * self.steps // 3
        # Often enough for a curve, seldom enough that sorting the weights takes no time.
        schedule = (
            PolynomialDecay(end_step=end, frequency=max(1, end // 20))
            if end
            else ConstantSparsity()  # Of so few steps the first one prunes.
        )
        return self._refinement(Pruning(sparsity, schedule, allocation="lamp"))

    def cluster(self, clusters: int, *, pruned: bool) -> Refinement:
        """Each kernel of so many values."""
        return self._refinement(Clustering(clusters, preserve_sparsity=pruned))

    def quantize(self, *, pruned: bool, clustered: bool) -> Refinement:
        """Quantization-aware; zeros stay zeros, and clusters clusters."""
        return self._refinement(Quantization(pruned, clustered))

    def _refinement(self, technique: Pruning | Clustering | Quantization) -> Refinement:
        return Refinement(technique, self.epochs, self.batch_size)


def ladder(
    precisions: Sequence[Precision],
    sparsities: Sequence[float],
    clusters: Sequence[int],
    training: Training,
) -> list[Rung]:
    """The rungs, cheapest first; what several begin with is trained once.

    Without training: each precision. With it, in each precision below float32: every sparsity,
    every number of clusters, both together with the highest sparsity. Where int8 is asked for,
    quantization-aware training alone and behind the last of them.

    Args:
        precisions: such as float32, bfloat16, int8.
        sparsities: shares of zeros; 0 is left out.
        clusters: numbers of values.
        training: how long.
    """
    rungs = [Rung(precision) for precision in precisions]
    if not training.epochs:
        return rungs
    # What is asked for twice is made once; no zeros and none to prune to are the same.
    sparsities = [share for share in dict.fromkeys(sparsities) if share != 0]
    clusters = list(dict.fromkeys(clusters))
    chains: list[tuple[Refinement, ...]] = [(training.prune(share),) for share in sparsities]
    chains += [(training.cluster(count, pruned=False),) for count in clusters]
    if sparsities:
        sparsest = training.prune(max(sparsities))
        chains += [
            (sparsest, training.cluster(count, pruned=True))
            for count in clusters
            if count >= LEAST_WITH_ZERO
        ]
    smaller = [precision for precision in precisions if precision != "float32"]
    rungs += [Rung(precision, chain) for chain in chains for precision in smaller or precisions]
    if "int8" in precisions:
        last = chains[-1] if chains else ()
        for chain in dict.fromkeys([(), last]):
            aware = training.quantize(
                pruned=_has(chain, Pruning), clustered=_has(chain, Clustering)
            )
            rungs.append(Rung("int8", (*chain, aware)))
    return rungs


def _has(chain: tuple[Refinement, ...], kind: type) -> bool:
    return any(isinstance(each.technique, kind) for each in chain)


def _words(refinement: Refinement) -> str:
    technique = refinement.technique
    if isinstance(technique, Pruning):
        return f"{100 * technique.sparsity:g} % zeros"
    if isinstance(technique, Clustering):
        return f"{technique.clusters} values"
    return "trained for int8"
