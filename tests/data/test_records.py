import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from folders import make_folders
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keras_cls.data.packing import pack
from keras_cls.data.records import DATASET_FILE, Grain, RecordShards, open_packed
from keras_cls.errors import ConfigError, DataError, UserError

BRIGHTNESS = {"cat": list(range(0, 60)), "dog": list(range(60, 160)), "emu": list(range(160, 177))}
COUNT = 177
# Runs of 4 records, windows of 5 runs: some 9 windows, instead of one for so little data.
FINE = Grain(run_records=4, window=5)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return make_folders(tmp_path_factory.mktemp("records") / "photos", BRIGHTNESS)


@pytest.fixture(scope="module")
def packed(photos):
    pack(photos, photos.parent / "packed", shards=3)
    return photos.parent / "packed"


@pytest.fixture(scope="module")
def stream(packed):
    return replace(open_packed(packed).train, grain=FINE)


@pytest.fixture
def copied(packed, tmp_path):
    return Path(shutil.copytree(packed, tmp_path / "copied"))


def brightness(stream: RecordShards, items: tf.data.Dataset, count: int | None = None) -> list[int]:
    """What tells the images apart, in the order in which they come."""
    images = items.map(stream.load).map(lambda image, _: tf.io.decode_png(image)[0, 0, 0])
    return [int(value) for value in (images if count is None else images.take(count))]


class TestOrder:
    def test_every_image_once_as_the_records_lie(self, stream, photos):
        loaded = [stream.load(*item) for item in stream.in_order()]
        assert [int(target) for _, target in loaded] == stream.targets.tolist()
        assert loaded[0][1].dtype == tf.int64
        assert [int(index) for index, _ in stream.in_order()] == list(range(COUNT))
        files = {file.read_bytes() for file in photos.rglob("*.png")}
        assert {image.numpy() for image, _ in loaded} == files
        assert [stream.encoded(i) for i in (0, 70, 176)] == [
            loaded[i][0].numpy() for i in (0, 70, 176)
        ]

    def test_each_epoch_shows_every_image_in_a_new_order(self, stream):
        lying = brightness(stream, stream.in_order())
        drawn = brightness(stream, stream.shuffled(7, COUNT, 0), 2 * COUNT)
        first, second = drawn[:COUNT], drawn[COUNT:]
        assert sorted(first) == sorted(second) == list(range(COUNT))
        indices = [int(index) for index, _ in stream.shuffled(7, COUNT, 0).take(COUNT)]
        assert [lying[index] for index in indices] == first
        assert len({tuple(first), tuple(second), tuple(lying)}) == 3
        assert brightness(stream, stream.shuffled(7, COUNT, 0), 2 * COUNT) == drawn
        assert brightness(stream, stream.shuffled(8, COUNT, 0), COUNT) != first

    def test_neighbours_do_not_stay_together(self, stream):
        lying = {value: i for i, value in enumerate(brightness(stream, stream.in_order()))}
        places = [lying[v] for v in brightness(stream, stream.shuffled(0, COUNT, 0), COUNT)]
        steps = np.abs(np.diff(places))
        assert (steps == 1).mean() < 0.1 and np.corrcoef(places, range(COUNT))[0, 1] < 0.3

    def test_places_beyond_the_images_show_the_epochs_own_again(self, stream):
        per_epoch = 2 * COUNT + 9
        drawn = brightness(stream, stream.shuffled(1, per_epoch, 0), 2 * per_epoch)
        for epoch in (drawn[:per_epoch], drawn[per_epoch:]):
            assert epoch[COUNT : 2 * COUNT] == epoch[:COUNT] and epoch[2 * COUNT :] == epoch[:9]

    @pytest.mark.parametrize("per_epoch", [COUNT, 2 * COUNT + 9])
    def test_it_goes_on_from_any_place(self, stream, per_epoch):
        def drawn(first: int | tf.Tensor, count: int) -> list[tuple[int, bytes]]:
            items = stream.shuffled(3, per_epoch, first).take(count)
            return list(items.as_numpy_iterator())

        undisturbed = drawn(0, 2 * per_epoch + 60)
        places = np.random.default_rng(per_epoch).integers(0, 2 * per_epoch, 2).tolist()
        for first in (1, COUNT - 1, per_epoch - 1, per_epoch, *places):
            assert drawn(first, 30) == undisturbed[first : first + 30]
        assert drawn(tf.constant(50, tf.int64), 30) == undisturbed[50:80]

    def test_classes_come_equally_often_on_request(self, stream):
        items = stream.shuffled(0, 180, 0, balanced=True).map(stream.load)
        assert Counter(int(t) for _, t in items.take(180)) == {0: 60, 1: 60, 2: 60}
        drawn = brightness(stream, stream.shuffled(0, 180, 0, balanced=True), 200)
        assert brightness(stream, stream.shuffled(0, 180, 150, balanced=True), 50) == drawn[150:]

    def test_the_grain_matters_to_the_order_alone(self, stream):
        for grain in (Grain(), Grain(run_bytes=300, window=1)):
            other = replace(stream, grain=grain)
            assert brightness(other, other.in_order()) == brightness(stream, stream.in_order())
            drawn = brightness(other, other.shuffled(0, COUNT, 0), COUNT)
            assert sorted(drawn) == list(range(COUNT))
            assert brightness(other, other.shuffled(0, COUNT, 100), 77) == drawn[100:]

    def test_a_tf_data_service_reads_it_too(self, stream):
        dispatcher = tf.data.experimental.service.DispatchServer()
        address = dispatcher.target.split("://")[1]
        worker = tf.data.experimental.service.WorkerServer(
            tf.data.experimental.service.WorkerConfig(dispatcher_address=address)
        )
        distributed = stream.shuffled(3, COUNT, 5).apply(
            tf.data.experimental.service.distribute("parallel_epochs", dispatcher.target)
        )
        here = brightness(stream, stream.shuffled(3, COUNT, 5), 20)
        assert brightness(stream, distributed, 20) == here
        del worker, dispatcher


class TestWhatItKnows:
    def test_labels_counts_and_names(self, stream, packed, photos):
        assert (stream.labels, stream.counts.tolist()) == (("cat", "dog", "emu"), [60, 100, 17])
        assert len(stream) == COUNT and not stream.multi_label
        label, file = stream.name(5).split(" ")[0].split("/")
        assert (photos / label / file).read_bytes() == stream.encoded(5)
        assert stream.name(5).endswith(f"(record 5 of {packed}/train-00000-of-00003.tfrecord)")

    def test_a_subset_and_a_division(self, stream):
        some = stream.subset(range(0, COUNT, 3))
        lying = brightness(stream, stream.in_order())
        assert brightness(some, some.in_order()) == lying[::3]
        assert sorted(brightness(some, some.shuffled(1, 59, 0), 59)) == sorted(lying[::3])
        assert some.targets.tolist() == stream.targets[::3].tolist()
        rest, held_out = stream.divided(0.2, seed=4)
        assert (rest.counts.tolist(), held_out.counts.tolist()) == ([48, 80, 14], [12, 20, 3])
        both = [*rest.in_order(), *held_out.in_order()]
        assert len({record.numpy() for _, record in both}) == COUNT
        place = int(np.flatnonzero(stream.index.begin == held_out.index.begin[3])[0])
        assert held_out.name(3) == stream.name(place)

    def test_a_division_that_makes_no_sense(self, stream):
        for fraction in (0, 1, -1, float("nan")):
            with pytest.raises(ConfigError, match="validation fraction"):
                stream.divided(fraction, 0)
        with pytest.raises(ConfigError, match="seed"):
            stream.divided(0.5, -1)
        with pytest.raises(DataError, match="no class has two images"):
            stream.subset([0]).divided(0.5, 0)

    def test_targets_follow_the_labels_asked_for(self, stream):
        other = stream.aligned_to(["emu", "fox", "dog", "cat"])
        assert other.counts.tolist() == [17, 0, 100, 60]
        assert [int(other.load(*item)[1]) for item in other.in_order()] == other.targets.tolist()
        with pytest.raises(DataError, match=r"1 class not among the labels: 'emu'"):
            stream.aligned_to(["cat", "dog"])
        cats = stream.subset(np.flatnonzero(stream.targets == 0))
        assert cats.aligned_to(["dog", "cat"]).counts.tolist() == [0, 60]

    def test_the_fingerprint_is_of_the_content(self, stream, photos, tmp_path):
        pack(photos, tmp_path / "again", shards=3)
        again = open_packed(tmp_path / "again").train
        assert again.fingerprint() == stream.fingerprint()
        others = [stream.subset(range(9)), stream.aligned_to(["dog", "cat", "emu"])]
        pack(photos, tmp_path / "other", shards=3, seed=1)
        others.append(open_packed(tmp_path / "other").train)
        assert len({stream.fingerprint(), *(other.fingerprint() for other in others)}) == 4

    def test_images_of_several_classes(self, tmp_path):
        make_folders(tmp_path, {"all": list(range(6))})
        rows = ["file,label"]
        names = ["sea|sun", "sun", "", "sea", "sea|sky|sun", "sky"]
        rows += [f"all/{i:03d}.png,{name}" for i, name in enumerate(names)]
        (tmp_path / "list.csv").write_text("\n".join(rows))
        pack(tmp_path / "list.csv", tmp_path / "packed")
        stream = open_packed(tmp_path / "packed").train
        assert stream.multi_label and stream.labels == ("sea", "sky", "sun")
        assert stream.counts.tolist() == [3, 2, 3] and stream.targets.dtype == np.float32
        loaded = [stream.load(*item) for item in stream.in_order()]
        assert np.array_equal([target.numpy() for _, target in loaded], stream.targets)
        found = dict(
            zip(brightness(stream, stream.in_order()), stream.targets.tolist(), strict=True)
        )
        assert found == {
            i: [float(label in name.split("|")) for label in stream.labels]
            for i, name in enumerate(names)
        }
        other = stream.aligned_to(["sun", "sea", "x", "sky"])
        assert other.load(*next(iter(other.in_order())))[1].numpy().tolist() == [
            other.targets[0][i] for i in range(4)
        ]
        assert len(list(stream.shuffled(0, 6, 0, balanced=True).take(6))) == 6


class TestDamage:
    def test_a_changed_byte_is_found_where_it_is(self, copied):
        stream = open_packed(copied).train
        file = copied / "train-00001-of-00003.tfrecord"
        content = bytearray(file.read_bytes())
        record = int(np.flatnonzero(stream.index.shard == 1)[7])
        content[int(stream.index.begin[record]) + 40] ^= 1
        file.write_bytes(content)
        stream = open_packed(copied).train  # of the same size
        with pytest.raises(tf.errors.DataLossError) as raised:
            list(stream.in_order())
        message = rf"{file}: record 7 \(at byte {stream.index.begin[record]}\) is damaged"
        explained = stream.explained(raised.value)
        assert isinstance(explained, DataError)
        with pytest.raises(DataError, match=message):
            raise explained
        with pytest.raises(DataError, match=message):
            stream.encoded(record)
        assert stream.name(record) == f"record 7 of {file}"
        neighbours = stream.subset([record - 1, record + 1])
        with pytest.raises(tf.errors.DataLossError) as raised:
            list(neighbours.in_order())
        with pytest.raises(DataError, match=message):
            raise neighbours.explained(raised.value)

    @pytest.mark.parametrize("balanced", [False, True])
    def test_in_training_it_costs_one_image(self, copied, balanced):
        stream = open_packed(copied).train
        file = copied / "train-00001-of-00003.tfrecord"
        content = bytearray(file.read_bytes())
        record = int(np.flatnonzero(stream.index.shard == 1)[7])
        content[int(stream.index.begin[record]) + 40] ^= 1
        sound = list(stream.shuffled(3, len(stream), 0, balanced).take(2 * len(stream)))
        file.write_bytes(content)
        stream = open_packed(copied).train
        found = list(stream.shuffled(3, len(stream), 0, balanced).take(2 * len(stream)))
        for (index, item), (same, before) in zip(found, sound, strict=True):
            assert index == same
            assert item == (b"" if index == record else before)
        with pytest.raises(tf.errors.InvalidArgumentError):
            stream.load(tf.constant(record, tf.int64), tf.constant(""))

    def test_other_errors_are_left_as_they_are(self, stream):
        error = tf.errors.ResourceExhaustedError(None, None, "memory")
        assert stream.explained(error) is error

    def test_shards_missing_cut_off_or_exchanged(self, copied):
        file = copied / "train-00001-of-00003.tfrecord"
        content = file.read_bytes()
        file.write_bytes(content[:-100])
        with pytest.raises(DataError, match=rf"{file}: .*the file is cut off\. Fetch"):
            open_packed(copied)
        file.write_bytes(content + b"more")
        with pytest.raises(DataError, match="is another one"):
            open_packed(copied)
        file.unlink()
        with pytest.raises(DataError, match=rf"{file}: no such file.*dataset.json lists it"):
            open_packed(copied)

    def test_a_damaged_index(self, copied):
        file = copied / "train.index.npz"
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
        with pytest.raises(DataError, match=rf"{file}: its SHA-256 is not the one"):
            open_packed(copied)
        file.unlink()
        with pytest.raises(DataError, match=rf"{file}: no such file"):
            open_packed(copied)

    @pytest.mark.parametrize(
        ("path", "value", "message"),
        [
            (["format"], "TFRecord", r"format: expected 'keras_cls records', found 'TFRecord'"),
            (["version"], 2, "version: expected 1, found 2: it was written by another"),
            (["labels"], "cat", r"labels: expected a list, found 'cat'"),
            (["labels"], ["cat", "cat", "emu"], r"labels: 'cat' stands there twice"),
            (["labels"], ["cat", "dog"], "counts: they are not those of the index"),
            (["multi_label"], 1, "multi_label: expected true or false, found 1"),
            (["splits"], {"test": {}}, "splits: expected 'train' and perhaps 'validation'"),
            (["splits", "train"], 3, r"splits\.train: expected an object, found 3"),
            (["splits", "train", "shards", 1], [], r"shards\[1\]: expected an object"),
            (["splits", "train", "shards", 1, "bytes"], -1, r"\[1\]\.bytes: expected a whole"),
            (["splits", "train", "shards", 1, "file"], "../x", r"expected a file's name"),
            (["splits", "train", "shards", 1, "records"], 3, "does not fit the shards"),
            (["splits", "train", "count"], 3, "does not fit the shards"),
            (["splits", "train", "counts"], [1, 2, 3], "not those of the index"),
            (["splits", "train", "index"], None, r"index: expected an object, found None"),
            (["splits", "train", "index", "file"], "/etc/x", "expected a file's name"),
        ],
    )
    def test_a_damaged_description(self, copied, path, value, message):
        file = copied / DATASET_FILE
        content = json.loads(file.read_text())
        place = content
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = value
        file.write_text(json.dumps(content))
        with pytest.raises(DataError, match=message):
            open_packed(copied)

    def test_what_is_no_json(self, copied):
        (copied / DATASET_FILE).write_text('{"format": "keras_cls records"')
        with pytest.raises(ConfigError, match=rf"{DATASET_FILE}: not valid JSON"):
            open_packed(copied)

    @settings(
        max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
    )
    @given(st.data())
    def test_whatever_stands_there_is_read_or_refused(self, packed, copied, data):
        content = json.loads((packed / DATASET_FILE).read_text())
        values = st.none() | st.booleans() | st.integers() | st.text() | st.just([]) | st.just({})
        place = content
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            key = data.draw(st.sampled_from(keys))
            if (
                not isinstance(place[key], dict | list)
                or not place[key]
                or data.draw(st.booleans())
            ):
                break
            place = place[key]
        place[key] = data.draw(values)
        (copied / DATASET_FILE).write_text(json.dumps(content))
        try:
            assert len(open_packed(copied).train) == COUNT
        except UserError as error:
            assert str(copied) in str(error)
