import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from folders import flat, make_folders
from image_files import encoded, oriented_jpeg, photo
from PIL import Image

from keras_cls.data.opening import open_evaluation_data, open_training_data
from keras_cls.data.packing import pack
from keras_cls.data.records import open_packed
from keras_cls.errors import ConfigError, DataError

TEN = list(range(10, 110, 10))
OTHER_TEN = list(range(15, 115, 10))


@pytest.fixture
def photos(tmp_path):
    return make_folders(tmp_path / "photos", {"cat": TEN, "dog": OTHER_TEN})


@pytest.fixture
def to(tmp_path):
    return tmp_path / "packed"


def images_in(stream) -> dict[bytes, object]:
    """Target by encoded image."""
    return {
        image.numpy(): target.numpy().tolist()
        for image, target in (stream.load(*item) for item in stream.in_order())
    }


def content_of(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


class TestSources:
    def test_a_folder_keeps_its_files_byte_for_byte(self, photos, to):
        (photos / "cat/turned.jpg").write_bytes(oriented_jpeg(6))
        done = pack(photos, to, shards=3)
        assert (done.labels, done.counts, done.shards) == (
            ("cat", "dog"),
            {"train": 21},
            {"train": 3},
        )
        assert done.bytes == sum(f.stat().st_size for f in to.glob("*.tfrecord"))
        assert sorted(file.name for file in to.iterdir() if file.name != ".lock") == [
            "dataset.json",
            "train-00000-of-00003.tfrecord",
            "train-00001-of-00003.tfrecord",
            "train-00002-of-00003.tfrecord",
            "train.index.npz",
        ]
        expected = {
            file.read_bytes(): ["cat", "dog"].index(file.parent.name)
            for file in photos.rglob("*.*")
        }
        assert images_in(open_packed(to).train) == expected

    def test_other_programs_find_the_standard_features(self, photos, to):
        pack(photos, to, shards=1)
        record = next(iter(tf.data.TFRecordDataset(str(to / "train-00000-of-00001.tfrecord"))))
        text = tf.io.FixedLenFeature([], tf.string)
        number = tf.io.FixedLenFeature([], tf.int64)
        features = {
            "image/encoded": text,
            "image/format": text,
            "image/height": number,
            "image/width": number,
            "image/class/label": number,
            "image/class/text": text,
            "image/filename": text,
        }
        found = {k: v.numpy() for k, v in tf.io.parse_single_example(record, features).items()}
        label, name = found["image/filename"].decode().split("/")
        assert (photos / label / name).read_bytes() == found["image/encoded"]
        assert (
            found["image/class/text"].decode()
            == label
            == ("cat", "dog")[found["image/class/label"]]
        )
        assert [found[f"image/{k}"] for k in ("format", "height", "width")] == [b"PNG", 6, 8]

    def test_the_datas_own_validation_part(self, tmp_path, to):
        make_folders(tmp_path / "d/train", {"cat": TEN, "dog": OTHER_TEN})
        make_folders(tmp_path / "d/val", {"cat": [1], "dog": [2, 3]})
        done = pack(tmp_path / "d", to, shards=4)
        assert (done.counts, done.shards) == (
            {"train": 20, "validation": 3},
            {"train": 4, "validation": 1},
        )
        opened = open_packed(to)
        assert opened.validation.counts.tolist() == [1, 2]
        assert not images_in(opened.train).keys() & images_in(opened.validation).keys()

    def test_a_share_or_other_data_to_validate_on(self, photos, to, tmp_path):
        assert pack(photos, to, validation=0.2).counts == {"train": 16, "validation": 4}
        other = make_folders(tmp_path / "other", {"dog": [7]})
        done = pack(photos, tmp_path / "second", validation=other)
        assert done.counts == {"train": 20, "validation": 1}
        assert open_packed(tmp_path / "second").validation.counts.tolist() == [0, 1]

    @pytest.mark.parametrize("shape", [(5, 6), (5, 6, 1), (5, 6, 3), (5, 6, 4)])
    def test_arrays(self, shape, to):
        pixels = np.random.default_rng(0).integers(0, 256, (4, *shape), np.uint8)
        pack((pixels, [0, 1, 1, 0]), to, labels=["a", "b"])
        stream = open_packed(to).train
        expected = {p.tobytes(): t for p, t in zip(pixels, [0, 1, 1, 0], strict=True)}
        channels = 1 if len(shape) == 2 else shape[2]
        found = {
            tf.io.decode_png(image, max(channels, 3)).numpy()[..., :channels].tobytes(): target
            for image, target in images_in(stream).items()
        }
        assert found == expected and "of arrays" in stream.name(0)

    def test_digits(self, to):
        done = pack("digits", to, validation=0.2)
        assert sum(done.counts.values()) == 1797 and len(done.labels) == 10

    def test_images_of_several_classes(self, tmp_path, to):
        make_folders(tmp_path, {"all": [1, 2, 3]})
        rows = "file,label\nall/001.png,sea|sun\nall/002.png,sun\nall/003.png,\n"
        (tmp_path / "list.csv").write_text(rows)
        pack(tmp_path / "list.csv", to)
        read = {n: (tmp_path / f"all/00{n}.png").read_bytes() for n in (1, 2, 3)}
        assert images_in(open_packed(to).train) == {
            read[1]: [1.0, 1.0],
            read[2]: [0.0, 1.0],
            read[3]: [0.0, 0.0],
        }

    def test_what_tensorflow_cannot_decode_becomes_png(self, photos, to):
        Image.fromarray(photo()).save(photos / "cat/webp.webp", lossless=True)
        pack(photos, to)
        assert encoded(photo(), "PNG")[:4] == b"\x89PNG"
        pixels = [tf.io.decode_image(image).numpy() for image in images_in(open_packed(to).train)]
        assert any(np.array_equal(each, photo()) for each in pixels)

    def test_shards_are_packed_anew(self, photos, to, tmp_path):
        pack(photos, to, shards=2, validation=0.2)
        done = pack(to, tmp_path / "again", shards=5, seed=3)
        assert done.counts == {"train": 16, "validation": 4} and done.shards["train"] == 5
        for part in ("train", "validation"):
            before, after = (getattr(open_packed(f), part) for f in (to, tmp_path / "again"))
            assert images_in(before) == images_in(after)

    def test_training_data_come_of_it(self, photos, to, tmp_path):
        pack(photos, to)
        data = open_training_data(to, cache=tmp_path / "cache", seed=0)
        assert (len(data.train), len(data.validation), data.labels) == (16, 4, ("cat", "dog"))
        again = open_training_data(to, labels=["dog", "cat"], cache=tmp_path / "cache", seed=0)
        assert again.labels == ("dog", "cat")
        found = open_evaluation_data(to, ["x", "dog", "cat"], cache=tmp_path / "cache")
        assert found.counts.tolist() == [0, 10, 10]


class TestUnreadable:
    def test_broken_images_are_named_and_left_out(self, photos, to, tmp_path):
        (photos / "cat/010.png").write_bytes(b"nothing")
        (photos / "dog/025.png").unlink()
        (photos / "dog/025.png").symlink_to("nowhere.png")
        done = pack(photos, to, shards=2)
        assert done.counts == {"train": 18}
        assert {Path(error.name).name for error in done.unreadable} == {"010.png", "025.png"}
        data = open_training_data(to, cache=tmp_path, seed=0)
        assert len(data.unreadable) == 2
        with pytest.raises(DataError, match=r"1 image cannot be read:\n.*0..\.png"):
            pack(photos, tmp_path / "strict", strict=True)

    def test_a_class_of_broken_images_alone(self, photos, to):
        for file in (photos / "cat").iterdir():
            file.write_bytes(b"nothing")
        with pytest.raises(DataError, match="no readable image is left in class 'cat': 10 images"):
            pack(photos, to)
        with pytest.raises(DataError, match="not all written yet"):
            open_training_data(to, cache=to / "cache", seed=0)


class TestResizing:
    def test_larger_images_get_the_shorter_side(self, tmp_path, to):
        make_folders(tmp_path / "photos", {"a": [1], "b": [2]})
        flat(90, 50, 100).save(tmp_path / "photos/a/wide.png")
        (tmp_path / "photos/b/turned.jpg").write_bytes(oriented_jpeg(6, photo(40, 80)))
        clear = np.dstack([photo(60, 44), np.full((60, 44), 128, np.uint8)])
        Image.fromarray(clear).save(tmp_path / "photos/a/clear.png")
        pack(tmp_path / "photos", to, size=20, quality=90)
        images = list(images_in(open_packed(to).train))
        shapes = sorted(tf.io.decode_image(image).shape.as_list() for image in images)
        assert shapes == [[6, 8, 3], [6, 8, 3], [20, 40, 3], [27, 20, 4], [40, 20, 3]]
        wide = next(
            image
            for image in images
            if image[:2] == b"\xff\xd8" and tf.io.decode_image(image).shape == [20, 40, 3]
        )
        assert abs(int(tf.io.decode_image(wide)[5, 5, 0]) - 90) <= 2
        original = (tmp_path / "photos/a/001.png").read_bytes()
        assert original in images

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"size": 0}, "size: expected a whole number of pixels, found 0"),
            ({"size": 2.5}, "size: .*found 2.5"),
            ({"quality": 101}, "quality: expected 1 to 100"),
            ({"shards": 0}, "shards: expected a whole number from 1 on"),
            ({"shards": True}, "shards: .*found True"),
            ({"seed": -1}, "seed: expected a whole number from 0 on"),
            ({"validation": 1.5}, "the validation fraction is 1.5"),
        ],
    )
    def test_senseless_options(self, photos, to, options, message):
        with pytest.raises(ConfigError, match=message):
            pack(photos, to, **options)


class TestGoingOn:
    def test_it_is_the_seeds_alone(self, photos, to, tmp_path):
        pack(photos, to, shards=3, seed=5)
        pack(photos, tmp_path / "again", shards=3, seed=5)
        pack(photos, tmp_path / "other", shards=3, seed=6)
        again, other = content_of(tmp_path / "again"), content_of(tmp_path / "other")
        assert content_of(to) == again
        assert other["train-00000-of-00003.tfrecord"] != again["train-00000-of-00003.tfrecord"]

    def test_finished_work_is_left_alone(self, photos, to):
        done = pack(photos, to)
        before = {file: file.stat().st_mtime_ns for file in to.glob("*.*")}
        seen = []
        again = pack(photos, to, progress=lambda *told: seen.append(told))
        assert again == done and not seen
        assert {file: file.stat().st_mtime_ns for file in to.glob("*.*")} == before

    def test_other_data_or_settings_are_refused(self, photos, to, tmp_path):
        pack(photos, to)
        with pytest.raises(ConfigError, match=r"different in seed \(then 0, now 1\)"):
            pack(photos, to, seed=1)
        flat(1).save(photos / "cat/more.png")
        with pytest.raises(ConfigError, match="different in the images or their classes"):
            pack(photos, to)
        (tmp_path / "full").mkdir()
        (tmp_path / "full/notes.txt").write_text("mine")
        for inside in (photos, photos / "packed"):
            with pytest.raises(ConfigError, match="lies in the folder of the images"):
                pack(photos, inside)
        with pytest.raises(ConfigError, match=r"holds other files, such as 'notes\.txt'"):
            pack(photos, tmp_path / "full")
        with pytest.raises(ConfigError, match="a file, where a folder"):
            pack(photos, tmp_path / "full/notes.txt")
        with pytest.raises(DataError, match=r"tf\.data\.Dataset: packing needs"):
            pack(tf.data.Dataset.range(3), tmp_path / "new")

    def test_progress_counts_images(self, photos, to):
        seen = []
        pack(photos, to, shards=4, progress=lambda *told: seen.append(told))
        assert seen == [(5, 20), (10, 20), (15, 20), (20, 20)]

    def test_a_killed_one_goes_on_behind_its_finished_shards(self, tmp_path, to):
        folder = tmp_path / "photos"
        rng = np.random.default_rng(0)
        for label in ("cat", "dog"):
            (folder / label).mkdir(parents=True)
            for i in range(60):
                noise = rng.integers(0, 256, (200, 200, 3), np.uint8)
                Image.fromarray(noise).save(folder / label / f"{i}.jpg")
        (folder / "cat/3.jpg").write_bytes(b"nothing")
        program = (
            "import sys; from keras_cls.data.packing import pack;"
            "pack(sys.argv[1], sys.argv[2], shards=20, size=150)"
        )
        with subprocess.Popen([sys.executable, "-c", program, folder, to]) as process:
            deadline = time.monotonic() + 120
            while len(list(to.glob("packing/train-*.json"))) < 3:
                assert process.poll() is None and time.monotonic() < deadline
                time.sleep(0.002)
            os.kill(process.pid, signal.SIGKILL)
        finished = {
            file.name.removesuffix(".json"): (to / file.name.removesuffix(".json"))
            .stat()
            .st_mtime_ns
            for file in to.glob("packing/train-*.json")
        }
        assert 3 <= len(finished) < 20 and not (to / "dataset.json").exists()
        with pytest.raises(DataError, match="not all written yet"):
            open_training_data(to, cache=tmp_path / "cache", seed=0)
        done = pack(folder, to, shards=20, size=150)
        assert done.counts == {"train": 119} and len(done.unreadable) == 1
        assert all((to / name).stat().st_mtime_ns == when for name, when in finished.items())
        pack(folder, tmp_path / "undisturbed", shards=20, size=150)
        assert content_of(to) == content_of(tmp_path / "undisturbed")

    def test_where_there_is_no_room(self, tmp_path, to):
        pixels = np.random.default_rng(0).integers(0, 256, (40, 64, 64, 3), np.uint8)
        np.save(tmp_path / "pixels.npy", pixels)
        program = (
            "import resource, sys, numpy as np; from keras_cls.data.packing import pack;"
            "from keras_cls.errors import DataError\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))\n"
            "try: pack((np.load(sys.argv[1]), [0, 1] * 20), sys.argv[2], shards=1)\n"
            "except (DataError, OSError) as error: print(error)"
        )
        arguments = [sys.executable, "-c", program, tmp_path / "pixels.npy", to]
        done = subprocess.run(arguments, capture_output=True, text=True, check=True)
        assert "train-00000-of-00001.tfrecord: cannot be written: " in done.stdout
        assert not list(to.glob("*.tfrecord")) and not list(to.glob(".tmp-*"))
        assert pack((pixels, [0, 1] * 20), to, shards=1).counts == {"train": 40}

    def test_the_description_is_readable(self, photos, to):
        pack(photos, to, shards=2)
        content = json.loads((to / "dataset.json").read_text())
        assert list(content)[:4] == ["format", "version", "labels", "multi_label"]
        shards = content["splits"]["train"]["shards"]
        assert [shard["records"] for shard in shards] == [10, 10]
        assert content["splits"]["train"]["counts"] == [10, 10]
