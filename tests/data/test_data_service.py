"""Batches that a tf.data service makes: a real dispatcher, and workers, in this process."""

import gc
import socket
from collections import Counter
from contextlib import closing
from itertools import islice

import numpy as np
import pytest
import tensorflow as tf
from folders import make_folders

from keras_cls.data import pipeline
from keras_cls.data.augmentation import Augmentation
from keras_cls.data.broken import BrokenImages
from keras_cls.data.datasets import open_dataset
from keras_cls.data.pipeline import Part, steps_per_epoch, training_batches
from keras_cls.data.scanning import ScannedImages, scan
from keras_cls.data.sources import open_source
from keras_cls.errors import ConfigError
from keras_cls.preprocessing import Preprocessing

VALUES = list(range(10, 120, 10))
RULE = Preprocessing(size=4, crop=1.0, resize="squash", mean=0, std=1)


@pytest.fixture(scope="module")
def service():
    dispatcher = tf.data.experimental.service.DispatchServer()
    address = dispatcher.target.split("://")[1]
    workers = [
        tf.data.experimental.service.WorkerServer(
            tf.data.experimental.service.WorkerConfig(dispatcher_address=address)
        )
        for _ in range(2)
    ]
    yield dispatcher.target
    del workers, dispatcher


@pytest.fixture(autouse=True)
def no_jobs_go_on():
    """An endless job works on until the last iterator that reads it is gone."""
    yield
    gc.collect()


@pytest.fixture
def source(tmp_path) -> ScannedImages:
    root = make_folders(tmp_path / "photos", {"a": VALUES[:6], "b": VALUES[6:]})
    return scan(open_source(root).train, tmp_path / "cache")


def shown(batches: tf.data.Dataset, count: int) -> Counter[tuple[int, ...]]:
    """The first batches, each as the brightness of its images; how often each comes."""
    return Counter(
        tuple(np.rint(255 * images.numpy()[:, 0, 0, 0]).astype(int).tolist())
        for images, _ in islice(batches, count)
    )


def test_a_service_that_is_not_there_is_named(source, monkeypatch):
    monkeypatch.setattr(pipeline, "_PATIENCE", 0.0)
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        address = f"grpc://127.0.0.1:{taken.getsockname()[1]}"
    with pytest.raises(ConfigError, match=f"nothing listens at {address} .*: start"):
        batches_of(source, address)


def batches_of(source, service, **options) -> tf.data.Dataset:
    options = {"batch_size": 4, "seed": 5, **options}
    return training_batches(source, RULE, Augmentation(), service=service, **options)


def test_every_batch_is_sent_once(source, service) -> None:
    steps = 16 * steps_per_epoch(source, 4)
    found = shown(batches_of(source, service), steps)
    # Sixteen batches are taken up at once, by whichever worker is free: while one stands still the
    # other goes ahead, through all that is asked for and what waits to be sent.
    assert found <= shown(batches_of(source, None), 4 * steps)
    assert found.total() == steps


@pytest.mark.slow
def test_training_workers_share_the_batches(source, service) -> None:
    each = [
        iter(batches_of(source, service, seed=6, part=Part(index, 2), batch_size=8))
        for index in range(2)
    ]
    found = sum((shown(one, 1) for _ in range(16) for one in each), Counter())
    both = [
        batches_of(source, None, seed=6, part=Part(index, 2), batch_size=8) for index in range(2)
    ]
    assert found <= shown(both[0], 64) + shown(both[1], 64)
    assert found.total() == 32


@pytest.mark.slow
def test_what_cannot_be_read_is_noted_here(source, service) -> None:
    source.files[3].write_bytes(b"gone")
    broken = BrokenImages()
    shown(batches_of(source, service, seed=7, broken=broken), 12)
    assert list(broken.times()) == [3]
    assert source.name(3) in broken.describe(source)


def test_a_dataset_of_ones_own_is_refused(service) -> None:
    pixels = np.zeros((2, 4, 4, 3), np.uint8)
    dataset = open_dataset(tf.data.Dataset.from_tensor_slices((pixels, [0, 1])))
    with pytest.raises(ConfigError, match=r"data_service: a tf\.data\.Dataset of your own"):
        batches_of(dataset, service)
