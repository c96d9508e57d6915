import numpy as np
import pytest
from image_files import encoded, oriented_jpeg, photo, png

from keras_cls.data import caching
from keras_cls.data.augmentation import Augmentation
from keras_cls.data.caching import DecodedImages, decoded_if_they_fit, free_memory
from keras_cls.data.decoding import decode_image
from keras_cls.data.pipeline import evaluation_batches, training_batches
from keras_cls.data.scanning import scan
from keras_cls.data.sources import open_source
from keras_cls.data.streams import HeldStream
from keras_cls.preprocessing import Preprocessing

FILES = {
    "a.jpg": oriented_jpeg(6, photo(20, 30)),
    "b.png": encoded(photo(7, 9), "PNG"),
    "c.gif": encoded(photo(12, 5), "GIF"),
    "d.bmp": encoded(photo(3, 4), "BMP"),
    "e.png": encoded(photo(1, 1)[..., 0], "PNG"),
    "f.webp": encoded(photo(8, 8), "WEBP"),
}


def folder_of(tmp_path, files):
    for label in ("cat", "dog"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for name, data in files.items():
            (tmp_path / "photos" / label / name).write_bytes(data)
    return scan(open_source(tmp_path / "photos").train, tmp_path / "cache")


def held(source, free: int | None = None) -> DecodedImages | None:
    channels = int(source.shapes[:, 2].max())
    return decoded_if_they_fit(source.files, source.shapes[:, :2], channels, free)


def test_every_image_is_what_its_file_decodes_to(tmp_path) -> None:
    source = folder_of(tmp_path, FILES)
    found = held(source)
    assert found.channels == 3 and found.table is None  # they are of several sizes
    for index, file in enumerate(source.files):
        expected = decode_image(file.read_bytes(), 3)
        np.testing.assert_array_equal(found.image(index), expected)
        image, target = source.load(index)
        np.testing.assert_array_equal(image, expected)
        assert target == source.images.targets[index]


@pytest.mark.parametrize("channels", [3, 4])
def test_transparent_pixels_are_kept_for_networks_that_see_them(tmp_path, channels) -> None:
    source = folder_of(tmp_path, FILES | {"g.png": png("rgba", 8), "h.png": png("palette", 4)})
    found = held(source)
    assert found.channels == 4
    rule = Preprocessing(size=6, color_mode="rgba" if channels == 4 else "rgb", mean=0, std=1)
    with_them = [images.numpy() for images, _ in evaluation_batches(source, rule, 4)]
    from_files = [images.numpy() for images, _ in evaluation_batches(source.unheld(), rule, 4)]
    np.testing.assert_array_equal(np.concatenate(with_them), np.concatenate(from_files))


def test_images_of_one_size_are_a_table(tmp_path) -> None:
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (3, 5, 6, 3), np.uint8)
    source = folder_of(tmp_path, {f"{n}.png": encoded(one, "PNG") for n, one in enumerate(pixels)})
    np.testing.assert_array_equal(source.pixel_table(), np.concatenate([pixels, pixels]))
    assert source.unheld().pixel_table() is None


def test_held_or_not_the_batches_are_the_same(tmp_path) -> None:
    source = folder_of(tmp_path, FILES)
    rule, augmentation = Preprocessing(size=8), Augmentation(random_crop=(0.1, 1.0), flip=True)
    batches = [
        next(iter(training_batches(each, rule, augmentation, batch_size=12, seed=3)))[0].numpy()
        for each in (source, source.unheld())
    ]
    np.testing.assert_array_equal(*batches)


def test_files_are_read_once(tmp_path) -> None:
    source = folder_of(tmp_path, FILES)
    batches = evaluation_batches(source, Preprocessing(size=8), 12)
    first = next(iter(batches))[0].numpy()
    for file in source.files:
        file.unlink(missing_ok=True)  # both classes' WebP is one copy
    np.testing.assert_array_equal(next(iter(batches))[0], first)
    again = evaluation_batches(source, Preprocessing(size=8), 12)
    np.testing.assert_array_equal(next(iter(again))[0], first)


@pytest.mark.parametrize("orientation", [pytest.param(1, marks=pytest.mark.slow), 6])
@pytest.mark.parametrize(
    "augmentation",
    [
        Augmentation(random_crop=(0.08, 1.0), flip=True),
        Augmentation(scale_jitter=(1.0, 2.0)),
        Augmentation(shift=4),
    ],
    ids=["crop", "scale", "shift"],
)
def test_of_a_held_photo_the_part_that_is_shown_is_taken(
    tmp_path, augmentation, orientation
) -> None:
    source = folder_of(tmp_path, {"a.jpg": oriented_jpeg(orientation, photo(300, 400))})
    assert source.is_held() and not source.unheld().is_held()
    # At this size no part is decoded at half its size, so both see the same pixels.
    rule = Preprocessing(size=220, mean=0, std=1)
    batches = [
        next(iter(training_batches(each, rule, augmentation, batch_size=16, seed=3)))[0].numpy()
        for each in (source, source.unheld())
    ]
    assert batches[0].std() > 0.1
    np.testing.assert_allclose(*batches, atol=1e-4)


def test_to_ask_whether_it_may_hold_images_decodes_none(tmp_path) -> None:
    source = folder_of(tmp_path, FILES)
    assert isinstance(source, HeldStream) and "_decoded" not in vars(source)


def test_what_does_not_fit_is_not_held(tmp_path) -> None:
    source = folder_of(tmp_path, {"a.png": encoded(photo(10, 10), "PNG")})
    assert held(source, free=4 * 599) is None
    assert held(source, free=4 * 600) is not None


def test_a_file_that_changed_is_left_to_who_reads_it(tmp_path) -> None:
    source = folder_of(tmp_path, {"a.png": encoded(photo(4, 6), "PNG")})
    source.files[1].write_bytes(encoded(photo(6, 4), "PNG"))  # as many bytes, another shape
    assert held(source) is None
    source.files[1].unlink()
    assert held(source) is None


class TestFreeMemory:
    def test_this_machine_has_some(self) -> None:
        assert 2**20 < free_memory() < 2**50

    def test_the_kernel_says(self, tmp_path) -> None:
        (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:      12 kB\n")
        assert caching._available(tmp_path / "meminfo") == 12288
        assert caching._available(tmp_path / "nothing") is None

    @pytest.mark.parametrize(
        ("files", "left"),
        [
            ({"memory.max": "1000\n", "memory.current": "300\n"}, 700),
            (
                {
                    "memory.max": "1000",
                    "memory.current": "900",
                    "memory.stat": "file 5\ninactive_file 150\nactive_file 7\n",
                },
                250,
            ),
            ({"memory.max": "max\n", "memory.current": "300\n"}, None),
            ({"memory/memory.limit_in_bytes": "50", "memory/memory.usage_in_bytes": "60"}, 0),
            ({}, None),
        ],
    )
    def test_a_container_says(self, tmp_path, files, left) -> None:
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(text)
        assert caching._below_limit(tmp_path) == left
