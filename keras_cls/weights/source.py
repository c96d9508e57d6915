"""What a source of published weights is: data, and one function from names to names."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import keras

from keras_cls.preprocessing import Preprocessing
from keras_cls.weights._plan import Origin
from keras_cls.weights.formats import WeightsFile

Classes: TypeAlias = Literal["imagenet", "cifar10"]


@dataclass(frozen=True, kw_only=True)
class Release:
    """The weights of one network, as a source publishes them.

    Attributes:
        name: what the source calls the network.
        network: the registry's name of the network that the weights belong to, where it has the
            same tensors as the one asked for and computes something else; None where it is that.
        preprocessing: how images become the network's input, in RGB, at the published size.
        classes: whose classes the outputs are, in which order; ``"imagenet"``: the 1,000 of
            ILSVRC-2012 by sorted WordNet id.
        head: the beginnings of the names of the tensors that give the logits.
        top: likewise of all tensors behind the last endpoint, the head's included; those of the
            head where it is empty. A network that gives features has no place for them.
        aux: likewise of the auxiliary classifiers, which are left out unless asked for.
        url: where the file is published; None where no single file is.
        sha256: of that file, or the beginning of it; None where it is not known.
        md5: of that file, where its publisher gives no better checksum.
    """

    name: str
    network: str | None = None
    preprocessing: Preprocessing
    classes: Classes | None = "imagenet"
    head: tuple[str, ...]
    top: tuple[str, ...] = ()
    aux: tuple[str, ...] = ()
    url: str | None = None
    sha256: str | None = None
    md5: str | None = None

    @property
    def checksum(self) -> tuple[str, str] | None:
        """The name of the algorithm, as :mod:`hashlib` has it, and the digest or its beginning."""
        if self.sha256 is not None:
            return "sha256", self.sha256.lower()
        return None if self.md5 is None else ("md5", self.md5.lower())


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where weights come from: a library or a release, and how it names and lays out tensors.

    Attributes:
        name: what ``create_model(weights=...)`` calls it.
        about: who publishes the weights, and under which licence.
        endings: of the files that hold them; the first is the usual one.
        releases: for the registry's name of each network that the source has, its weights.
        refused: networks of the source that bear a name like one of ours and are another network:
            our name -> why.
        origins: for a network of the registry and a file of this source, where each variable's
            values are: the path of the variable -> its origin. Every variable of the network must
            have one. Names that the file lacks may stand in it; they are then reported missing.
        ignored: the names of tensors in a file that no prediction depends on.
    """

    name: str
    about: str
    endings: tuple[str, ...]
    releases: Mapping[str, Release]
    refused: Mapping[str, str] = field(default_factory=dict)
    origins: Callable[[keras.Model, WeightsFile], dict[str, Origin]]
    ignored: Callable[[WeightsFile], Collection[str]] = lambda file: ()


@dataclass(frozen=True)
class Provenance:
    """Where a network's weights come from, and what must travel with them.

    Attributes:
        source: the source's name.
        file: the file they were read from.
        preprocessing: how the weights expect an image, at the network's own input shape.
        classes: whose classes the outputs are; None where the head is fresh, or nobody knows.
    """

    source: str
    file: str
    preprocessing: Preprocessing
    classes: Classes | None
