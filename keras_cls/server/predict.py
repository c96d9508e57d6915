"""What a Predict request asks for, checked before anything runs; and its response.

Nothing here knows of gRPC: a refusal is a :class:`RequestError`. Codes and texts are those of
TensorFlow Serving, except that dtype and shape are held against the signature first. The original
hands them to the graph unchecked, where a wrong rank can abort the process.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from keras_cls.contract import SIGNATURE_DEFAULT
from keras_cls.contract.messages import Message, PredictResponse
from keras_cls.contract.tensors import (
    TensorError,
    data_type_name,
    declared_shape,
    decode_tensor,
    fill_tensor,
)
from keras_cls.server.signatures import Signature, TensorSpec, shape_text
from keras_cls.server.status import Code, RequestError


@dataclass(frozen=True, slots=True)
class PredictCall:
    """A request that makes sense: the signature, an array per input, the outputs wanted."""

    signature: Signature
    inputs: Mapping[str, np.ndarray]
    outputs: tuple[str, ...]


def read_predict_request(request: Message, signatures: Mapping[str, Signature]) -> PredictCall:
    """Check a ``PredictRequest`` against the model's signatures and decode its tensors.

    Raises:
        RequestError: FAILED_PRECONDITION for an unknown signature; INVALID_ARGUMENT for inputs or
            outputs that it does not have, or that do not fit it.
    """
    name = request.model_spec.signature_name or SIGNATURE_DEFAULT
    signature = signatures.get(name)
    if signature is None:
        raise RequestError(Code.FAILED_PRECONDITION, f'Serving signature key "{name}" not found.')
    _check_number_of_inputs(signature, request.inputs)
    inputs = _read_inputs(signature, request.inputs)
    return PredictCall(signature, inputs, _wanted_outputs(signature, request.output_filter))


def call_with_arrays(signature: Signature, inputs: Mapping[str, np.ndarray]) -> PredictCall:
    """A call for all outputs, from an array for each input, of the input's dtype already.

    Raises:
        RequestError: INVALID_ARGUMENT: a shape that its input does not take.
    """
    for alias, spec in signature.inputs.items():
        check_shape(alias, spec, inputs[alias].shape)
    return PredictCall(signature, inputs, tuple(signature.outputs))


def build_predict_response(
    request: Message,
    version: int,
    call: PredictCall,
    outputs: Mapping[str, np.ndarray],
    *,
    content: bool = False,
) -> Message:
    """The ``PredictResponse``: the outputs and the model that made them.

    Values are in typed fields as in the original; with ``content``, in ``tensor_content``.
    """
    response = PredictResponse()
    response.model_spec.name = request.model_spec.name
    response.model_spec.signature_name = call.signature.name
    response.model_spec.version.value = version
    for alias in call.outputs:
        fill_tensor(response.outputs[alias], outputs[alias], typed_field=not content)
    return response


def _check_data_type(alias: str, spec: TensorSpec, data_type: int) -> None:
    if data_type != spec.data_type:
        raise RequestError(
            Code.INVALID_ARGUMENT,
            f"Type mismatch: actual {data_type_name(data_type)} vs. expect "
            f'{data_type_name(spec.data_type)} for input "{alias}"',
        )


def check_shape(alias: str, spec: TensorSpec, shape: tuple[int, ...]) -> None:
    """Hold a shape against an input's.

    Raises:
        RequestError: INVALID_ARGUMENT: the input does not take it.
    """
    if not spec.admits(shape):
        raise RequestError(
            Code.INVALID_ARGUMENT,
            f"Shape mismatch: actual {shape_text(shape)} vs. expect "
            f'{shape_text(spec.shape or ())} for input "{alias}"',
        )


def _check_number_of_inputs(signature: Signature, sent: Mapping[str, Message]) -> None:
    needed = len(signature.inputs)
    if len(sent) == needed or (len(sent) < needed and signature.defaults):
        return
    raise RequestError(
        Code.INVALID_ARGUMENT,
        f"input size does not match signature: {len(sent)}!={needed} "
        f"len({_set_text(sent)}) != len({_set_text(signature.inputs)}). "
        f"Sent extra: {_set_text(set(sent) - set(signature.inputs))}. "
        f"Missing but required: {_set_text(set(signature.inputs) - set(sent))}.",
    )


def _read_inputs(signature: Signature, sent: Mapping[str, Message]) -> dict[str, np.ndarray]:
    inputs = {}
    for alias, spec in signature.inputs.items():
        # Not sent[alias]: that would put an empty tensor into a protobuf map.
        proto = sent.get(alias) or signature.defaults.get(alias)
        if proto is None:
            raise RequestError(
                Code.INVALID_ARGUMENT,
                f"Signature input alias: {alias}(feed name: {spec.tensor_name}) not found in "
                "request and no default value provided. Inputs expected to be in the request "
                f"{_set_text(sent)}, or default input alias set: "
                f"{','.join(sorted(signature.defaults))}",
            )
        inputs[alias] = _read_input(alias, spec, proto)
    unused = set(sent) - set(signature.inputs)
    if unused:
        raise RequestError(
            Code.INVALID_ARGUMENT,
            "Inputs contains invalid name. Used request inputs: "
            f"{','.join(sorted(set(sent) - unused))}, request input: {','.join(sorted(sent))}",
        )
    return inputs


def _read_input(alias: str, spec: TensorSpec, proto: Message) -> np.ndarray:
    """Decode one tensor; its dtype and shape are looked at before its values are."""
    _check_data_type(alias, spec, proto.dtype)
    try:
        check_shape(alias, spec, declared_shape(proto))
        return decode_tensor(proto)
    except TensorError as error:
        raise RequestError(
            Code.INVALID_ARGUMENT, f"tensor parsing error: {alias}: {error}"
        ) from error


def _wanted_outputs(signature: Signature, output_filter: Iterable[str]) -> tuple[str, ...]:
    wanted: list[str] = []
    for alias in output_filter:
        if alias not in signature.outputs:
            raise RequestError(
                Code.INVALID_ARGUMENT,
                f"output tensor alias not found in signature: {alias} Outputs expected to be in "
                f"the set {_set_text(signature.outputs)}.",
            )
        if alias in wanted:
            raise RequestError(Code.INVALID_ARGUMENT, f"duplicate output tensor alias: {alias}")
        wanted.append(alias)
    return tuple(wanted) or tuple(signature.outputs)


def _set_text(names: Iterable[str]) -> str:
    return "{" + ",".join(sorted(names)) + "}"
