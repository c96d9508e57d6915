import os
import warnings

import numpy as np
import pytest
import tensorflow as tf
from folders import make_folders
from image_files import encoded, exif_block, jpeg_with, photo, png, segment
from PIL import Image

from keras_cls.data.decoding import decode_image
from keras_cls.data.scanning import ScannedImages, describe_unreadable, scan
from keras_cls.data.sources import open_source
from keras_cls.errors import DataError, ImageError
from keras_cls.images import read_image


@pytest.fixture
def photos(tmp_path):
    return make_folders(tmp_path / "photos", {"cat": [10, 20], "dog": [30, 40]})


def scanned(photos, tmp_path, **options) -> ScannedImages:
    return scan(open_source(photos).train, tmp_path / "cache", **options)


def test_files_that_tensorflow_reads_are_used_where_they_are(photos, tmp_path):
    progress = []
    found = scanned(photos, tmp_path, progress=lambda done, all_: progress.append((done, all_)))
    assert found.files == found.images.paths
    assert (len(found), found.unreadable, found.images.targets.tolist()) == (4, (), [0, 0, 1, 1])
    assert found.name(3) == str(photos / "dog/040.png")
    assert progress == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert not (tmp_path / "cache").exists()


def test_unreadable_files_are_named_and_left_out(photos, tmp_path):
    (photos / "cat/010.png").write_bytes(b"<html>403</html>")
    (photos / "dog/broken.jpg").symlink_to(photos / "nowhere.jpg")
    (photos / "dog/folder.jpg").symlink_to(photos / "dog/folder.jpg")
    found = scanned(photos, tmp_path)
    assert [path.name for path in found.images.paths] == ["020.png", "030.png", "040.png"]
    assert found.files == found.images.paths
    assert found.images.targets.tolist() == [0, 1, 1]
    names = [error.name for error in found.unreadable]
    assert names == [
        str(photos / name) for name in ("cat/010.png", "dog/broken.jpg", "dog/folder.jpg")
    ]
    assert [error.reason for error in found.unreadable][1] == "no such file or directory"
    assert all(isinstance(error, ImageError) for error in found.unreadable)


def test_a_name_that_is_no_text_is_a_name_all_the_same(photos, tmp_path):
    (photos / "cat/010.png").rename(photos / "cat" / os.fsdecode(b"\xff.png"))
    found = scanned(photos, tmp_path)
    for each in (found, found.unheld()):
        shown = [each.load(tf.constant(i, tf.int64)) for i in range(len(each))]
        assert len(shown) == 4
    assert found.name(1) == str(photos / "cat") + "/\\udcff.png"


def test_a_name_of_several_lines_is_named_in_one(photos, tmp_path):
    (photos / "cat/a\nb.png").write_bytes(b"")
    found = scanned(photos, tmp_path)
    assert describe_unreadable(found.unreadable).endswith("a\\nb.png: the file is empty")


def test_strict_stops_at_unreadable_files(photos, tmp_path):
    (photos / "cat/010.png").write_bytes(b"")
    with pytest.raises(
        DataError, match=r"1 image cannot be read:\n.*cat/010.png: the file is empty"
    ):
        scanned(photos, tmp_path, strict=True)


def test_a_class_without_readable_images_is_refused(photos, tmp_path):
    for file in (photos / "cat").iterdir():
        file.write_bytes(b"nothing")
    with pytest.raises(
        DataError, match=r"class 'cat'; add some, or leave out the class\. 2 images cannot"
    ):
        scanned(photos, tmp_path)
    assert len(scanned(photos, tmp_path, every_class=False)) == 2
    for file in (photos / "dog").iterdir():
        file.write_bytes(b"nothing")
    with pytest.raises(DataError, match="no readable image is left in class 'cat', 'dog'"):
        scanned(photos, tmp_path, every_class=False)


def test_only_the_first_unreadable_files_are_listed():
    errors = tuple(ImageError(f"{n}.jpg", "damaged") for n in range(25))
    text = describe_unreadable(errors)
    assert text.startswith("25 images cannot be read:\n  0.jpg: damaged\n")
    assert text.endswith("9.jpg: damaged\n  ... and 15 more")


# What Pillow reads and TensorFlow does not, or reads otherwise.
FOREIGN = {
    "photo.webp": encoded(photo(), "WEBP"),
    "cmyk.jpg": encoded(Image.fromarray(photo()).convert("CMYK"), "JPEG"),
    "scan.tif": encoded(photo(), "TIFF"),
    "transparent.gif": encoded(Image.fromarray(photo()[..., 0]), "GIF", transparency=0),
    "turned.png": encoded(photo(), "PNG", exif=b"Exif\0\0" + exif_block(6)),
    "named.jpg": encoded(photo(), "JPEG2000"),
}


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("channels", [3, 4])
def test_foreign_files_are_read_from_a_copy_of_the_same_pixels(photos, tmp_path, name, channels):
    path = photos / "cat" / name
    path.write_bytes(FOREIGN[name])
    found = scanned(photos, tmp_path)
    index = found.images.paths.index(path)
    copy = found.files[index]
    assert copy.parent == tmp_path / "cache" and copy.suffix == ".png"
    assert found.name(index) == str(path)
    pixels = decode_image(copy.read_bytes(), channels).numpy()
    assert np.array_equal(pixels, read_image(path, alpha=channels == 4))
    assert path.read_bytes() == FOREIGN[name]


def test_copies_are_used_again(photos, tmp_path):
    for name, data in FOREIGN.items():
        (photos / "dog" / name).write_bytes(data)
    first = scanned(photos, tmp_path)
    copies = sorted((tmp_path / "cache").iterdir())
    assert len(copies) == len(FOREIGN)
    times = [copy.stat().st_mtime_ns for copy in copies]
    second = scanned(photos, tmp_path)
    assert second.files == first.files
    assert [copy.stat().st_mtime_ns for copy in sorted((tmp_path / "cache").iterdir())] == times


def test_a_png_that_only_pillow_forgives_is_copied(photos, tmp_path):
    damaged = bytearray(png("rgb", 8))
    damaged[damaged.index(b"IEND") + 4] ^= 0xFF  # its checksum
    path = photos / "cat/checksum.png"
    path.write_bytes(bytes(damaged))
    found = scanned(photos, tmp_path)
    file = found.files[found.images.paths.index(path)]
    assert np.array_equal(decode_image(file.read_bytes(), 3).numpy(), read_image(path))


def test_a_full_disk_is_not_blamed_on_the_image(photos, tmp_path):
    (photos / "cat/photo.webp").write_bytes(FOREIGN["photo.webp"])
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(OSError):
        scanned(photos, tmp_path)


def test_warnings_are_as_before(photos, tmp_path):
    for n in range(20):
        data = jpeg_with(segment(0xE1, b"Exif\0\0" + exif_block(6)[: 10 + n]))
        (photos / f"cat/{n}.jpg").write_bytes(data)
    before = list(warnings.filters)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        scanned(photos, tmp_path)
    assert caught == []
    assert warnings.filters == before


def test_arrays_need_no_scan(tmp_path):
    images = open_source((np.zeros((2, 4, 4), np.uint8), [0, 1])).train
    found = scan(images, tmp_path / "cache")
    assert (found.images, found.files, found.unreadable) == (images, None, ())
