"""safetensors files: genuine, our own, and broken ones."""

import json
import struct
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from damaged_files import damaged, examples, refusal, tensors_or_refusal
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as np_st

from keras_cls.errors import ConfigError
from keras_cls.weights import formats
from keras_cls.weights.formats import safetensors

GENUINE = Path(__file__).parent / "files" / "kinds.safetensors"
TENSORS = {
    "float64": np.array([0, 1, 2.5, 3], np.float64),
    "float32": np.array([0, 1, 2.5, 3], np.float32),
    "float16": np.array([0, 1, 2.5, 3], np.float16),
    "bfloat16": np.array([0, 1, 2.5, 3], np.float32),
    "bool": np.array([False, True, True, True]),
    **{name: np.array([0, 1, 2, 3], name) for name in ("int64", "int32", "int16", "int8", "uint8")},
    "scalar": np.array(7, np.float32),
    "empty": np.zeros((0, 3), np.float32),
}
BFLOAT16 = {"bfloat16": TENSORS["bfloat16"].astype(ml_dtypes.bfloat16)}


def entry(kind: object, shape: object, start: object, end: object) -> dict[str, object]:
    return {"dtype": kind, "shape": shape, "data_offsets": [start, end]}


def content(header: object, numbers: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + numbers


def same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype and found[name].shape == tensor.shape, name
        np.testing.assert_array_equal(found[name], tensor, err_msg=name)


def test_a_file_of_the_library() -> None:
    file = formats.read(GENUINE)
    same(dict(file.tensors), TENSORS)
    assert file.ending == ".safetensors" and file.network is None


def test_written_as_the_library_writes_it(tmp_path: Path) -> None:
    path = tmp_path / "ours.safetensors"
    safetensors.write(path, TENSORS | BFLOAT16, {"format": "pt"})
    ours, theirs = path.read_bytes(), GENUINE.read_bytes()
    headers = []
    for written in (ours, theirs):
        (length,) = struct.unpack("<Q", written[:8])
        assert length % 8 == 0
        headers.append((json.loads(written[8 : 8 + length]), written[8 + length :]))
    # The library orders numbers of one width by its own list of kinds, then by name.
    widths = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I16": 2}
    for header, numbers in headers:
        assert header.pop("__metadata__") == {"format": "pt"}
        for its in header.values():
            assert its["data_offsets"][0] % widths.get(its["dtype"], 1) == 0
        assert len(numbers) == len(headers[0][1])
    assert {n: (e["dtype"], e["shape"]) for n, e in headers[0][0].items()} == {
        n: (e["dtype"], e["shape"]) for n, e in headers[1][0].items()
    }
    same(dict(formats.read(path).tensors), TENSORS)


NAMES = st.text(st.characters(codec="utf-8"), max_size=12).filter(lambda n: n != "__metadata__")
ARRAYS = np_st.arrays(
    st.sampled_from(["f8", "f4", ">f4", "f2", "i8", ">i2", "u1", "?"]),
    np_st.array_shapes(min_dims=0, min_side=0, max_side=4),
)


@examples(100)
@given(
    tensors=st.dictionaries(NAMES, ARRAYS, max_size=5),
    metadata=st.none() | st.dictionaries(NAMES, st.text(max_size=9), max_size=2),
    columns=st.booleans(),
)
def test_what_is_written_is_read(
    tensors: dict[str, np.ndarray],
    metadata: dict[str, str] | None,
    columns: bool,
    tmp_path: Path,
) -> None:
    path = tmp_path / "file.safetensors"
    if columns:
        tensors = {name: tensor.T for name, tensor in tensors.items()}
    safetensors.write(path, tensors, metadata)
    found = dict(formats.read(path).tensors)
    assert {name: (t.shape, t.tobytes()) for name, t in found.items()} == {
        name: (t.shape, t.astype(t.dtype.newbyteorder("=")).tobytes())
        for name, t in tensors.items()
    }


def test_what_cannot_be_written(tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    with pytest.raises(ConfigError, match=r"file\.safetensors: safetensors cannot hold w of comp"):
        safetensors.write(path, {"w": np.zeros(2, complex)})
    with pytest.raises(ConfigError, match="cannot hold __metadata__"):
        safetensors.write(path, {"__metadata__": np.zeros(2)})
    with pytest.raises(ConfigError, match="expected texts by name"):
        safetensors.write(path, {"w": np.zeros(2)}, {"epoch": 3})
    assert list(tmp_path.iterdir()) == []


W = entry("F32", [2], 0, 8)


@pytest.mark.parametrize(
    ("header", "numbers", "said"),
    [
        (b"[]", b"", "its header is no JSON object"),
        (b"{", b"", "damaged, or not a .safetensors file"),
        (b"{" + b'"a":[' * 100_000, b"", "damaged, or not a .safetensors file"),
        ({"w": W}, bytes(7), "its tensors take 8 bytes, 7 are there: truncated or damaged"),
        ({"w": W}, bytes(9), "its tensors take 8 bytes, 9 are there"),
        ({"w": 3}, b"", "w: expected dtype, shape and data_offsets in the header"),
        ({"w": {"dtype": "F32"}}, b"", "w: expected dtype, shape and data_offsets"),
        ({"w": W | {"strides": [4]}}, bytes(8), "w: its header has 'strides' too many"),
        ({"w": entry("F32", [2], 0, 4)}, bytes(4), "w: F32 (2,) takes 8 bytes, found 4"),
        ({"w": entry("F32", [2, 1 << 62], 0, 8)}, bytes(8), "bytes, found 8"),
        ({"w": entry("F32", [2], 8, 0)}, bytes(8), "takes 8 bytes, found -8"),
        ({"w": entry("F8_E4M3", [2], 0, 2)}, bytes(2), "w: expected one of F64, F32"),
        ({"w": entry("F32", [-1], 0, 0)}, b"", "none negative"),
        ({"w": entry("F32", [2.0], 0, 8)}, bytes(8), "must be whole numbers"),
        ({"w": entry("F32", [True, 2], 0, 8)}, bytes(8), "must be whole numbers"),
        ({"w": entry("F32", [2], "0", 8)}, bytes(8), "must be whole numbers"),
        ({"w": entry("F32", [1] * 17, 0, 4)}, bytes(4), "w: has 17 axes"),
        ({"w": entry("F32", [0, 1 << 62, 1 << 62], 0, 0)}, b"", "file.safetensors"),
        ({"a": W, "w": entry("F32", [2], 4, 12)}, bytes(12), "w: begins at 4, expected 8: overl"),
        ({"a": W, "w": entry("F32", [2], 12, 20)}, bytes(20), "12, expected 8: leaves a hole"),
        ({"a": W, "w": W}, bytes(8), "expected 8: overlaps the one before"),
        (b'{"w":1,"w":2}', b"", "names something twice"),
        (b'{"w":{"dtype":"F32","dtype":"F32"}}', b"", "names something twice"),
        ({"__metadata__": {"epoch": 3}}, b"", "__metadata__: expected texts by name"),
        ({"__metadata__": []}, b"", "__metadata__: expected texts by name"),
    ],
)
def test_headers_that_make_no_sense(
    header: object, numbers: bytes, said: str, tmp_path: Path
) -> None:
    assert said in refusal(tmp_path / "file.safetensors", content(header, numbers))


def test_other_files(tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    assert "expected a safetensors file: its 0 bytes cannot" in refusal(path, b"")
    assert "cannot have a header of" in refusal(path, b"\xff" * 100)
    assert "its header is no JSON object" in refusal(path, struct.pack("<Q", 0))
    large = struct.pack("<Q", (1 << 24) + 1) + b"{" + bytes((1 << 24) + 8)
    assert "cannot have a header of 16777217 bytes" in refusal(path, large)
    assert "a Git LFS pointer" in refusal(path, b"version https://git-lfs.github.com/spec/v1\n")


def test_a_file_without_tensors(tmp_path: Path) -> None:
    assert tensors_or_refusal(tmp_path / "file.safetensors", content({})) == {}


def test_truncated_anywhere(tmp_path: Path) -> None:
    whole = GENUINE.read_bytes()
    for length in range(len(whole)):
        found = tensors_or_refusal(tmp_path / "file.safetensors", whole[:length])
        assert isinstance(found, str), length


@examples(300)
@given(spoilt=damaged(GENUINE.read_bytes()))
def test_damaged_anywhere(spoilt: bytes, tmp_path: Path) -> None:
    tensors_or_refusal(tmp_path / "file.safetensors", spoilt)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["F32", "BOOL"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["dtype", "shape", "data_offsets", "__metadata__", "w"]), inner
        )
    ),
    max_leaves=12,
)


@examples(200)
@given(
    header=st.binary(max_size=30) | st.dictionaries(st.text(max_size=3), JSON),
    size=st.integers(0, 9),
)
def test_random_headers(header: object, size: int, tmp_path: Path) -> None:
    tensors_or_refusal(tmp_path / "file.safetensors", content(header, bytes(size)))
