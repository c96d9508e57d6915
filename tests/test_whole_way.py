"""Single photos all the way: Classifier.predict, the exported graph, and an answer by gRPC."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from classifiers import encoded, photo

import keras_cls
from keras_cls.errors import ImageError
from keras_cls.exporting.verification import BOUNDS, SessionModel
from keras_cls.images import encode_for_graph, read_image

ENCODED_BOUND = BOUNDS["float32"].encoded


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A ResNet-18 whose answers differ from image to image, exported and served."""
    keras.utils.set_random_seed(0)
    model = keras_cls.create_model("resnet18", num_classes=20)
    # Fresh weights answer every image alike. Standardized over some images, they tell them apart.
    coarse = np.random.default_rng(0).normal(size=(48, 6, 6, 3))
    logits = model.predict(tf.image.resize(coarse, (224, 224)), verbose=0)
    head = model.get_layer("logits")
    head.kernel.assign(2 * head.kernel / logits.std(axis=0))
    head.bias.assign(-2 * logits.mean(axis=0) / logits.std(axis=0))
    classifier = keras_cls.Classifier(model, [f"class {i:02d}" for i in range(20)])
    version = keras_cls.export(classifier, tmp_path_factory.mktemp("models") / "photos")
    with (
        SessionModel(version) as graph,
        keras_cls.ModelServer(version.parent, host="127.0.0.1", port=0) as server,
        keras_cls.Client(server.address, model="photos", timeout=60) as client,
    ):
        yield classifier, graph, client


def graph_answer(graph, data):
    """Probabilities of one file, or None where the graph refuses it."""
    try:
        answer = graph("probabilities", {"image_bytes": np.array([data], dtype=object)})
    except tf.errors.InvalidArgumentError:
        return None
    return answer["probabilities"][0]


def hold_together(served, paths):
    """Compare the three answers for each file; the largest difference of a probability."""
    classifier, graph, client = served
    predicted = classifier.probabilities(paths)
    answered = client.probabilities(paths)
    best = client.classify(paths)
    np.testing.assert_allclose(answered, predicted, atol=ENCODED_BOUND, rtol=0)
    for path, row, first in zip(paths, predicted, best, strict=True):
        assert first[0].label == classifier.labels[row.argmax()], path
        data = path.read_bytes()
        if encode_for_graph(path) != data:
            continue  # the client sends it as a PNG
        in_graph = graph_answer(graph, data)
        if in_graph is not None:
            np.testing.assert_allclose(in_graph, row, atol=ENCODED_BOUND, rtol=0, err_msg=path.name)
            assert in_graph.argmax() == row.argmax(), path
    assert len({row.argmax() for row in predicted}) > 1, "every photo gets the same answer"
    return float(np.abs(answered - predicted).max())


@pytest.mark.slow
def test_generated_photos(served, tmp_path):
    paths = []
    for number, (kind, suffix) in enumerate(
        [("JPEG", "jpg"), ("PNG", "png"), ("WEBP", "webp"), ("TIFF", "tif"), ("GIF", "gif")]
    ):
        for label in ("blue", "green", "red"):
            pixels = photo(label, 300 + 40 * number, 280, seed=number)
            paths.append(tmp_path / f"{label}.{suffix}")
            paths[-1].write_bytes(encoded(pixels, kind))
    hold_together(served, paths)


@pytest.mark.slow
@pytest.mark.data
def test_the_full_size_gallery_photos(served, data_dir):
    paths = sorted((data_dir / "gallery" / "photos").glob("*.jpg"))
    assert len(paths) == 250
    assert hold_together(served, paths) <= ENCODED_BOUND


@pytest.mark.data
def test_the_readable_odd_images(served, data_dir):
    folder = data_dir / "odd_images"
    entries = json.loads((folder / "manifest.json").read_text())["images"]
    readable = []
    for entry in entries:
        try:
            read_image(folder / entry["file"])
        except ImageError as error:
            assert entry["file"] in str(error)
            with pytest.raises(ImageError, match=entry["file"].replace(".", r"\.")):
                served[2].classify([folder / entry["file"]])
        else:
            readable.append(folder / entry["file"])
    assert len(readable) >= 60
    assert hold_together(served, readable) <= ENCODED_BOUND
