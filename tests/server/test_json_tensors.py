"""Tensors and examples in JSON: what is read, what is refused and how, and what is written."""

import base64
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from keras_cls.contract.messages import (
    ClassificationRequest,
    ClassificationResult,
    RegressionRequest,
    RegressionResult,
)
from keras_cls.contract.tensors import (
    BFLOAT16,
    BOOL,
    DOUBLE,
    FLOAT,
    HALF,
    INT8,
    INT16,
    INT32,
    INT64,
    STRING,
    UINT8,
    UINT16,
    UINT32,
    UINT64,
)
from keras_cls.server import json_document
from keras_cls.server.json_answers import (
    write_classification_result,
    write_error,
    write_regression_result,
    write_tensors,
)
from keras_cls.server.json_document import parse_document, signature_name
from keras_cls.server.json_tensors import Layout, read_examples, read_tensors
from keras_cls.server.signatures import TensorSpec
from keras_cls.server.status import RequestError

NUMBERS = (FLOAT, DOUBLE, INT8, INT16, INT32, INT64, UINT8, UINT32, UINT64, BOOL)
WITHOUT_JSON = (HALF, BFLOAT16, UINT16)


def spec(element):
    return TensorSpec("x:0", element.number, None)


def read(body, **inputs):
    document = parse_document(body if isinstance(body, bytes) else body.encode())
    return read_tensors(document, {alias: spec(element) for alias, element in inputs.items()})


def array_from(body, element):
    _, arrays = read(body, x=element)
    return arrays["x"]


def refusal(body, **inputs):
    with pytest.raises(RequestError) as caught:
        read(body, **inputs)
    return caught.value.code.name, caught.value.message


def text_of(outputs, layout):
    return write_tensors(outputs, layout).decode()


# --- there and back ---------------------------------------------------------------------------


def number_arrays(min_dims=0):
    return st.sampled_from(NUMBERS).flatmap(
        lambda element: arrays_of.arrays(
            element.memory, arrays_of.array_shapes(min_dims=min_dims, max_dims=4, max_side=4)
        ).map(lambda array: (element, array))
    )


@given(number_arrays())
def test_numbers_there_and_back_by_columns(case):
    element, array = case
    answer = json.loads(write_tensors({"x": array}, Layout.COLUMNS))
    found = array_from(json.dumps({"inputs": answer["outputs"]}), element)
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


@given(number_arrays(min_dims=1))
def test_numbers_there_and_back_by_rows(case):
    element, array = case
    answer = json.loads(write_tensors({"x": array}, Layout.ROWS))
    found = array_from(json.dumps({"instances": answer["predictions"]}), element)
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


@given(number_arrays(min_dims=1), st.integers(1, 3))
def test_named_rows_there_and_back(case, width):
    element, array = case
    wide = np.arange(len(array) * width, dtype=np.int64).reshape(len(array), width)
    answer = json.loads(write_tensors({"x": array, "y": wide}, Layout.ROWS))
    layout, found = read(json.dumps({"instances": answer["predictions"]}), x=element, y=INT64)
    assert layout is Layout.ROWS
    np.testing.assert_array_equal(found["x"], array)
    np.testing.assert_array_equal(found["y"], wide)


@given(st.lists(st.binary(max_size=20), min_size=1, max_size=5))
def test_bytes_there_and_back_in_base64(values):
    array = np.array([*values, None], object)[:-1]
    for layout, sent, answered in (
        (Layout.ROWS, "instances", "predictions"),
        (Layout.COLUMNS, "inputs", "outputs"),
    ):
        answer = json.loads(write_tensors({"x_bytes": array}, layout))
        found = array_from(json.dumps({sent: answer[answered]}), STRING)
        assert found.tolist() == values


@given(st.lists(st.text(max_size=20), min_size=1, max_size=5))
def test_strings_there_and_back(values):
    array = np.array([value.encode() for value in values] + [None], object)[:-1]
    answer = json.loads(write_tensors({"x": array}, Layout.COLUMNS))
    for escaped in (True, False):
        body = json.dumps({"inputs": answer["outputs"]}, ensure_ascii=escaped)
        assert array_from(body, STRING).tolist() == array.tolist()


@pytest.mark.parametrize("element", [e for e in NUMBERS if e.memory.kind in "iu"])
def test_integers_at_their_limits(element):
    limits = np.iinfo(element.memory)
    body = f'{{"inputs": [{limits.min}, {limits.max}]}}'
    assert array_from(body, element).tolist() == [limits.min, limits.max]
    for beyond in (limits.min - 1, limits.max + 1):
        assert refusal(f'{{"inputs": [{beyond}]}}', x=element) == (
            "INVALID_ARGUMENT",
            f"JSON Value: {beyond} Type: Number is not of expected type: {element.name}",
        )


def test_a_dense_image_is_read():
    pixels = np.random.default_rng(0).random((2, 24, 24, 3), np.float32)
    body = json.dumps({"instances": pixels.tolist()})
    np.testing.assert_array_equal(array_from(body, FLOAT), pixels)


# --- values and types -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("element", "values", "expected"),
    [
        (FLOAT, "[1, 2.5, -3e2, 16777215]", [1, 2.5, -300, 16777215]),
        (DOUBLE, "[9007199254740991, 1e308]", [9007199254740991, 1e308]),
        (FLOAT, "[Infinity, -Infinity]", [math.inf, -math.inf]),
        (FLOAT, "[16777217.0]", [16777216]),
        (INT32, "[-0, 7]", [0, 7]),
        (BOOL, "[true, false]", [True, False]),
        (STRING, '["a", {"b64": "YQ=="}, {"b64": "YQ"}, {"b64": " Y Q "}]', [b"a"] * 4),
        (STRING, r'["\u00e9\ud83d\ude00\u0000"]', ["é😀\0".encode()]),
    ],
)
def test_values(element, values, expected):
    assert array_from(f'{{"inputs": {values}}}', element).tolist() == expected


def test_not_a_number_is_one():
    found = array_from('{"instances": [NaN, 1]}', FLOAT)
    assert np.isnan(found[0]) and found[1] == 1


@pytest.mark.parametrize(
    ("element", "value", "text"),
    [
        (FLOAT, '"1"', 'JSON Value: "1" Type: String is not of expected type: float'),
        (FLOAT, "null", "JSON Value: null Type: Null is not of expected type: float"),
        (FLOAT, "true", "JSON Value: true Type: True is not of expected type: float"),
        (INT32, "false", "JSON Value: false Type: False is not of expected type: int32"),
        (INT32, "1.0", "JSON Value: 1.0 Type: Number is not of expected type: int32"),
        (UINT8, "300", "JSON Value: 300 Type: Number is not of expected type: uint8"),
        (UINT64, "-1", "JSON Value: -1 Type: Number is not of expected type: uint64"),
        (BOOL, "1", "JSON Value: 1 Type: Number is not of expected type: bool"),
        (STRING, "1", "JSON Value: 1 Type: Number is not of expected type: string"),
        (
            INT32,
            '{"b64": "YQ=="}',
            'JSON Value: {\n    "b64": "YQ=="\n} Type: Object is not of expected type: int32',
        ),
        (STRING, '{"b64": "Y"}', "Unable to base64 decode"),
        (STRING, '{"b64": "Y==="}', "Unable to base64 decode"),
        (STRING, '{"b64": "Y-_="}', "Unable to base64 decode"),
        (STRING, '{"b64": "ÄÄÄÄ"}', "Unable to base64 decode"),
        (
            STRING,
            '{"b64": 1}',
            'JSON Value: {\n    "b64": 1\n} not formatted correctly for base64 data',
        ),
        (
            FLOAT,
            "16777216",
            "Cannot convert JSON value: 16777216 to float without loss of precision.",
        ),
        (FLOAT, "1e39", "Cannot convert JSON value: 1e+39 to float without loss of precision."),
        (
            DOUBLE,
            "-9007199254740992",
            "Cannot convert JSON value: -9007199254740992 to double without loss of precision.",
        ),
        (DOUBLE, "1e999", "JSON Parse error: Number too big to be stored in double."),
        (DOUBLE, "1" + "0" * 400, "JSON Parse error: Number too big to be stored in double."),
        (DOUBLE, "1" + "0" * 5000, "JSON Parse error: Number too big to be stored in double."),
        (STRING, r'"\ud800"', "JSON Parse error: The surrogate pair in string is invalid."),
    ],
)
def test_wrong_values(element, value, text):
    # In a list: an object that is no base64 would be taken for the names of inputs.
    assert refusal(f'{{"inputs": [{value}]}}', x=element) == ("INVALID_ARGUMENT", text)


@pytest.mark.parametrize("element", WITHOUT_JSON)
def test_types_that_json_cannot_carry(element):
    text = f"Conversion of JSON Value: 1 to type: {element.name}"
    assert refusal('{"inputs": [1]}', x=element) == ("UNIMPLEMENTED", text)
    assert refusal('{"instances": [1]}', x=element) == (
        "INVALID_ARGUMENT",
        f"Failed to process element: 0 of 'instances' list. Error: UNIMPLEMENTED: {text}",
    )
    assert refusal('{"inputs": []}', x=element)[0] == "UNIMPLEMENTED"


def test_a_long_value_is_quoted_in_part():
    _, text = refusal(json.dumps({"inputs": ["a" * 5000]}), x=FLOAT)
    assert text.startswith('JSON Value: "aaaa')
    assert "...TRUNCATED Type: String" in text
    assert len(text) < 1200


def test_bytes_that_are_no_utf8_are_kept():
    assert array_from(b'{"inputs": ["a\xff\xc3\xa9"]}', STRING).tolist() == [b"a\xff\xc3\xa9"]


# --- rows and columns -------------------------------------------------------------------------


def test_the_forms_of_one_input():
    for body in (
        '{"instances": [[1, 2], [3, 4]]}',
        '{"instances": [{"x": [1, 2]}, {"x": [3, 4]}]}',
        '{"inputs": [[1, 2], [3, 4]]}',
        '{"inputs": {"x": [[1, 2], [3, 4]]}}',
        '{"inputs": {"x": [[1, 2], [3, 4]], "more": "is ignored"}, "also": [{}]}',
    ):
        assert array_from(body, FLOAT).tolist() == [[1, 2], [3, 4]], body


def test_shapes_with_nothing_in_them():
    assert array_from('{"instances": [[], []]}', FLOAT).shape == (2, 0)
    assert array_from('{"inputs": []}', FLOAT).shape == (0,)
    assert array_from('{"inputs": 1.5}', FLOAT).shape == ()


def test_one_string_in_base64():
    assert array_from('{"inputs": {"b64": "YQ=="}}', STRING).tolist() == b"a"
    assert array_from('{"instances": [{"b64": "YQ=="}]}', STRING).tolist() == [b"a"]
    assert array_from('{"instances": [{"x": {"b64": "YQ=="}}]}', STRING).tolist() == [b"a"]


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ('{"instances": [1], "inputs": [1]}', "expecting only one of 'inputs' or 'instances'"),
        ("{}", "Missing 'inputs' or 'instances' key"),
        ('{"instances": 1}', "Excepting 'instances' to be an list/array"),
        ('{"instances": []}', "No values in 'instances' array"),
        (
            '{"instances": [{"x": 1}, 2]}',
            "Expecting object but got list at item 1 of input list",
        ),
        (
            '{"instances": [1, {"x": 1}]}',
            "Expecting value/list but got object at item 1 of input list",
        ),
        (
            '{"instances": [{"x": 1}, {"x": "a"}]}',
            "Failed to process element: 1 key: x of 'instances' list. Error: INVALID_ARGUMENT: "
            'JSON Value: "a" Type: String is not of expected type: float',
        ),
        (
            '{"instances": [{"x": 1, "z": 1}]}',
            "Failed to process element: 0 key: z of 'instances' list. Error: INVALID_ARGUMENT: "
            "JSON object: does not have named input: z",
        ),
        (
            '{"instances": [{"x": 1}, {}]}',
            "Failed to process element: 1 of 'instances' list. JSON object: {} keys must be equal "
            "to: x",
        ),
        (
            '{"instances": [[1, 2], [1]]}',
            "Failed to process element: 1 of 'instances' list. Error: INVALID_ARGUMENT: Expecting "
            "tensor size: 2 but got: 1",
        ),
        (
            '{"instances": [[1, 2], [[1, 2]]]}',
            "Failed to process element: 1 of 'instances' list. Error: INVALID_ARGUMENT: Expecting "
            "shape [2] but got: [1,2]",
        ),
        (
            '{"inputs": [[1, 2], [1]]}',
            "Encountered list at unexpected size: 1 at level: 1 expected size: 2",
        ),
        ('{"inputs": [1, [1]]}', "Encountered list at unexpected level: 1 expected < 1"),
        (
            '{"inputs": [[1], 1]}',
            "JSON Value: 1 found at incorrect level: 2 in the JSON DOM. Expected at level: 2",
        ),
        ('{"inputs": {"y": [1]}}', "Missing named input: x in 'inputs' object."),
    ],
)
def test_what_is_no_tensor(body, text):
    code, message = refusal(body, x=FLOAT)
    assert code == "INVALID_ARGUMENT"
    assert message == text or (message.startswith("JSON Value: {") and text in message)


@given(st.integers(1, 40), st.data())
def test_the_first_wrong_row_is_named(count, data):
    wrong = data.draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=3))
    for key, rows in (
        ("", ["a" if place in wrong else place for place in range(count)]),
        (" key: x", [{"x": "a" if place in wrong else place} for place in range(count)]),
    ):
        _, text = refusal(json.dumps({"instances": rows}), x=FLOAT)
        assert text.startswith(f"Failed to process element: {min(wrong)}{key} of 'instances'")
    columns = [f"w{place}" if place in wrong else place for place in range(count)]
    _, text = refusal(json.dumps({"inputs": [[columns]]}), x=FLOAT)
    assert text.startswith(f'JSON Value: "w{min(wrong)}" Type')


def test_several_inputs_need_names():
    assert refusal('{"instances": [1]}', a=FLOAT, b=FLOAT)[1] == (
        "instances is a plain list, but expecting list of objects as multiple input tensors "
        "required as per tensorinfo_map"
    )
    assert refusal('{"inputs": [1]}', a=FLOAT, b=FLOAT)[1] == (
        "inputs is a plain value/list, but expecting an object as multiple input tensors required "
        "as per tensorinfo_map"
    )
    assert refusal('{"instances": [{"a": 1}]}', a=FLOAT, b=FLOAT)[1].endswith(
        "keys must be equal to: a,b"
    )


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats()
    | st.text(max_size=5)
    | st.builds(lambda data: {"b64": base64.b64encode(data).decode()}, st.binary(max_size=5)),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["x", "y", "b64"]), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(
    json_values,
    st.sampled_from(["instances", "inputs"]),
    st.sampled_from((*NUMBERS, STRING, *WITHOUT_JSON)),
    st.booleans(),
)
def test_whatever_is_sent_is_an_array_or_refused(value, key, element, two):
    inputs = {"x": element, "y": FLOAT} if two else {"x": element}
    try:
        _, arrays = read(json.dumps({key: value}), **inputs)
    except RequestError as error:
        assert error.message
    else:
        assert arrays.keys() == inputs.keys()
        for alias, array in arrays.items():
            assert array.dtype == (inputs[alias].memory or object)


@given(st.binary(max_size=60) | st.binary(max_size=40).map(lambda tail: b'{"inputs": [1' + tail))
def test_whatever_bytes_are_sent_are_json_or_refused(body):
    try:
        assert isinstance(parse_document(body), dict)
    except RequestError as error:
        assert error.message.startswith(("JSON Parse error: ", "JSON Value: "))


# --- the document -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "JSON Parse error: The document is empty"),
        (b" \n", "JSON Parse error: The document is empty. at offset: 2"),
        (b"\0", "JSON Parse error: Invalid value. at offset: 0"),
        (b"{", "JSON Parse error: Missing a name for object member. at offset: 1"),
        (b'{"a" 1}', "JSON Parse error: Missing a colon after a name of object member. at offset"),
        (b'{"a": 1', "JSON Parse error: Missing a comma or } after an object member. at offset: 7"),
        (
            b'{"a": ["]", {}, [1 2',
            "JSON Parse error: Missing a comma or ] after an array element. at offset: 19",
        ),
        (b'{"a": [1,', "JSON Parse error: Invalid value. at offset: 9"),
        (b'{"a": "b', "JSON Parse error: Missing a closing quotation mark in string. at offset"),
        (b'{"a": "b\0"}', "JSON Parse error: Invalid encoding in string. at offset: 8"),
        (b'{"a": "\\x"}', "JSON Parse error: Invalid escape character in string. at offset: 7"),
        (b'{"a": "\\u00g0"}', "JSON Parse error: Incorrect hex digit after \\u escape in string."),
        ('{"ä": '.encode(), "JSON Parse error: Invalid value. at offset: 7"),
        (b"[1]", "JSON Value: [\n    1\n] Is not object"),
        (b"null", "JSON Value: null Is not object"),
    ],
)
def test_what_is_no_document(body, text):
    with pytest.raises(RequestError) as caught:
        parse_document(body)
    assert caught.value.code.name == "INVALID_ARGUMENT"
    assert caught.value.message.startswith(text)


def test_what_stands_behind_the_document_is_ignored():
    for junk in (b" ", b"}", b'{"a": 2}', b"\0", b"\xff", b"[" * 50):
        assert parse_document(b'\xef\xbb\xbf \t\r\n{"a": 1}' + junk) == {"a": 1}


def test_the_first_of_equal_names_counts():
    assert parse_document(b'{"a": 1, "b": 2, "a": 3}') == {"a": 1, "b": 2}


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'["\\"]]]", '])
@pytest.mark.parametrize("closing", [b"", b"]" * 100_000])
def test_deep_nesting_is_refused_before_it_is_parsed(opening, closing):
    with pytest.raises(RequestError, match="nested deeper than 64 levels"):
        parse_document(b'{"instances": ' + opening * 100_000 + closing)


def test_depth_at_the_limit():
    nested = "[" * 63 + "1" + "]" * 63
    assert array_from(f'{{"inputs": {nested}}}', FLOAT).shape == (1,) * 63
    with pytest.raises(RequestError, match="deeper than 63 levels"):
        parse_document(f'{{"inputs": {nested}}}'.encode(), max_depth=63)
    brackets_in_strings = json.dumps({"inputs": ["[" * 100, '"[\\' * 100]})
    assert array_from(brackets_in_strings, STRING).tolist() == [b"[" * 100, b'"[\\' * 100]


texts = st.text('a"\\[]{}\u00e9', max_size=6)
documents = st.dictionaries(
    texts,
    st.recursive(
        texts | st.integers(0, 9),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
        max_leaves=10,
    ),
    max_size=3,
)


def depth_of(value):
    items = value.values() if isinstance(value, dict) else value
    if not isinstance(value, dict | list):
        return 0
    return 1 + max(map(depth_of, items), default=0)


@pytest.mark.parametrize("piece", [1, 3, json_document._PIECE])
@given(documents, st.booleans())
def test_brackets_in_strings_do_not_count(piece, document, ascii_only):
    body = json.dumps(document, ensure_ascii=ascii_only).encode()
    depth = depth_of(document)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_document, "_PIECE", piece)
        assert parse_document(body, depth) == document
        if depth > 1:
            with pytest.raises(RequestError, match=f"deeper than {depth - 1} levels"):
                parse_document(body, depth - 1)


def test_signature_names():
    assert signature_name({}) == ""
    assert signature_name({"signature_name": "a"}) == "a"
    with pytest.raises(RequestError, match=r"'signature_name' key must be a string value\."):
        signature_name({"signature_name": 1})
    with pytest.raises(RequestError, match=r"Invalid encoding in string\."):
        signature_name({"signature_name": "\ud800"})


# --- examples ---------------------------------------------------------------------------------


@pytest.mark.parametrize("request_type", [ClassificationRequest, RegressionRequest])
def test_examples(request_type):
    request = request_type()
    body = (
        b'{"examples": [{"names": ["foo", {"b64": "YmFy"}], "ratings": [8.0, NaN, Infinity],'
        b' "age": 20, "flags": [1, true, false], "empty": []}, {}]}'
    )
    read_examples(parse_document(body), request)
    first, second = request.input.example_list.examples
    feature = first.features.feature
    assert feature["names"].bytes_list.value == [b"foo", b"bar"]
    assert feature["age"].int64_list.value == [20]
    assert feature["flags"].int64_list.value == [1, 1, 0]
    assert feature["ratings"].float_list.value[0] == 8
    assert feature["ratings"].float_list.value[2] == math.inf
    assert feature["empty"].WhichOneof("kind") is None
    assert not second.features.feature


def test_examples_with_context():
    request = ClassificationRequest()
    read_examples({"context": {"query": "pizza"}, "examples": [{"a": 1.5}]}, request)
    found = request.input.example_list_with_context
    assert found.context.features.feature["query"].bytes_list.value == [b"pizza"]
    assert found.examples[0].features.feature["a"].float_list.value == [1.5]
    empty = ClassificationRequest()
    read_examples({"context": {}, "examples": [{}]}, empty)
    assert empty.input.WhichOneof("kind") == "example_list_with_context"


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("{}", "JSON Value: {} When method is classify, key 'examples' is expected and was not"),
        ('{"examples": {}}', "Expecting 'examples' value to be an list/array"),
        ('{"examples": []}', "'examples' value is an empty array"),
        ('{"examples": [1]}', "Example must be JSON object but got JSON Number"),
        ('{"context": [], "examples": [{}]}', "Example must be JSON object but got JSON Array"),
        (
            '{"examples": [{"a": [1, null]}]}',
            "Feature: a has element with unexpected JSON type: Null",
        ),
        ('{"examples": [{"a": [[1]]}]}', "Feature: a has element with unexpected JSON type: Array"),
        ('{"examples": [{"a": {"c": 1}}]}', "has element with unexpected JSON type: Object"),
        (
            '{"examples": [{"a": [1, 1.5]}]}',
            "Unexpected element type in feature: a expecting type:",
        ),
        (
            '{"examples": [{"a": 18446744073709551615}]}',
            "Feature: a has uint64 element. Only int64 is supported.",
        ),
        ('{"examples": [{"a": 1e39}]}', "to float without loss of precision."),
        ('{"examples": [{"a": 1e999}]}', "Number too big to be stored in double."),
        ('{"examples": [{"a": {"b64": "?"}}]}', "Unable to base64 decode"),
        (r'{"examples": [{"\ud800": 1}]}', "Invalid encoding in string."),
    ],
)
def test_what_is_no_example(body, text):
    with pytest.raises(RequestError) as caught:
        read_examples(parse_document(body.encode()), ClassificationRequest())
    assert caught.value.code.name == "INVALID_ARGUMENT"
    assert text in caught.value.message


# --- what is written --------------------------------------------------------------------------


def test_floats_can_be_told_from_whole_numbers_and_come_back():
    values = np.array(
        [9000000, 999999, 0.5, 0.0003, 0.00003, 555557.5, 1 / 3, 0, -0.0, np.nan, np.inf, -np.inf],
        np.float32,
    )
    assert text_of({"x": values}, Layout.ROWS) == (
        '{\n    "predictions": [9e+06, 999999.0, 0.5, 0.0003, 3e-05, 555557.5, 0.333333343, 0.0, '
        "-0.0, NaN, Infinity, -Infinity\n    ]\n}"
    )
    assert text_of({"x": np.float64(1 / 3)}, Layout.COLUMNS) == (
        '{\n    "outputs": 0.33333333333333331\n}'
    )


def test_rows_are_laid_out_as_the_original_does():
    numbers = np.array([[1, 2], [3, 4]], np.int32)
    words = np.array([[b"a"], [b"b"]], object)
    assert text_of({"x": numbers}, Layout.ROWS) == (
        '{\n    "predictions": [[1, 2], [3, 4]\n    ]\n}'
    )
    assert text_of({"n": numbers, "w_bytes": words}, Layout.ROWS) == (
        """{
    "predictions": [
        {
            "n": [1, 2],
            "w_bytes": [{
                    "b64": "YQ=="
                }]
        },
        {
            "n": [3, 4],
            "w_bytes": [{
                    "b64": "Yg=="
                }]
        }
    ]
}"""
    )


def test_columns_are_laid_out_as_the_original_does():
    numbers = np.array([[1, 2]], np.int32)
    assert text_of({"x": numbers}, Layout.COLUMNS) == (
        """{
    "outputs": [
        [
            1,
            2
        ]
    ]
}"""
    )
    assert text_of({"n": numbers[0], "w": np.array([b"a"], object)}, Layout.COLUMNS) == (
        """{
    "outputs": {
        "n": [
            1,
            2
        ],
        "w": [
            "a"
        ]
    }
}"""
    )


def test_no_rows():
    empty = {"x": np.zeros((0, 2), np.float32), "y": np.zeros((0,), np.int32)}
    assert json.loads(write_tensors(empty, Layout.ROWS)) == {"predictions": []}
    assert json.loads(write_tensors(empty, Layout.COLUMNS)) == {"outputs": {"x": [], "y": []}}
    hollow = {"x": np.zeros((2, 0), np.float32)}
    assert json.loads(write_tensors(hollow, Layout.ROWS)) == {"predictions": [[], []]}


def test_strings_that_are_no_utf8():
    strings = np.array([b"a\xff", b'"\\\n\x01'], object)
    answer = json.loads(write_tensors({"x": strings}, Layout.ROWS))
    assert answer == {"predictions": ["a\ufffd", '"\\\n\x01']}


@pytest.mark.parametrize(
    ("outputs", "text"),
    [
        ({}, "Cannot convert empty tensor map to JSON"),
        ({"x": np.float32(1)}, "Tensor name: x has no shape information "),
        (
            {"x": np.zeros(2, np.float32), "y": np.zeros(3, np.float32)},
            "Tensor name: y has inconsistent batch size: 3 expecting: 2",
        ),
        (
            {"x": np.zeros(1, np.complex64)},
            "Failed to write JSON value for tensor type: complex64",
        ),
    ],
)
def test_what_cannot_be_written(outputs, text):
    outputs = {alias: np.asarray(array) for alias, array in outputs.items()}
    with pytest.raises(RequestError) as caught:
        write_tensors(outputs, Layout.ROWS)
    assert (caught.value.code.name, caught.value.message) == ("INVALID_ARGUMENT", text)


def test_results_of_classification():
    result = ClassificationResult()
    for score in (0.5, 1):
        entry = result.classifications.add()
        entry.classes.add(label="ä", score=score)
        entry.classes.add(label="", score=0.25)
    assert write_classification_result(result).decode() == (
        '{\n    "results": [[["ä", 0.5], ["", 0.25]], [["ä", 1.0], ["", 0.25]]\n    ]\n}'
    )
    with pytest.raises(RequestError, match="Cannot convert empty ClassificationResults to JSON"):
        write_classification_result(ClassificationResult())


def test_results_of_regression():
    result = RegressionResult()
    result.regressions.add(value=2.5)
    result.regressions.add(value=3)
    assert write_regression_result(result) == b'{\n    "results": [2.5, 3.0]\n}'
    with pytest.raises(RequestError, match="Cannot convert empty RegressionResults to JSON"):
        write_regression_result(RegressionResult())


@given(st.text(st.characters()))
def test_errors_are_always_json(message):
    body = json.loads(write_error(message))
    assert body == {"error": message.encode(errors="replace").decode()}
