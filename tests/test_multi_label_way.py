"""Images of several classes all the way: a manifest, training, evaluation, export, server, client.

The network is fitted by Keras itself here: how train() does it is tested with it.
"""

import json

import keras
import numpy as np
import pytest
from classifiers import LABELS, encoded, photo, small_classifier

import keras_cls
from keras_cls.data.sources import open_source, split
from keras_cls.exporting.verification import BOUNDS, SessionModel

SIDE = 24


def picture(row, seed):
    """Each class that is shown has a band of its colour, of varying width."""
    generator = np.random.default_rng(seed)
    pixels = photo("blue", SIDE, SIDE, seed) // 6
    for place, (label, shown) in enumerate(zip(LABELS, row, strict=True)):
        if shown:
            start, height = 8 * place + generator.integers(0, 3), generator.integers(3, 6)
            pixels[start : start + height] = photo(label, height, SIDE, seed)
    return pixels


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """60 training and 24 validation images; some show all classes, some none."""
    folder = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(0)
    lines = []
    for number in range(84):
        row = generator.random(3) < 0.4
        (folder / f"{number}.png").write_bytes(encoded(picture(row, number)))
        names = [label for label, shown in zip(LABELS, row, strict=True) if shown]
        part = "train" if number < 60 else "val"
        lines.append(json.dumps({"file": f"{number}.png", "label": names, "split": part}))
    (folder / "labels.jsonl").write_text("\n".join(lines))
    return folder / "labels.jsonl"


@pytest.fixture(scope="module")
def classifier(manifest):
    images = open_source(manifest).train
    untrained = small_classifier(size=(SIDE, SIDE), multi_label=True)
    pixels = np.stack([picture(row, int(path.stem)) for path, row in pairs(images)])
    prepared = (pixels.astype(np.float32) / 255 - 0.4) / 0.3
    model = untrained.model
    model.get_layer("conv1_bn").momentum = 0.8  # the run is short
    model.compile(keras.optimizers.Adam(0.01), keras.losses.BinaryCrossentropy(from_logits=True))
    model.fit(prepared, images.targets, epochs=30, batch_size=20, verbose=0)
    return keras_cls.Classifier(model, LABELS, untrained.preprocessing, multi_label=True)


def pairs(images):
    return zip(images.paths, images.targets, strict=True)


def test_what_was_learnt_is_measured_on_the_validation_part(classifier, manifest):
    found = keras_cls.evaluate(classifier, manifest)
    assert found.images == 24
    assert found.mean_average_precision > 0.95
    assert found.exact_match > 0.8


def test_several_classes_are_served_as_they_are_predicted(classifier, manifest, tmp_path):
    assert {row.sum() for row in open_source(manifest).train.targets} == {0, 1, 2, 3}
    version = keras_cls.export(classifier.save(tmp_path / "colours"), tmp_path / "models/colours")
    card = json.loads((version / "card.json").read_text())
    assert card["multi_label"] is True and card["verification"]["within_bounds"] is True
    files = sorted(manifest.parent.glob("6*.png"))
    predicted = classifier.probabilities(files)
    with SessionModel(version) as graph:
        data = np.array([file.read_bytes() for file in files], dtype=object)
        in_graph = graph("probabilities", {"image_bytes": data})["probabilities"]
    np.testing.assert_allclose(in_graph, predicted, atol=BOUNDS["float32"].encoded, rtol=0)
    with (
        keras_cls.ModelServer(version.parent, host="127.0.0.1", port=0) as server,
        keras_cls.Client(server.address, model="colours", timeout=60) as client,
    ):
        answered, best = client.probabilities(files), client.classify(files)
    np.testing.assert_allclose(answered, predicted, atol=BOUNDS["float32"].encoded, rtol=0)
    assert abs(answered.sum(axis=1) - 1).max() > 0.5  # no softmax on the way
    for row, expected in zip(best, classifier.predict(files), strict=True):
        assert [one.label for one in row] == [one.label for one in expected]
        np.testing.assert_allclose(
            [one.score for one in row],
            [one.score for one in expected],
            atol=BOUNDS["float32"].encoded,
        )


def test_a_share_held_out_has_every_class(manifest):
    train, validation = split(open_source(manifest).train, 0.2, 0)
    assert (train.counts > 0).all() and (validation.counts > 0).all()
