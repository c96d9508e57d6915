"""torch's files: genuine ones, ones written by hand as older torch wrote them, and hostile ones."""

import functools
import io
import logging
import operator
import os
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from damaged_files import MEGABYTE, damaged, examples, memory_below, refusal, tensors_or_refusal
from hypothesis import given
from hypothesis import strategies as st

from keras_cls.weights import formats

FILES = Path(__file__).parent / "files"
GENUINE = sorted(FILES.glob("*.pth"))

# the files of make_torch_files.py

BASE = np.arange(24, dtype=np.float32)
VIEWS = {
    "whole": BASE,
    "part": BASE[8:16],
    "matrix": BASE.reshape(4, 6),
    "transposed": BASE.reshape(4, 6).T,
    "steps": BASE[1::5],
    "channels_last": np.arange(60, dtype=np.float32).reshape(2, 3, 2, 5),
    "repeated": np.full(5, 3, np.float32),
    "scalar": np.float32(7),
    "empty": np.zeros((0, 3), np.float32),
    "tied": BASE,
}
TAR = {name: VIEWS[name] for name in ("whole", "part", "steps", "channels_last")}
TAR |= {"view": BASE[1:3]}
KINDS = {
    "float64": np.array([0, 1, 2.5, 3], np.float64),
    "float32": np.array([0, 1, 2.5, 3], np.float32),
    "float16": np.array([0, 1, 2.5, 3], np.float16),
    "bfloat16": np.array([0, 1, 2.5, 3], np.float32),
    "bool": np.array([False, True, True, True]),
    **{name: np.array([0, 1, 2, 3], name) for name in ("int64", "int32", "int16", "int8", "uint8")},
}
NETWORK = {
    "0.weight": np.arange(8, dtype=np.float32).reshape(2, 1, 2, 2),
    "0.bias": np.arange(2, dtype=np.float32) + 1,
    "1.weight": np.arange(2, dtype=np.float32) + 2,
    "1.bias": np.arange(2, dtype=np.float32) + 3,
    "1.running_mean": np.arange(2, dtype=np.float32) + 4,
    "1.running_var": np.arange(2, dtype=np.float32) + 5,
    "1.num_batches_tracked": np.array(6),
}


def same(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> None:
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert found[name].shape == tensor.shape, name
        np.testing.assert_array_equal(found[name], tensor, err_msg=name)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("views_zip", VIEWS),
        ("views_stream", VIEWS),
        ("views_tar", TAR),
        ("kinds_zip", KINDS),
        ("kinds_stream", KINDS),
        ("network_zip", NETWORK),
        ("network_stream", NETWORK),
        ("network_protocol4", NETWORK),
        ("checkpoint", NETWORK),
        ("averaged", NETWORK),
    ],
)
def test_files_of_torch(name: str, expected: Mapping[str, np.ndarray]) -> None:
    file = formats.read(FILES / f"{name}.pth")
    same(file.tensors, expected)
    assert file.ending == ".pth" and file.network is None


@pytest.mark.parametrize(
    "name", ["net.pt", "net-1a2b.th", "model_best.pth.tar", "pytorch_model.bin"]
)
def test_other_names_of_such_files(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes((FILES / "network_zip.pth").read_bytes())
    file = formats.read(path)
    same(file.tensors, NETWORK)
    assert file.ending == ".pth"


def test_a_whole_module_is_refused() -> None:
    said = refusal(FILES / "module_zip.pth", (FILES / "module_zip.pth").read_bytes())
    assert "wants to call torch.nn.modules.container.Sequential: it is no plain state_dict" in said
    assert "save the model's state_dict()" in said


def test_what_is_left_out_is_said(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    with caplog.at_level(logging.INFO, logger="keras_cls"):
        formats.read(FILES / "checkpoint.pth")
    assert "its state_dict is taken, of a dictionary of 'epoch', 'arch', 'best'" in caplog.text
    content = archive(
        dictionary({"w": one("0", 2), "epoch": integer(3), "more": dictionary({})}), {"0": F2}
    )
    with caplog.at_level(logging.INFO, logger="keras_cls"):
        same(read(tmp_path, content), {"w": PAIR})
    assert "ignored, being no tensors: 'epoch', 'more'" in caplog.text


# pickles written by hand

F2 = np.array([1.5, -2], "<f4").tobytes()
PAIR = np.array([1.5, -2], np.float32)


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def integer(value: int) -> bytes:
    content = value.to_bytes((value.bit_length() + 8) // 8, "little", signed=True)
    return b"\x8a" + bytes([len(content)]) + content


def named(name: str) -> bytes:
    module, _, attribute = name.rpartition(".")
    return f"c{module}\n{attribute}\n".encode()


def row(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


def integers(*values: int) -> bytes:
    return row(*map(integer, values))


def called(name: str, *arguments: bytes) -> bytes:
    return named(name) + row(*arguments) + b"R"


def dictionary(entries: Mapping[str, bytes]) -> bytes:
    return b"}(" + b"".join(text(key) + value for key, value in entries.items()) + b"u"


def storage(key: str, count: int, kind: str = "Float", *view: bytes) -> bytes:
    fields = (text("storage"), named(f"torch.{kind}Storage"), text(key), text("cpu"))
    return row(*fields, integer(count), *view) + b"Q"


def tensor(held: bytes, offset: int, shape: tuple, strides: tuple) -> bytes:
    arguments = (held, integer(offset), integers(*shape), integers(*strides), b"\x89", b"N")
    return called("torch._utils._rebuild_tensor_v2", *arguments)


def one(key: str, count: int) -> bytes:
    """All numbers of a storage of float32."""
    return tensor(storage(key, count), 0, (count,), (1,))


def whole(body: bytes) -> bytes:
    return b"\x80\x02" + body + b"."


def archive(
    body: bytes,
    storages: Mapping[str, bytes],
    more: Mapping[str, bytes] | None = None,
    method: int = zipfile.ZIP_STORED,
) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", method) as file:
        file.writestr("archive/data.pkl", whole(body))
        for key, numbers in storages.items():
            file.writestr(f"archive/data/{key}", numbers)
        for name, entry in (more or {}).items():
            file.writestr(name, entry)
    return content.getvalue()


def stream(body: bytes, storages: Mapping[str, bytes], itemsize: int = 4) -> bytes:
    head = [integer(0x1950A86A20F9469CFC6C), integer(1001), b"}", body]
    head.append(b"](" + b"".join(map(text, storages)) + b"e")
    runs = (struct.pack("<q", len(n) // itemsize) + n for n in storages.values())
    return b"".join(map(whole, head)) + b"".join(runs)


def read(folder: Path, content: bytes) -> dict[str, np.ndarray]:
    found = tensors_or_refusal(folder / "file.pth", content)
    assert isinstance(found, dict), found
    return found


OLD_PLACE = (storage("0", 2, "Float", b"N"), integer(0), integers(2), integers(1))
OLD_TENSOR = called("torch._utils._rebuild_tensor", *OLD_PLACE)
PARAMETER = "torch.nn.parameter.Parameter"


@pytest.mark.parametrize(
    "old",
    [
        pytest.param(OLD_TENSOR, id="_rebuild_tensor"),
        pytest.param(
            called(PARAMETER, OLD_TENSOR) + row(b"\x88", b"\x89", b"N") + b"b", id="parameter"
        ),
        pytest.param(
            named(PARAMETER) + b")\x81" + row(OLD_TENSOR, b"N", b"N", b"\x88", b"\x89") + b"b",
            id="parameter that is all state",
        ),
        pytest.param(
            called("torch.FloatTensor") + row(*OLD_PLACE) + b"b",
            id="tensor that is all state",
        ),
        pytest.param(
            called("torch._utils._rebuild_parameter", OLD_TENSOR, b"\x88", b"N"),
            id="_rebuild_parameter",
        ),
        pytest.param(
            tensor(storage("0", 2, "Float", row(text("7"), integer(0), integer(2))), 0, (2,), (1,)),
            id="view of a storage",
        ),
    ],
)
def test_tensors_as_older_torch_saved_them(old: bytes, tmp_path: Path) -> None:
    same(read(tmp_path, stream(dictionary({"w": old}), {"0": F2})), {"w": PAIR})


def test_a_view_of_a_storage_begins_where_it_says(tmp_path: Path) -> None:
    view = row(text("7"), integer(1), integer(1))
    body = dictionary({"w": tensor(storage("0", 2, "Float", view), 0, (1,), (1,))})
    same(read(tmp_path, stream(body, {"0": F2})), {"w": PAIR[1:]})
    outside = dictionary({"w": tensor(storage("0", 2, "Float", view), 1, (1,), (1,))})
    assert "does not lie in its storage" in refusal(tmp_path / "a.pth", stream(outside, {"0": F2}))
    view = row(text("7"), integer(1), integer(2))
    outside = dictionary({"w": tensor(storage("0", 2, "Float", view), 0, (1,), (1,))})
    assert "a view does not lie in" in refusal(tmp_path / "a.pth", stream(outside, {"0": F2}))


def test_dictionaries_as_python_2_saved_them(tmp_path: Path) -> None:
    short = b"U\x01w"  # a byte string
    pairs = b"](](" + short + one("0", 2) + b"ee"
    same(read(tmp_path, archive(called("collections.OrderedDict", pairs), {"0": F2})), {"w": PAIR})


def test_attributes_of_a_dictionary_are_dropped(tmp_path: Path) -> None:
    body = called("collections.OrderedDict") + b"(" + text("w") + one("0", 2) + b"u"
    body += dictionary({"_metadata": called("collections.OrderedDict")}) + b"b"
    same(read(tmp_path, archive(body, {"0": F2})), {"w": PAIR})


def test_big_endian_numbers(tmp_path: Path) -> None:
    body = dictionary({"w": one("0", 2), "b": tensor(storage("1", 2, "BFloat16"), 0, (2,), (1,))})
    numbers = {"0": PAIR.astype(">f4").tobytes(), "1": PAIR.astype(">f4").tobytes()}
    numbers["1"] = b"".join(numbers["1"][at : at + 2] for at in (0, 4))
    found = read(tmp_path, archive(body, numbers, {"archive/byteorder": b"big"}))
    same(found, {"w": PAIR, "b": PAIR})
    said = refusal(tmp_path / "a.pth", archive(body, numbers, {"archive/byteorder": b"middle"}))
    assert "expected little or big, found b'middle'" in said


@pytest.mark.parametrize(
    "wrapped",
    [
        {"state_dict": {"w": one("0", 2)}},
        {"model": {"w": one("0", 2)}, "best": one("1", 1)},
        {"model_state": {"w": one("0", 2)}},
        {"model": {"w": one("1", 1)}, "model_ema": {"w": one("0", 2)}},
        {"state_dict": {"w": one("1", 1)}, "state_dict_ema": {"module.w": one("0", 2)}},
        {"state_dict": {"module._orig_mod.w": one("0", 2)}},
        {"state_dict": {"_orig_mod.module.w": one("0", 2), "n_averaged": one("1", 1)}},
        {"state_dict": {}, "w": one("0", 2)},
    ],
)
def test_wrappers_and_prefixes_are_removed(
    wrapped: Mapping[str, Mapping[str, bytes] | bytes], tmp_path: Path
) -> None:
    body = dictionary({k: v if isinstance(v, bytes) else dictionary(v) for k, v in wrapped.items()})
    same(read(tmp_path, archive(body, {"0": F2, "1": F2[:4]})), {"w": PAIR})


def test_a_prefix_that_only_some_names_have_stays(tmp_path: Path) -> None:
    body = dictionary({"module.w": one("0", 2), "v": one("0", 2)})
    assert list(read(tmp_path, archive(body, {"0": F2}))) == ["module.w", "v"]


def test_an_optimizer_is_not_read(tmp_path: Path) -> None:
    held = {"0": F2, "1": bytes(64 * MEGABYTE)}
    body = dictionary({"model": dictionary({"w": one("0", 2)}), "o": one("1", 16 * MEGABYTE)})
    for content in (archive(body, held), stream(body, held)):
        path = tmp_path / "file.pth"
        path.write_bytes(content)
        with memory_below(MEGABYTE):
            same(formats.read(path).tensors, {"w": PAIR})


def test_a_storage_is_read_once(tmp_path: Path) -> None:
    body = dictionary(
        {str(i): tensor(storage("0", 1 << 20), i, (1000, 1000), (1000, 1)) for i in range(500)}
    )
    path = tmp_path / "file.pth"
    path.write_bytes(archive(body, {"0": bytes(4 << 20)}))
    with memory_below(24 * MEGABYTE):
        assert len(formats.read(path).tensors) == 500


# what is refused

FORMS = pytest.mark.parametrize("form", [archive, stream])


@FORMS
@pytest.mark.parametrize(
    ("offset", "shape", "strides", "said"),
    [
        (0, (3,), (1,), "(3,) with strides (1,) at 0 does not lie in its storage 0 of 2 numbers"),
        (2, (1,), (1,), "does not lie in its storage"),
        (1, (2,), (1,), "does not lie in its storage"),
        (0, (2, 2), (1, 1), "does not lie in its storage"),
        (0, (2,), (-1,), "impossible shape or place"),
        (-1, (2,), (1,), "impossible shape or place"),
        (0, (-2,), (1,), "impossible shape or place"),
        (0, (1 << 40,), (0,), "expanded from a storage of 2 numbers"),
        (0, (1 << 21,), (0,), "expanded from a storage of 2 numbers"),
        (1 << 80, (1,), (1,), "does not lie in its storage"),
        (0, (1,) * 17, (1,) * 17, "17 axes"),
        (0, (1,), (1, 1), "1 axes and 2 strides"),
        (0, (0, 1 << 70), (1, 1), "file.pth"),
    ],
)
def test_tensors_outside_of_their_storage(
    form: object, offset: int, shape: tuple, strides: tuple, said: str, tmp_path: Path
) -> None:
    body = dictionary({"w": tensor(storage("0", 2), offset, shape, strides)})
    assert said in refusal(tmp_path / "file.pth", form(body, {"0": F2}))


@FORMS
def test_a_stride_that_no_step_is_taken_with_may_be_anything(form: object, tmp_path: Path) -> None:
    body = dictionary({"w": tensor(storage("0", 2), 0, (1, 2), (1 << 70, 1))})
    same(read(tmp_path, form(body, {"0": F2})), {"w": PAIR[np.newaxis]})


def test_missing_numbers(tmp_path: Path) -> None:
    path = tmp_path / "file.pth"
    body = dictionary({"w": one("0", 2)})
    assert "the storage archive/data/0 is missing" in refusal(path, archive(body, {}))
    assert "the storage 0 is missing" in refusal(path, stream(body, {}))
    for form in (archive, stream):
        assert "should hold 2 numbers, it holds 1" in refusal(path, form(body, {"0": F2[:4]}))
    assert "5 bytes are no numbers of 4" in refusal(path, archive(body, {"0": F2[:5]}))
    assert "truncated" in refusal(path, stream(body, {"0": F2})[:-1])
    assert "its storage 1 belongs to no tensor" in refusal(path, stream(body, {"1": F2}))
    endless = stream(body, {"0": F2})[:-16] + struct.pack("<q", 1 << 60) + F2
    assert "truncated or damaged" in refusal(path, endless)
    negative = stream(body, {"0": F2})[:-16] + struct.pack("<q", -1) + F2
    assert "truncated or damaged" in refusal(path, negative)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"N", "expected a state_dict (name: tensor), found NoneType"),
        (b"]", "found list"),
        (b"}", "an empty dictionary"),
        (one("0", 2), "found one tensor"),
        (dictionary({"epoch": integer(3)}), "found a dictionary of 'epoch'"),
        (dictionary({"model": integer(3)}), "found a dictionary of 'model'"),
        (b"}q\x00(" + text("model") + b"h\x00u", "found a dictionary of 'model'"),  # in itself
        (b"}" + integer(0) + one("0", 2) + b"s", "found a dictionary of 0"),
    ],
)
def test_what_is_no_state_dict(body: bytes, said: str, tmp_path: Path) -> None:
    assert said in refusal(tmp_path / "file.pth", archive(body, {"0": F2}))


def test_other_archives(tmp_path: Path) -> None:
    path = tmp_path / "file.pt"
    good = dictionary({"w": one("0", 2)})
    program = archive(good, {"0": F2}, {"archive/code/x.py": b""})
    assert "a TorchScript program" in refusal(path, program)
    packed = archive(good, {"0": F2}, method=zipfile.ZIP_DEFLATED)
    assert "compressed or encrypted" in refusal(path, packed)
    two = archive(good, {"0": F2}, {"other/data.pkl": b""})
    assert "one NAME/data.pkl, found 2" in refusal(path, two)
    content = io.BytesIO()
    np.savez(content, w=PAIR)
    assert "one NAME/data.pkl, found 0" in refusal(path, content.getvalue())
    assert "a tar archive without storages" in refusal(path, tar(pickle=TREE))
    assert "magic number is missing" in refusal(path, whole(integer(5)))
    assert "a Git LFS pointer" in refusal(path, b"version https://git-lfs.github.com/spec/v1\n")
    assert "a web page" in refusal(path, b"<!DOCTYPE html><html>")


def tar(**members: bytes) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:") as file:
        for name, its in members.items():
            header = tarfile.TarInfo(name)
            header.size = len(its)
            file.addfile(header, io.BytesIO(its))
    return content.getvalue()


def triple(key: int, other: int, kind: str) -> bytes:
    return whole(row(integer(key), integer(other), named(f"torch.{kind}")))


SYSTEM = b"cposix\nsystem\n"
RUN = triple(0, 0, "FloatStorage") + struct.pack("<q", 2) + F2
NO_VIEWS = whole(b"]")
PLACE = triple(1, 0, "FloatTensor") + struct.pack("<ii3q", 1, 0, 2, 1, 0)
ONE = whole(integer(1))
TREE = whole(dictionary({"w": integer(1) + b"Q"}))


def test_a_tar_archive_written_by_hand(tmp_path: Path) -> None:
    content = tar(storages=ONE + RUN + NO_VIEWS, tensors=ONE + PLACE, pickle=TREE)
    same(read(tmp_path, content), {"w": PAIR})


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({"storages": whole(integer(1 << 40))}, "the number of its storages"),
        ({"storages": whole(integer(-1))}, "the number of its storages"),
        ({"storages": whole(integer(2)) + RUN + RUN + NO_VIEWS}, "comes twice"),
        ({"storages": ONE + whole(b"N")}, "the list of its storages is damaged"),
        ({"storages": ONE + RUN[:-16] + struct.pack("<q", 1 << 50) + F2}, "truncated or damaged"),
        ({"storages": ONE + RUN + whole(b"](Nae")}, "file.pth"),
        (
            {"storages": ONE + RUN + whole(b"]" + integers(7, 0, 1, 2) + b"a")},
            "a view does not lie in its storage",
        ),
        ({"storages": ONE + RUN + whole(b"]" + integers(7, 5, 1, 1) + b"a")}, "file.pth"),
        (
            {
                "storages": ONE
                + RUN
                + whole(b"](" + integers(7, 0, 1, 1) + integers(8, 7, 0, 1) + b"e")
            },
            "its storage 8 is a view of something else",
        ),
        ({"tensors": ONE + PLACE[:-32] + struct.pack("<ii3q", 1, 0, 3, 1, 0)}, "does not lie in"),
        ({"tensors": ONE + PLACE[:-32] + struct.pack("<ii3q", 99, 0, 3, 1, 0)}, "has 99 axes"),
        ({"tensors": ONE + PLACE[:-32] + struct.pack("<ii3q", -1, 0, 3, 1, 0)}, "has -1 axes"),
        ({"tensors": whole(integer(9)) + PLACE}, "file.pth"),
        ({"pickle": whole(integer(5) + b"Q")}, "refers to something that is no tensor of it"),
        ({"pickle": whole(b")Q")}, "refers to something that is no tensor of it"),
        ({"pickle": whole(SYSTEM + row(text("true")) + b"R")}, "wants to call posix.system"),
        ({"tensors": whole(SYSTEM + row(text("true")) + b"R")}, "wants to call posix.system"),
    ],
)
def test_tar_archives_that_make_no_sense(
    members: Mapping[str, bytes], said: str, tmp_path: Path
) -> None:
    sound = {"storages": ONE + RUN + NO_VIEWS, "tensors": ONE + PLACE, "pickle": TREE}
    assert said in refusal(tmp_path / "file.pth", tar(**(sound | members)))


def test_entries_that_lie_on_each_other(tmp_path: Path) -> None:
    """Each entry of the directory names the same bytes: small on disk, large in memory."""
    body = dictionary({f"w{i}": one("0", 1 << 18) for i in range(3)})
    content = bytearray(archive(body, {"0": bytes(1 << 20), "1": b"", "2": b""}))
    directory = content.rindex(b"PK\x01\x02")
    first = content.index(b"PK\x01\x02", content.index(b"PK\x01\x02") + 1)
    content[directory + 20 : directory + 28] = content[first + 20 : first + 28]
    assert "are larger than the file" in refusal(tmp_path / "file.pth", bytes(content))


# hostile files


class Calls:
    """Pickled as a call of the function."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple:
        return self.call


def attacks(canary: Path) -> dict[str, object]:
    touch = f"touch {canary}"
    python = f"open({str(canary)!r}, 'w')"
    return {
        "os.system": Calls(os.system, touch),
        "eval": Calls(eval, python),
        "exec": Calls(exec, python),
        "open": Calls(open, str(canary), "w"),
        "getattr": Calls(getattr, 1, "real"),
        "partial": Calls(functools.partial(os.system, touch)),
        "methodcaller": Calls(operator.methodcaller("touch"), canary),
        "attrgetter": Calls(operator.attrgetter("system.__self__"), 1),
        "pickle.loads": Calls(pickle.loads, pickle.dumps(Calls(os.system, touch))),
        "map": Calls(list, Calls(map, os.system, [touch])),
    }


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("attack", list(attacks(Path("canary"))))
def test_nothing_is_called(attack: str, protocol: int, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    try:
        payload = pickle.dumps({"state_dict": attacks(canary)[attack]}, protocol)
    except (pickle.PicklingError, AttributeError, TypeError):
        pytest.skip("this protocol cannot say it")
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        file.writestr("archive/data.pkl", payload)
    before_it = b"".join(map(whole, (integer(0x1950A86A20F9469CFC6C), integer(1001), b"}")))
    for file in (content.getvalue(), before_it + payload, payload):
        said = refusal(tmp_path / "file.pth", file)
        assert "no plain state_dict" in said or "magic number" in said or "instruction" in said
    assert not canary.exists()


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (SYSTEM + row(text("true")) + b"R", "wants to call posix.system"),
        (text("posix") + text("system") + b"\x93", "wants to call posix.system"),
        (b"cposix\nsystem extra\n", "wants to call posix.system extra"),
        (b"(S'true'\niposix\nsystem\n", "instruction STRING"),
        (b"(iposix\nsystem\n", "instruction INST 'posix system': it is no plain state_dict"),
        (b"(" + SYSTEM + text("true") + b"o", "wants to call posix.system"),
        (b"(cbuiltins\nset\n" + text("true") + b"o", "instruction OBJ"),
        (b"\x82\x01", "instruction EXT1 1"),
        (b"\x83\x01\x00", "instruction EXT2 1"),
        (b"\x84\x01\x00\x00\x00", "instruction EXT4 1"),
        (b"Pposix.system\n", "instruction PERSID"),
        (text("posix.system") + b"Q", "refers to something that is no storage"),
        (row(text("module"), text("Net"), b"N", b"N") + b"Q", "that is no storage"),
        (row(text("storage"), integer(4), text("0"), text("cpu"), integer(1)) + b"Q", "no storage"),
        (row(text("storage"), named("torch.FloatStorage"), text("0")) + b"Q", "no storage"),
        (text("x") + row(text("y")) + b"R", "its pickle calls a str"),
        (named("torch.FloatStorage") + row(integer(1 << 40)) + b"R", "its pickle calls a Encoding"),
        (called("collections.OrderedDict") + b")R", "its pickle calls a dict"),
        (integer(1) + b"}b", "gives a state to a int"),
        (integer(1) + integer(2) + integer(3) + b"s", "sets an item of a int"),
        (integer(1) + integer(2) + b"a", "appends to a int"),
        (b"}" + row(row()) + b"Ns", "a dictionary with a tuple as a key"),
        (b"ctorch.storage\nUntypedStorage\n", "torch.storage.UntypedStorage"),
        (b"c__builtin__\neval\n", "__builtin__.eval"),
        (b"ctorch\nload\n", "torch.load"),
        (b"ctorch._utils\n_rebuild_tensor_v2.__globals__\n", "_rebuild_tensor_v2.__globals__"),
        (b"h\x05", "file.pth"),
        (b"t", "file.pth"),
        (b"0", "instruction POP"),
        (b"", "file.pth"),
    ],
)
def test_what_no_state_dict_says(body: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "file.pth"
    assert said in refusal(path, archive(body, {"0": F2}))
    assert said in refusal(path, stream(body, {"0": F2}))


DEEP = 20_000


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"N\x8d" + struct.pack("<Q", 1 << 36) + b"x", id="long text"),
        pytest.param(b"X" + struct.pack("<I", 0xFFFFFFFF) + b"x", id="text of 4 GB"),
        pytest.param(b"\x8e" + struct.pack("<Q", 1 << 36) + b"x", id="long bytes"),
        pytest.param(b"\x96" + struct.pack("<Q", 1 << 36) + b"x", id="long bytearray"),
        pytest.param(b"\x95" + struct.pack("<Q", 1 << 36) + b"N", id="long frame"),
        pytest.param(b"\x8b" + struct.pack("<i", 0x7FFFFFFF) + b"x", id="long number"),
        pytest.param(b"Nr\xff\xff\xff\xff", id="far memo"),
        pytest.param(b"]" + b"]" * DEEP + b"a" * DEEP, id="deep list"),
        pytest.param(b")" + b"\x85" * DEEP, id="deep tuple"),
        pytest.param(b"(" * DEEP, id="marks"),
        pytest.param(b"})" + b"\x85" * DEEP + b"Ns", id="deep key"),
        pytest.param(b"}(" + b"(" * 1000 + b"t" * 1000 + b"u", id="odd items"),
        pytest.param(b")q\x00" + b"0h\x00h\x00\x86q\x00" * 60, id="doubled"),
        pytest.param(b"})q\x00" + b"h\x00\x86q\x00" * 60 + b"Ns", id="doubled key"),
        pytest.param(b"I" + b"9" * 100_000 + b"\n", id="many digits"),
    ],
)
def test_few_bytes_do_not_take_much_memory(body: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file.pth"
    for form in (archive, stream):
        refusal(path, form(body, {}), at_most=300 * MEGABYTE)


def test_instructions_are_counted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("keras_cls.weights.formats._pickle_machine._MOST_INSTRUCTIONS", 1000)
    for form in (archive, stream):
        said = refusal(tmp_path / "file.pth", form(b"N" * 1001, {}))
        assert "its pickle has more than 1000 instructions" in said


# damaged files


@pytest.mark.parametrize(
    ("name", "step"), [("views_stream", 1), ("checkpoint", 29), ("views_tar", 67)]
)
def test_truncated_anywhere(name: str, step: int, tmp_path: Path) -> None:
    content = (FILES / f"{name}.pth").read_bytes()
    for length in (*range(0, len(content) - 100, step), *range(len(content) - 100, len(content))):
        found = tensors_or_refusal(tmp_path / "file.pth", content[:length])
        if isinstance(found, dict):  # only padding is gone
            assert name == "views_tar"
            same(found, TAR)


@examples(300)
@given(data=st.data())
def test_damaged_anywhere(data: st.DataObject, tmp_path: Path) -> None:
    content = data.draw(st.sampled_from(GENUINE)).read_bytes()
    tensors_or_refusal(tmp_path / "file.pth", data.draw(damaged(content)))


@examples(200)
@given(data=st.data())
def test_damaged_pickles_in_a_sound_archive(data: st.DataObject, tmp_path: Path) -> None:
    """Past the archive's checksum."""
    path = data.draw(st.sampled_from([path for path in GENUINE if zipfile.is_zipfile(path)]))
    content = io.BytesIO()
    with zipfile.ZipFile(path) as sound, zipfile.ZipFile(content, "w") as file:
        for name in sound.namelist():
            entry = sound.read(name)
            if name.endswith("/data.pkl"):
                entry = data.draw(damaged(entry))
            file.writestr(name, entry)
    tensors_or_refusal(tmp_path / "file.pth", content.getvalue())


PIECES = [
    *(bytes([code]) for code in range(256)),
    *(named(n) for n in ("torch.FloatStorage", "collections.OrderedDict", "builtins.set")),
    *(named(f"torch._utils._rebuild_{n}") for n in ("tensor_v2", "parameter")),
    *(named("torch.nn.parameter.Parameter"), named("torch.Size"), SYSTEM, b"q\x00", b"h\x00"),
    *(integer(-1), integer(0), integer(2), text("w"), integers(2), integers(), b"}", b"]", b"("),
    *(storage("0", 2), one("0", 2), OLD_TENSOR, dictionary({"w": one("0", 2)})),
]


@examples(500)
@given(
    pieces=st.lists(st.sampled_from(PIECES), max_size=20), form=st.sampled_from([archive, stream])
)
def test_random_pickles(pieces: list[bytes], form: object, tmp_path: Path) -> None:
    tensors_or_refusal(tmp_path / "file.pth", form(b"".join(pieces), {"0": F2}))


@examples(200)
@given(
    content=st.binary(max_size=400),
    beginning=st.sampled_from([b"", b"PK\x03\x04", b"\x80\x02", stream(b"}", {})[:40]]),
)
def test_random_bytes(content: bytes, beginning: bytes, tmp_path: Path) -> None:
    tensors_or_refusal(tmp_path / "file.pth", beginning + content)
