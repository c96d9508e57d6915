"""Batches of varied images, by every way, against each image decoded whole and varied alone."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from choosing import slow_but
from image_files import encoded, exif_block, photo, segment
from PIL import Image

from keras_cls.data.augmentation import Augmentation, augment
from keras_cls.data.decoding import decode_image
from keras_cls.data.preparation import varied_batches
from keras_cls.data.rand_augment import RandAugment
from keras_cls.data.scanning import ScannedImages
from keras_cls.data.sources import LabelledImages
from keras_cls.preprocessing import Preprocessing, normalize

SEED = 11


def stream_of(files: list[Path], shape: tuple[int, int, int] | None = None) -> ScannedImages:
    """Files as a scan would find them; with a shape, they may be held in memory."""
    targets = np.arange(len(files)) % 2
    images = LabelledImages(("a", "b"), targets, tuple(files), None, "photos")
    shapes = None if shape is None else np.array([shape] * len(files), np.int32)
    return ScannedImages(images, tuple(files), shapes=shapes)


def varied(source: ScannedImages, rule, augmentation, first: int = 0) -> np.ndarray:
    """All images at once, in order, as the network gets them from place ``first`` of a run on."""
    count = len(source)
    places = source.in_order().map(lambda index: (index,)).enumerate(first)
    firsts = tf.data.Dataset.counter(first, count)
    (batch,) = varied_batches(
        places,
        firsts,
        source,
        rule,
        augmentation,
        rows=count,
        per_epoch=count,
        seed=SEED,
        tolerant=False,
    )
    assert batch.first == first and batch.images.shape == (count, *rule.input_shape)
    return batch.images.numpy()


def expected(source: ScannedImages, rule, augmentation, first: int = 0) -> np.ndarray:
    """Each image decoded whole, and varied alone."""
    alone = tf.function(
        lambda data, place: normalize(
            augment(decode_image(data, rule.image_channels), rule, augmentation, SEED, place), rule
        ),
        input_signature=[tf.TensorSpec([], tf.string), tf.TensorSpec([], tf.int64)],
    )
    return np.stack([alone(f.read_bytes(), first + i).numpy() for i, f in enumerate(source.files)])


# ------------------------------------------------------------------- small images, all at once

BATCHWISE = {
    "none": Augmentation(),
    "shift, flip": Augmentation(shift=4, flip=True),
    "jitter": Augmentation(jitter=0.4),
    "pca": Augmentation(pca_color=0.1),
    "erase": Augmentation(erase=0.5),
    "all": Augmentation(shift=2, flip=True, jitter=0.3, pca_color=0.1, erase=0.5),
}
RULES = {
    "as they are": Preprocessing(size=(12, 16), crop=1.0),
    "cut out": Preprocessing(size=(8, 12), crop=8 / 12),
    "squashed": Preprocessing(size=9, crop=0.8, resize="squash"),
    "enlarged": Preprocessing(size=20, interpolation="bicubic"),
    "padded": Preprocessing(size=14, resize="pad"),
    "grey": Preprocessing(size=10, color_mode="grayscale", mean=0.5, std=0.2),
    "rgba": Preprocessing(size=10, color_mode="rgba", mean=0.5, std=0.2),
}


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("small")
    random = np.random.default_rng(0)
    files = [folder / f"{n}.png" for n in range(9)]
    for file in files:
        file.write_bytes(encoded(random.integers(0, 256, (12, 16, 3), np.uint8), "PNG"))
    return files


@pytest.mark.parametrize("name", slow_but("all", BATCHWISE))
def test_all_at_once_is_one_by_one(small, name: str) -> None:
    rule, augmentation = RULES["as they are"], BATCHWISE[name]
    held = stream_of(small, (12, 16, 3))
    assert held.pixel_table() is not None and stream_of(small).pixel_table() is None
    together = varied(held, rule, augmentation, first=1000)
    atol = 0 if augmentation.jitter == augmentation.pca_color == 0 else 1e-4
    np.testing.assert_allclose(
        together, varied(stream_of(small), rule, augmentation, first=1000), rtol=0, atol=atol
    )
    np.testing.assert_allclose(
        together, expected(held, rule, augmentation, first=1000), rtol=0, atol=atol
    )


@pytest.mark.parametrize("name", slow_but("grey", RULES))
def test_all_at_once_follows_every_rule(small, name: str) -> None:
    augmentation = Augmentation(shift=2, flip=True)
    held = stream_of(small, (12, 16, 3))
    np.testing.assert_array_equal(
        varied(held, RULES[name], augmentation), expected(held, RULES[name], augmentation)
    )


@pytest.mark.parametrize(
    "augmentation",
    [
        Augmentation(random_crop=(0.2, 1.0), flip=True),
        Augmentation(scale_jitter=(1.1, 2.0), erase=0.5),
        Augmentation(rand_augment=RandAugment()),
    ],
)
def test_what_cannot_be_done_at_once_is_done_one_by_one(small, augmentation) -> None:
    held, rule = stream_of(small, (12, 16, 3)), RULES["squashed"]
    assert not augmentation.works_on_batches
    np.testing.assert_allclose(
        varied(held, rule, augmentation), expected(held, rule, augmentation), rtol=0, atol=1e-4
    )


# --------------------------------------------------------------------- large JPEGs, by their part


def photo_like(height: int, width: int, seed: int) -> Image.Image:
    """Structure at every size, as photos have it: noise whose spectrum falls with the frequency."""
    random = np.random.default_rng(seed)
    rows, columns = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)
    fall = 1 / np.maximum(np.hypot(rows, columns), 1 / max(height, width))
    noise = random.normal(size=(3, *fall.shape)) + 1j * random.normal(size=(3, *fall.shape))
    channels = np.fft.irfft2(noise * fall, (height, width))
    channels = channels[:1] + 0.3 * channels  # mostly brightness, as in photos
    channels = 128 + 55 * channels / channels.std()
    return Image.fromarray(np.clip(channels, 0, 255).astype(np.uint8).transpose(1, 2, 0))


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> list[Path]:
    """Of every orientation, stored in every way, sizes that no block divides."""
    folder = tmp_path_factory.mktemp("large")
    files = [folder / f"{n}.jpg" for n in range(16)]
    for n, file in enumerate(files):
        image = photo_like(257 + 41 * n, 473 + 23 * n, n)
        data = encoded(
            image.convert("L") if n % 5 == 4 else image,
            "JPEG",
            quality=92,
            subsampling=n % 3,
            progressive=n % 2 == 1,
        )
        turn = segment(0xE1, b"Exif\0\0" + exif_block(n % 8 + 1))
        file.write_bytes(data[:2] + turn + data[2:])
    return files


@pytest.mark.parametrize(
    ("interpolation", "augmentation"),
    [
        pytest.param("bilinear", Augmentation(), marks=pytest.mark.slow),
        pytest.param("lanczos", Augmentation(shift=9, flip=True), marks=pytest.mark.slow),
        ("bicubic", Augmentation(random_crop=(0.05, 0.5), flip=True)),
    ],
)
def test_without_reduction_a_part_gives_what_the_whole_gives(
    large, interpolation, augmentation
) -> None:
    rule = Preprocessing(size=(320, 300), interpolation=interpolation, mean=0, std=1 / 255)
    if augmentation.random_scale:  # no crop is so large that it would be reduced
        large = large[:6]
    source = stream_of(large)
    np.testing.assert_allclose(
        varied(source, rule, augmentation),
        expected(source, rule, augmentation),
        rtol=0,
        atol=0.05,
    )


def differences(source: ScannedImages, rule, augmentation, firsts) -> np.ndarray:
    """In grey levels of 255."""
    return np.abs(
        np.stack([varied(source, rule, augmentation, first) for first in firsts])
        - np.stack([expected(source, rule, augmentation, first) for first in firsts])
    )


@pytest.mark.parametrize(
    "augmentation",
    [
        Augmentation(random_crop=(0.3, 1.0), flip=True),
        pytest.param(Augmentation(scale_jitter=(1.0, 1.3)), marks=pytest.mark.slow),
    ],
)
def test_a_reduced_part_is_close_to_what_the_whole_gives(large, augmentation) -> None:
    rule = Preprocessing(size=48, mean=0, std=1 / 255)
    found = differences(stream_of(large), rule, augmentation, (0, 100))
    assert found.mean() < 3 and np.quantile(found, 0.999) < 20
    assert found.max() > 0.05  # it was reduced


@pytest.mark.data
def test_reduced_parts_of_photos_are_close(data_dir) -> None:
    photos = sorted((data_dir / "gallery/photos").iterdir())[:60]
    source = stream_of([file for file in photos if file.read_bytes()[:3] == b"\xff\xd8\xff"])
    rule = Preprocessing(size=96, mean=0, std=1 / 255)
    found = differences(source, rule, Augmentation(random_crop=(0.08, 1.0), flip=True), (0,))
    assert found.mean() < 1.5 and np.quantile(found, 0.999) < 15


def test_the_alpha_of_a_part_is_opaque(large) -> None:
    rule = Preprocessing(size=48, color_mode="rgba", mean=0, std=1 / 255)
    out = varied(stream_of(large[:2]), rule, Augmentation(random_crop=(0.3, 1.0)))
    assert np.abs(out[..., 3] - 255).max() < 1e-3 and out[..., :3].std() > 10


def test_of_large_files_of_other_kinds_the_part_is_taken_that_is_shown(tmp_path) -> None:
    files = []
    for name, form in (("a.png", "PNG"), ("b.bmp", "BMP"), ("c.gif", "GIF")):
        files.append(tmp_path / name)
        files[-1].write_bytes(encoded(photo(300, 400), form))
    rule, augmentation = Preprocessing(size=50), Augmentation(random_crop=(0.3, 1.0), flip=True)
    source = stream_of(files)
    np.testing.assert_allclose(
        varied(source, rule, augmentation), expected(source, rule, augmentation), atol=1e-4
    )
