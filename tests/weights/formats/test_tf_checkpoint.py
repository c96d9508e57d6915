"""Checkpoints written by TensorFlow itself, and broken and hostile ones made by hand."""

import random
import struct
import tarfile
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import tensor_bundle_pb2

from keras_cls.errors import ConfigError
from keras_cls.weights import formats
from keras_cls.weights.formats import _crc32c

TENSORS = {
    "A/BatchNorm/beta": np.linspace(-1, 1, 5, dtype=np.float32),
    "A/weights": np.arange(36, dtype=np.float32).reshape(3, 3, 1, 4),
    "global_step": np.array(7, np.int64),
    "half": np.arange(3, dtype=np.float16),
    "none": np.zeros((0, 4), np.float32),
    "wide": np.arange(4, dtype=np.float64),
}


def write_v2(prefix: Path, tensors=TENSORS) -> None:
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=list(tensors),
        shape_and_slices=[""] * len(tensors),
        tensors=list(tensors.values()),
    )


def write_v1(file: Path, tensors=TENSORS) -> None:
    known = {key: value for key, value in tensors.items() if value.dtype != np.float16}
    tf.raw_ops.Save(filename=str(file), tensor_names=list(known), data=list(known.values()))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """V2 as a saver leaves it."""
    folder = tmp_path_factory.mktemp("v2")
    write_v2(folder / "model.ckpt-7")
    (folder / "checkpoint").write_text(
        'model_checkpoint_path: "/gone/model.ckpt-7"\n'
        'all_model_checkpoint_paths: "/gone/model.ckpt-3"\n'
    )
    return folder


@pytest.fixture(scope="module")
def single_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """V1, as TF-slim published its networks in 2016."""
    file = tmp_path_factory.mktemp("v1") / "inception_v3.ckpt"
    write_v1(file)
    return file


def assert_same(file: formats.WeightsFile, expected=TENSORS) -> None:
    assert file.ending == ".ckpt"
    assert set(file.tensors) == set(expected)
    for key, tensor in expected.items():
        assert file.tensors[key].dtype == tensor.dtype, key
        np.testing.assert_array_equal(file.tensors[key], tensor)


def refusal(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        formats.read(path)
    return str(caught.value)


# --- What TensorFlow writes -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "",
        "model.ckpt-7",
        "model.ckpt-7.index",
        "model.ckpt-7.data-00000-of-00001",
        "model.ckpt-7.meta",
    ],
    ids=["folder", "prefix", "index", "data", "meta"],
)
def test_a_bundle_is_found_by_any_of_its_names(folder: Path, name: str) -> None:
    assert_same(formats.read(folder / name))


def test_a_prefix_needs_no_ending(tmp_path: Path) -> None:
    write_v2(tmp_path / "pnasnet")
    assert_same(formats.read(tmp_path / "pnasnet"))


def test_reads_the_single_file(single_file: Path) -> None:
    expected = {key: tensor for key, tensor in TENSORS.items() if key != "half"}
    assert_same(formats.read(single_file), expected)
    assert_same(formats.read(single_file.parent), expected)


@pytest.mark.parametrize("root", ["", "./", "nasnet-a_mobile_04_10_2017/"])
def test_reads_the_archive_as_it_was_published(folder: Path, tmp_path: Path, root: str) -> None:
    with tarfile.open(tmp_path / "net.tar.gz", "w:gz") as archive:
        for file in sorted(folder.glob("model.ckpt-7*")):
            archive.add(file, root + file.name)
    assert_same(formats.read(tmp_path / "net.tar.gz"))


def test_the_note_says_which_of_several_was_written_last(tmp_path: Path) -> None:
    write_v2(tmp_path / "model.ckpt-1", {"step": np.zeros(1, np.float32)})
    write_v2(tmp_path / "model.ckpt-2", {"step": np.ones(1, np.float32)})
    assert "found model.ckpt-1, model.ckpt-2" in refusal(tmp_path)
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "model.ckpt-2"\n')
    assert formats.read(tmp_path).tensors["step"] == [1]


def test_bfloat16_becomes_float32(tmp_path: Path) -> None:
    values = tf.constant([1.5, -3.25, 1e30], tf.bfloat16)
    write_v2(tmp_path / "b.ckpt", {"b": values})
    expected = tf.cast(values, tf.float32).numpy()
    np.testing.assert_array_equal(formats.read(tmp_path / "b.ckpt").tensors["b"], expected)


def test_reads_several_data_files(tmp_path: Path) -> None:
    shards = [np.arange(3, dtype=np.float32), np.arange(4, dtype=np.float32)]
    header = tensor_bundle_pb2.BundleHeaderProto(num_shards=2).SerializeToString()
    items = [(b"", header)]
    for number, shard in enumerate(shards):
        (tmp_path / f"m.ckpt.data-{number:05d}-of-00002").write_bytes(shard.tobytes())
        items.append((b"ab"[number : number + 1], entry(shard.tobytes(), shard_id=number)))
    (tmp_path / "m.ckpt.index").write_bytes(table(items))
    found = formats.read(tmp_path / "m.ckpt").tensors
    for key, shard in zip("ab", shards, strict=True):
        np.testing.assert_array_equal(found[key], shard)
    (tmp_path / "m.ckpt.data-00001-of-00002").unlink()
    assert "its file m.ckpt.data-00001-of-00002 is missing" in refusal(tmp_path / "m.ckpt")


# --- What is no such checkpoint -------------------------------------------------------------------


def test_says_what_is_missing(tmp_path: Path) -> None:
    message = refusal(tmp_path / "vgg_16.ckpt")
    assert (
        "vgg_16.ckpt.index and its .data files, or one file vgg_16.ckpt; found neither" in message
    )
    assert "found none" in refusal(tmp_path)
    assert "found neither" in refusal(tmp_path / "gone" / "model.ckpt")
    assert "found neither" in refusal(tmp_path / "model.ckpt.index")


def test_refuses_slices_by_name(tmp_path: Path) -> None:
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        tf.compat.v1.get_variable(
            "parted", (6, 4), partitioner=tf.compat.v1.fixed_size_partitioner(2)
        )
        session.run(tf.compat.v1.global_variables_initializer())
        for version in (1, 2):
            saver = tf.compat.v1.train.Saver(write_version=version)
            path = saver.save(session, str(tmp_path / f"v{version}.ckpt"), write_meta_graph=False)
            assert "parted is stored in slices" in refusal(Path(path))


def test_refuses_objects_of_tensorflow_2(tmp_path: Path) -> None:
    path = tf.train.Checkpoint(kernel=tf.Variable([1.0])).write(str(tmp_path / "objects.ckpt"))
    assert "expected numbers, found DT_STRING" in refusal(Path(path))


def test_refuses_a_web_page(tmp_path: Path) -> None:
    (tmp_path / "vgg_16.ckpt").write_text("<!DOCTYPE html><title>404</title>")
    assert "a web page" in refusal(tmp_path / "vgg_16.ckpt")


def test_refuses_an_archive_without_one(tmp_path: Path) -> None:
    (tmp_path / "readme").write_text("no checkpoint")
    with tarfile.open(tmp_path / "net.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "readme", "readme")
    assert "found none" in refusal(tmp_path / "net.tar.gz")


# --- Damaged and hostile --------------------------------------------------------------------------


def varint(number: int) -> bytes:
    groups = []
    while number > 127:
        groups.append(number & 127 | 128)
        number >>= 7
    return bytes([*groups, number])


def block(items: list[tuple[bytes, bytes]]) -> bytes:
    entries = b"".join(
        varint(0) + varint(len(key)) + varint(len(value)) + key + value for key, value in items
    )
    return entries + struct.pack("<II", 0, 1)


def table(items: list[tuple[bytes, bytes]], raw: bytes | None = None, kind: int = 0) -> bytes:
    """A table of one block, its checksums right; ``raw`` instead of the block."""
    content = b""

    def put(piece: bytes, kind: int = 0) -> bytes:
        nonlocal content
        place = varint(len(content)) + varint(len(piece))
        piece += bytes([kind])
        content += piece + struct.pack("<I", _crc32c.masked(piece))
        return place

    first = put(block(items) if raw is None else raw, kind)
    meta = put(block([]))
    index = put(block([(b"\xff", first)]))
    return content + (meta + index).ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)


DATA = np.arange(16, dtype=np.float32).tobytes()
HEADER = (b"", tensor_bundle_pb2.BundleHeaderProto(num_shards=1).SerializeToString())


def entry(content: bytes = DATA[:8], dims: tuple[int, ...] | None = None, **fields) -> bytes:
    message = tensor_bundle_pb2.BundleEntryProto(
        **{
            "dtype": types_pb2.DT_FLOAT,
            "size": len(content),
            "crc32c": _crc32c.masked(content),
            **fields,
        }
    )
    for dim in (len(content) // 4,) if dims is None else dims:
        message.shape.dim.add(size=dim)
    return message.SerializeToString()


def of(**fields) -> bytes:
    return table([HEADER, (b"a", entry(**fields))])


# TensorFlow's own reader ends the process at half of these.
HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "too many numbers": (partial(of, dims=(1 << 40, 1 << 40)), "do not take 8 bytes"),
    "as many bytes": (partial(of, dims=(1 << 38,), size=4 << 38), "truncated"),
    "negative side": (partial(of, dims=(-2,)), "none negative"),
    "two negative sides": (partial(of, dims=(-2, -1)), "none negative"),
    "negative place": (partial(of, offset=-8), "begins at -8"),
    "negative size": (partial(of, size=-8), "do not take -8 bytes"),
    "place beyond the end": (partial(of, offset=1 << 50), "truncated"),
    "many sides": (partial(of, dims=(1,) * 300 + (2,)), "at most 16 sides"),
    "no type": (partial(of, dtype=0), "expected numbers, found DT_INVALID"),
    "unknown type": (partial(of, dtype=99), "expected numbers, found an unknown kind (99)"),
    "reference": (partial(of, dtype=types_pb2.DT_FLOAT_REF), "found DT_FLOAT_REF"),
    "text": (partial(of, dtype=types_pb2.DT_STRING), "found DT_STRING"),
    "wrong checksum": (partial(of, crc32c=1), "checksum in x.data-00000-of-00001 is wrong"),
    "other file": (partial(of, shard_id=7), "x.data-00007-of-00001 is missing"),
    "negative file": (partial(of, shard_id=-7), "is missing"),
    "no header": (lambda: table([(b"a", entry())]), "expected the number of .data files"),
    "no message": (lambda: table([HEADER, (b"a", b"\xff\xff\xff")]), "damaged"),
    "same place twice": (
        lambda: table([HEADER, (b"a", entry()), (b"b", entry())]),
        "within another one",
    ),
    "same name twice": (
        lambda: table([HEADER, (b"a", entry()), (b"a", entry(offset=8))]),
        "do not ascend",
    ),
    "no text as name": (lambda: table([HEADER, (b"\xff\xfe", entry())]), "damaged"),
    "empty block": (lambda: table([], raw=b""), "reaches beyond the end"),
    "all restarts": (lambda: table([], raw=b"\xff" * 8), "expected the number of .data files"),
    "entry beyond its block": (
        lambda: table([], raw=b"\x00\xff\xff\xff\xff\x0f\x01a" + struct.pack("<II", 0, 1)),
        "does not fit into its block",
    ),
    "endless number": (lambda: table([], raw=b"\xff" * 20 + bytes(8)), "is too long"),
    "compressed": (lambda: table([HEADER], kind=1), "compressed"),
    "nothing": (lambda: b"", "truncated, or another file"),
    "footer alone": (lambda: table([])[-48:], "the checksum of a block is wrong"),
    "places beyond the end": (lambda: b"\xff" * 40 + table([])[-8:], "is too long"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_is_impossible_is_refused(case: str, tmp_path: Path) -> None:
    make, expected = HOSTILE[case]
    (tmp_path / "x.index").write_bytes(make())
    (tmp_path / "x.data-00000-of-00001").write_bytes(DATA)
    assert expected in refusal(tmp_path / "x")


def test_the_tables_made_by_hand_are_right(tmp_path: Path) -> None:
    (tmp_path / "x.index").write_bytes(of())
    (tmp_path / "x.data-00000-of-00001").write_bytes(DATA)
    np.testing.assert_array_equal(formats.read(tmp_path / "x").tensors["a"], [0, 1])


@pytest.mark.parametrize("part", ["index", "data-00000-of-00001", "single"])
def test_damage_ends_in_a_refusal(part: str, folder: Path, single_file: Path, tmp_path: Path):
    """Bytes are replaced, or the end is lost; what nothing depends on may change."""
    draw = random.Random(part)
    prefix = single_file if part == "single" else folder / "model.ckpt-7"
    names = [file.name for file in prefix.parent.glob(f"{prefix.name}*")]
    hurt = prefix.name if part == "single" else f"{prefix.name}.{part}"
    whole = (prefix.parent / hurt).read_bytes()
    expected = formats.read(prefix).tensors
    for name in names:
        (tmp_path / name).write_bytes((prefix.parent / name).read_bytes())
    for number in range(300):
        content = bytearray(whole)
        if number % 3 == 0:
            del content[draw.randrange(len(content)) :]
        else:
            for _ in range(draw.choice((1, 1, 2, 8))):
                content[draw.randrange(len(content))] = draw.randrange(256)
        (tmp_path / hurt).write_bytes(content)
        try:
            found = formats.read(tmp_path / prefix.name).tensors
        except ConfigError as error:
            assert str(tmp_path / prefix.name) in str(error)
        else:
            for key, tensor in expected.items():
                np.testing.assert_array_equal(found[key], tensor)


@given(raw=st.binary(max_size=200))
@settings(max_examples=100, deadline=None)
def test_any_block_ends_in_tensors_or_a_refusal(
    raw: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    for name in ("one.ckpt", "two.ckpt.index"):
        file = tmp_path_factory.getbasetemp() / name
        file.write_bytes(table([], raw=raw))
        with suppress(ConfigError):
            formats.read(file)


# --- The checksum ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", 0),
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(reversed(range(32))), 0x113FDB5C),
    ],
)
def test_checksums_of_rfc_3720(content: bytes, expected: int) -> None:
    assert _crc32c.crc32c(content) == expected


def by_bits(content: bytes) -> int:
    register = 0xFFFFFFFF
    for byte in content:
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ (0x82F63B78 if register & 1 else 0)
    return register ^ 0xFFFFFFFF


@given(content=st.binary(max_size=700))
@settings(deadline=None)
def test_checksums_of_any_length(content: bytes) -> None:
    assert _crc32c.crc32c(content) == by_bits(content)


def test_the_checksum_of_a_large_message() -> None:
    content = np.random.default_rng(0).bytes(100_003)
    assert _crc32c.crc32c(content) == by_bits(content)
