"""A SavedModel's signatures, in the form that checks and batching need."""

from collections.abc import Mapping
from dataclasses import dataclass

from keras_cls.contract.messages import Message
from keras_cls.contract.tensors import data_type_name


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output: its tensor in the graph, its ``DataType`` number and its shape.

    None in ``shape`` is a dimension that is not fixed; None for ``shape``, an unknown rank.
    """

    tensor_name: str
    data_type: int
    shape: tuple[int | None, ...] | None

    @property
    def has_free_rows(self) -> bool:
        """Whether the first dimension can be a batch of any size."""
        return bool(self.shape) and self.shape[0] is None  # type: ignore[index]

    def admits(self, shape: tuple[int, ...]) -> bool:
        """Whether an array of this shape fits."""
        return self.shape is None or (
            len(shape) == len(self.shape)
            and all(
                fixed is None or fixed == size
                for fixed, size in zip(self.shape, shape, strict=True)
            )
        )

    def __str__(self) -> str:
        name = data_type_name(self.data_type)
        return f"{name} of any shape" if self.shape is None else f"{name} {shape_text(self.shape)}"


@dataclass(frozen=True, slots=True)
class Signature:
    """A named way to run the model; ``defaults`` are the inputs that a request may leave out."""

    name: str
    method: str
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    defaults: Mapping[str, Message]

    @property
    def can_batch(self) -> bool:
        """Whether the rows of several requests can go through in one run."""
        return all(spec.has_free_rows for spec in self.inputs.values()) and all(
            spec.shape is None or spec.has_free_rows for spec in self.outputs.values()
        )


def read_signature(name: str, definition: Message) -> Signature | None:
    """The signature that a ``SignatureDef`` describes.

    None where it cannot be run with dense tensors, such as ``__saved_model_init_op``.
    """
    infos = [*definition.inputs.values(), *definition.outputs.values()]
    plain = all(info.WhichOneof("encoding") == "name" and ":" in info.name for info in infos)
    if not plain or not definition.outputs:
        return None
    return Signature(
        name=name,
        method=definition.method_name,
        inputs={alias: _read_spec(info) for alias, info in sorted(definition.inputs.items())},
        outputs={alias: _read_spec(info) for alias, info in sorted(definition.outputs.items())},
        defaults=dict(definition.defaults),
    )


def shape_text(shape: tuple[int | None, ...]) -> str:
    """A shape as messages show it: ``[?,28,28,1]``."""
    return "[" + ",".join("?" if size is None else str(size) for size in shape) + "]"


def _read_spec(info: Message) -> TensorSpec:
    shape = None
    if not info.tensor_shape.unknown_rank:
        shape = tuple(None if dim.size < 0 else dim.size for dim in info.tensor_shape.dim)
    return TensorSpec(info.name, info.dtype, shape)
