"""Classify, Regress and MultiInference requests to calls of a signature, and outputs to results.

These methods take ``tf.Example`` messages, and the model parses them: each goes serialized into
the signature's one input, a vector of strings. Codes and texts are those of TensorFlow Serving.
Nothing here knows of gRPC or of an event loop.

Like the original, this does not look at the method name that a signature declares unless it is told
to: SavedModels of TensorFlow 2 cannot declare one.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from keras_cls.contract import (
    INPUT_EXAMPLES,
    METHOD_CLASSIFY,
    METHOD_REGRESS,
    OUTPUT_CLASSES,
    OUTPUT_SCORES,
    SIGNATURE_DEFAULT,
)
from keras_cls.contract.messages import (
    ClassificationResult,
    Example,
    Message,
    MultiInferenceResponse,
    RegressionResult,
)
from keras_cls.contract.tensors import STRING, data_type_name
from keras_cls.server.predict import PredictCall
from keras_cls.server.signatures import Signature, shape_text
from keras_cls.server.status import Code, RequestError

OUTPUT_REGRESSIONS = "outputs"
"""The output of a regression: float32 ``[N]`` or ``[N, 1]``."""

_NUMPY_TO_DATA_TYPE = {
    "object": "DT_STRING",
    "float16": "DT_HALF",
    "float32": "DT_FLOAT",
    "float64": "DT_DOUBLE",
}


def read_examples(sent: Message) -> list[bytes]:
    """The serialized ``tf.Example`` messages of an ``Input``.

    Where they come with a context, each also has the context's features that it lacks.

    Raises:
        RequestError: INVALID_ARGUMENT, there is none.
    """
    kind = sent.WhichOneof("kind")
    if kind == "example_list_with_context":
        with_context = sent.example_list_with_context
        examples = [_merged(with_context.context, example) for example in with_context.examples]
    elif kind == "example_list":
        examples = list(sent.example_list.examples)
    else:
        examples = []
    if not examples:
        raise _invalid("Input is empty.")
    return [example.SerializeToString() for example in examples]


def find_signature(signatures: Mapping[str, Signature], name: str) -> Signature:
    """The signature that a Classify or Regress request names; "" is the default one.

    Raises:
        RequestError: INVALID_ARGUMENT, there is none of this name.
    """
    name = name or SIGNATURE_DEFAULT
    if name not in signatures:
        raise _invalid(f"No signature was found with the name: {name}")
    return signatures[name]


def classification_call(
    signature: Signature, examples: Sequence[bytes], *, check_method: bool = False
) -> PredictCall:
    """Classify serialized examples: a call for the outputs "classes", "scores" or both.

    Args:
        signature: with the one input "inputs", and at most two outputs.
        examples: from :func:`read_examples`.
        check_method: refuse a signature that does not declare that it classifies.

    Raises:
        RequestError: INVALID_ARGUMENT or FAILED_PRECONDITION, the signature cannot do this.
    """
    if check_method:
        _check_method(signature, "classification", METHOD_CLASSIFY)
    _check_one_input(signature)
    if len(signature.outputs) not in (1, 2):
        raise _invalid(f"Expected one or two output Tensors, found {len(signature.outputs)}")
    inputs = _example_inputs(signature, "classification", examples)
    outputs = tuple(name for name in (OUTPUT_CLASSES, OUTPUT_SCORES) if name in signature.outputs)
    if not outputs:
        raise RequestError(
            Code.FAILED_PRECONDITION,
            "Expected classification signature outputs to contain at least one of "
            f'"{OUTPUT_CLASSES}" or "{OUTPUT_SCORES}". Signature was: {_described(signature)}',
        )
    return PredictCall(signature, inputs, outputs)


def classification_result(outputs: Mapping[str, np.ndarray], rows: int) -> Message:
    """The ``ClassificationResult`` of what a classification call returned.

    Args:
        outputs: "classes", strings ``[rows, n]``, and "scores", float32 ``[rows, n]``; one may be
            missing.
        rows: how many examples there were.

    Raises:
        RequestError: INVALID_ARGUMENT, the model returned something else.
    """
    classes, scores = outputs.get(OUTPUT_CLASSES), outputs.get(OUTPUT_SCORES)
    for name, array, wanted in (
        (OUTPUT_CLASSES, classes, "DT_STRING"),
        (OUTPUT_SCORES, scores, "DT_FLOAT"),
    ):
        if array is not None:
            _check_classification_output(name, array, wanted, rows)
    if classes is not None and scores is not None and classes.shape != scores.shape:
        raise _invalid(
            "Tensors class and score should match in dim_size(1). "
            f"Got {classes.shape[1]} vs. {scores.shape[1]}"
        )
    labels = None if classes is None else [[_label(v) for v in row] for row in classes.tolist()]
    numbers = None if scores is None else scores.tolist()
    result = ClassificationResult()
    for row in range(rows):
        found = result.classifications.add().classes
        if labels is not None and numbers is not None:
            for label, score in zip(labels[row], numbers[row], strict=True):
                found.add(label=label, score=score)
        elif labels is not None:
            for label in labels[row]:
                found.add(label=label)
        elif numbers is not None:
            for score in numbers[row]:
                found.add(score=score)
    return result


def regression_call(
    signature: Signature, examples: Sequence[bytes], *, check_method: bool = False
) -> PredictCall:
    """Find a number for each serialized example: a call for the output "outputs".

    Args:
        signature: with the one input "inputs" and the one output "outputs".
        examples: from :func:`read_examples`.
        check_method: refuse a signature that does not declare that it regresses.

    Raises:
        RequestError: INVALID_ARGUMENT or FAILED_PRECONDITION, the signature cannot do this.
    """
    if check_method:
        _check_method(signature, "regression", METHOD_REGRESS)
    _check_one_input(signature)
    if len(signature.outputs) != 1:
        raise _invalid("Expected one output Tensor.")
    inputs = _example_inputs(signature, "regression", examples)
    if OUTPUT_REGRESSIONS not in signature.outputs:
        raise RequestError(
            Code.FAILED_PRECONDITION,
            f"No regression outputs found in SignatureDef: {_described(signature)}",
        )
    return PredictCall(signature, inputs, (OUTPUT_REGRESSIONS,))


def regression_result(outputs: Mapping[str, np.ndarray], rows: int) -> Message:
    """The ``RegressionResult`` of what a regression call returned.

    Args:
        outputs: "outputs", float32 ``[rows]`` or ``[rows, 1]``.
        rows: how many examples there were.

    Raises:
        RequestError: INVALID_ARGUMENT, the model returned something else.
    """
    array = outputs[OUTPUT_REGRESSIONS]
    if array.ndim != 1 and array.shape[1:] != (1,):
        raise _invalid(
            "Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got "
            f"{shape_text(array.shape)}"
        )
    if len(array) != rows:
        raise _invalid(f"Input batch size did not match output batch size: {rows} vs. {len(array)}")
    if (found := _data_type(array)) != "DT_FLOAT":
        raise _invalid(f"Expected output Tensor of DT_FLOAT.  Got: {found}")
    result = RegressionResult()
    for value in array.ravel().tolist():
        result.regressions.add(value=value)
    return result


def check_tasks(request: Message) -> Message:
    """Check the tasks of a ``MultiInferenceRequest`` against each other.

    Returns:
        The ``ModelSpec`` of the first, whose version all run on.

    Raises:
        RequestError: INVALID_ARGUMENT for no task, tasks of several models, or a signature that is
            named twice; UNIMPLEMENTED for a method other than classify and regress.
    """
    if not request.tasks or not request.tasks[0].model_spec.name:
        raise _invalid("ModelSpec has no name specified.")
    names = set()
    for task in request.tasks:
        if not task.model_spec.name:
            raise _invalid("Found ModelSpec with an empty model name.")
        if task.model_spec.name != request.tasks[0].model_spec.name:
            raise _invalid(
                "All ModelSpecs in a MultiInferenceRequest must access the same model name."
            )
        name = task.model_spec.signature_name or SIGNATURE_DEFAULT
        if name in names:
            raise _invalid(f"Duplicate evaluation of signature: {name}")
        names.add(name)
        if task.method_name not in (METHOD_CLASSIFY, METHOD_REGRESS):
            raise RequestError(
                Code.UNIMPLEMENTED, f"Unsupported signature method_name: {task.method_name}"
            )
    return request.tasks[0].model_spec


def task_calls(
    request: Message,
    signatures: Mapping[str, Signature],
    examples: Sequence[bytes],
    *,
    check_method: bool = False,
) -> list[PredictCall]:
    """A call for each task of a ``MultiInferenceRequest`` that :func:`check_tasks` has passed.

    Raises:
        RequestError: as :func:`classification_call` and :func:`regression_call`, or
            INVALID_ARGUMENT for a signature that is not there.
    """
    calls = []
    for task in request.tasks:
        name = task.model_spec.signature_name or SIGNATURE_DEFAULT
        if name not in signatures:
            raise _invalid(f"Requested signature not found in model graph: {name}")
        make_call = classification_call if _classifies(task) else regression_call
        calls.append(make_call(signatures[name], examples, check_method=check_method))
    return calls


def multi_inference_response(
    request: Message, version: int, outputs: Sequence[Mapping[str, np.ndarray]], rows: int
) -> Message:
    """The ``MultiInferenceResponse``: a result for each task, in the tasks' order.

    Args:
        request: the ``MultiInferenceRequest``.
        version: of the model that answered.
        outputs: what the calls of :func:`task_calls` returned, in their order.
        rows: how many examples there were.

    Raises:
        RequestError: as :func:`classification_result` and :func:`regression_result`.
    """
    response = MultiInferenceResponse()
    for task, arrays in zip(request.tasks, outputs, strict=True):
        result = response.results.add()
        result.model_spec.name = task.model_spec.name
        result.model_spec.signature_name = task.model_spec.signature_name or SIGNATURE_DEFAULT
        result.model_spec.version.value = version
        if _classifies(task):
            result.classification_result.CopyFrom(classification_result(arrays, rows))
        else:
            result.regression_result.CopyFrom(regression_result(arrays, rows))
    return response


def _merged(context: Message, example: Message) -> Message:
    merged = Example()
    merged.CopyFrom(context)
    merged.MergeFrom(example)  # of a map's two values for one key, the later stays
    return merged


def _classifies(task: Message) -> bool:
    return task.method_name == METHOD_CLASSIFY


def _check_method(signature: Signature, kind: str, wanted: str) -> None:
    if signature.method != wanted:
        raise _invalid(
            f"Expected {kind} signature method_name to be {wanted}. Was: {signature.method}"
        )


def _check_one_input(signature: Signature) -> None:
    if len(signature.inputs) != 1:
        raise _invalid("Expected one input Tensor.")


def _example_inputs(
    signature: Signature, kind: str, examples: Sequence[bytes]
) -> dict[str, np.ndarray]:
    """The examples as the signature's input, which is held against them first."""
    spec = signature.inputs.get(INPUT_EXAMPLES)
    if spec is None:
        raise RequestError(
            Code.FAILED_PRECONDITION,
            f"No {kind} inputs found in SignatureDef: {_described(signature)}",
        )
    if spec.data_type != STRING.number:
        raise _invalid(
            f"Type mismatch: actual {STRING.name} vs. expect {data_type_name(spec.data_type)} "
            f'for input "{INPUT_EXAMPLES}"'
        )
    if not spec.admits((len(examples),)):
        raise _invalid(
            f"Shape mismatch: actual [{len(examples)}] vs. expect {shape_text(spec.shape or ())} "
            f'for input "{INPUT_EXAMPLES}"'
        )
    array = np.empty(len(examples), dtype=object)
    array[:] = examples
    return {INPUT_EXAMPLES: array}


def _described(signature: Signature) -> str:
    inputs = ", ".join(f"{name}: {spec}" for name, spec in signature.inputs.items())
    outputs = ", ".join(f"{name}: {spec}" for name, spec in signature.outputs.items())
    return f"{signature.name}, inputs {{{inputs}}}, outputs {{{outputs}}}"


def _check_classification_output(name: str, array: np.ndarray, wanted: str, rows: int) -> None:
    if array.ndim != 2:
        raise _invalid(
            "Expected Tensor shape: [batch_size num_classes] but got "
            f'{shape_text(array.shape)} for output "{name}"'
        )
    if (found := _data_type(array)) != wanted:
        raise _invalid(f"Expected {name} Tensor of {wanted}. Got: {found}")
    if len(array) != rows:
        raise _invalid(f"Expected {name} output batch size of {rows}. Got: {len(array)}")


def _data_type(array: np.ndarray) -> str:
    return _NUMPY_TO_DATA_TYPE.get(array.dtype.name, f"DT_{array.dtype.name.upper()}")


def _label(value: bytes | str) -> str:
    if isinstance(value, str):
        return value
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        # The original sends such bytes, and most clients then cannot read the whole response.
        raise RequestError(
            Code.INTERNAL, f"The model's label {value[:100]!r} is no UTF-8 text"
        ) from error


def _invalid(message: str) -> RequestError:
    return RequestError(Code.INVALID_ARGUMENT, message)
