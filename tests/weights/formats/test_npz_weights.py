"""NumPy's archives: whole, hostile and broken ones."""

import io
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from damaged_files import MEGABYTE, damaged, examples, memory_below, refusal, tensors_or_refusal
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as np_st

from keras_cls.errors import ConfigError
from keras_cls.weights import formats

ARRAYS = np_st.arrays(
    st.sampled_from(["f8", "f4", ">f4", "f2", "i8", "u1", "?"]),
    np_st.array_shapes(min_dims=0, min_side=0, max_side=4),
)
NAMES = st.text("abc.0_", min_size=1, max_size=8).filter(lambda n: not n.endswith(".npy"))


def saved(writer: Callable = np.savez, **tensors: object) -> bytes:
    content = io.BytesIO()
    writer(content, **tensors)
    return content.getvalue()


def member(header: str, numbers: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    text = header.encode()
    return b"\x93NUMPY" + version + struct.pack("<H", len(text)) + text + numbers


def archive(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", method) as file:
        for name, its in members.items():
            file.writestr(name, its)
    return content.getvalue()


@examples(100)
@given(
    tensors=st.dictionaries(NAMES, ARRAYS, max_size=4),
    writer=st.sampled_from([np.savez, np.savez_compressed]),
    columns=st.booleans(),
)
def test_what_numpy_writes_is_read(
    tensors: dict[str, np.ndarray], writer: Callable, columns: bool, tmp_path: Path
) -> None:
    if columns:
        tensors = {name: np.asfortranarray(tensor) for name, tensor in tensors.items()}
    content = io.BytesIO()
    writer(content, **tensors)
    (tmp_path / "file.npz").write_bytes(content.getvalue())
    found = formats.read(tmp_path / "file.npz").tensors
    assert list(found) == list(tensors)
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype and found[name].shape == tensor.shape
        assert found[name].tobytes() == tensor.tobytes()


class Bomb:
    def __reduce__(self) -> tuple:
        return os.abort, ()


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    path = tmp_path / "file.npz"
    said = refusal(path, saved(w=np.zeros(2), bomb=np.array([Bomb()], object)))
    assert "bomb holds pickled objects, which are not read" in said
    structured = np.zeros(1, [("a", "f4"), ("b", object)])
    assert "w holds pickled objects" in refusal(path, saved(w=structured))


FLOATS = "{'descr': '<f4', 'fortran_order': False, 'shape': %s}"


@pytest.mark.parametrize(
    ("its", "said"),
    [
        (member(FLOATS % "(2,)", bytes(7)), "w: float32 (2,) takes 8 bytes, found 7"),
        (member(FLOATS % "(2,)", bytes(9)), "w: float32 (2,) takes 8 bytes, found 9"),
        (member(FLOATS % f"({1 << 40},)", bytes(8)), "bytes, found 8"),
        (member(FLOATS % f"(0, {1 << 62}, {1 << 62})"), "file.npz"),
        (member(FLOATS % "(-2,)", bytes(8)), "file.npz"),
        (member(FLOATS % "(-2, -1)", bytes(8)), "file.npz"),
        (member(FLOATS.replace("<f4", "<U0") % f"({1 << 60},)"), "file.npz"),
        (member(FLOATS.replace("<f4", "|O") % "(1,)", b"N."), "w holds pickled objects"),
        (member("__import__('os').abort()"), "file.npz"),
        (member("[" * 9000), "file.npz"),
        (member(" " * 20_000), "file.npz"),
        (member(FLOATS % "(2,)", bytes(8), b"\x03\x00"), "expected version 1.0 or 2.0"),
        (b"", "file.npz"),
        (b"\x80\x04N.", "file.npz"),
    ],
)
def test_members_that_make_no_sense(its: bytes, said: str, tmp_path: Path) -> None:
    assert said in refusal(tmp_path / "file.npz", archive({"w.npy": its}))


def test_other_archives(tmp_path: Path) -> None:
    path = tmp_path / "file.npz"
    assert "readme.txt is no array" in refusal(path, archive({"readme.txt": b"hello"}))
    one = io.BytesIO()
    np.save(one, np.zeros(3))
    assert "expected an archive of arrays, found one array" in refusal(path, one.getvalue())
    assert "not a .npz file" in refusal(path, np.zeros(3).dumps())
    assert "not a .npz file" in refusal(path, b"")
    with pytest.warns(UserWarning, match="Duplicate"):
        twice = io.BytesIO()
        with zipfile.ZipFile(twice, "w") as file:
            for _ in range(2):
                file.writestr("w.npy", member(FLOATS % "(2,)", bytes(8)))
    assert "w is in it twice" in refusal(path, twice.getvalue())
    good = {"w.npy": member(FLOATS % "(2,)", bytes(8))}
    for method in (zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2):
        assert "in a way that NumPy never writes" in refusal(path, archive(good, method))


def test_bombs_do_not_take_memory(tmp_path: Path) -> None:
    path = tmp_path / "file.npz"
    path.write_bytes(saved(np.savez_compressed, **{f"w{i}": ZEROS for i in range(9)}))
    with memory_below(2 * MEGABYTE):
        said = refused(path)
    assert "more than 20 times as many: no weights shrink so much" in said


ZEROS = np.broadcast_to(np.float32(0), (8 << 20,))


def refused(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        formats.read(path)
    return str(caught.value)


def test_a_member_that_unpacks_to_more_than_it_says(tmp_path: Path) -> None:
    header = member(FLOATS % "(2,)")
    honest = archive({"w.npy": header + bytes(16 << 20)}, zipfile.ZIP_DEFLATED)
    content = bytearray(honest)
    for magic, at in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        place = content.index(magic) + at
        content[place : place + 4] = struct.pack("<I", len(header) + 8)
    assert "file.npz" in refusal(tmp_path / "file.npz", bytes(content), at_most=MEGABYTE)


SMALL = saved(w=np.arange(6, dtype=np.float32).reshape(2, 3), b=np.array(7))
PACKED = saved(np.savez_compressed, w=np.arange(6, dtype=np.float32), b=np.array(7))


@pytest.mark.parametrize("content", [SMALL, PACKED], ids=["stored", "packed"])
def test_truncated_anywhere(content: bytes, tmp_path: Path) -> None:
    for length in range(len(content)):
        found = tensors_or_refusal(tmp_path / "file.npz", content[:length])
        assert isinstance(found, str), length


@examples(300)
@given(spoilt=damaged(SMALL) | damaged(PACKED))
def test_damaged_anywhere(spoilt: bytes, tmp_path: Path) -> None:
    tensors_or_refusal(tmp_path / "file.npz", spoilt)


@examples(200)
@given(spoilt=damaged(member(FLOATS % "(2,)", bytes(8))))
def test_damaged_members_in_a_sound_archive(spoilt: bytes, tmp_path: Path) -> None:
    tensors_or_refusal(tmp_path / "file.npz", archive({"w.npy": spoilt}))


@examples(100)
@given(content=st.binary(max_size=300), beginning=st.sampled_from([b"", b"PK\x03\x04"]))
def test_random_bytes(content: bytes, beginning: bytes, tmp_path: Path) -> None:
    tensors_or_refusal(tmp_path / "file.npz", beginning + content)
