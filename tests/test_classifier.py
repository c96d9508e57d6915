"""What a classifier takes, what it answers, and that its folder is whole or not there."""

import json
import shutil
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
from classifiers import LABELS, encoded, photo, small_classifier
from PIL import Image

from keras_cls.architectures import build_model
from keras_cls.classifier import Classifier, load
from keras_cls.contract import Prediction
from keras_cls.errors import ConfigError, ImageError
from keras_cls.labels import class_names
from keras_cls.preprocessing import Preprocessing
from keras_cls.weights import Provenance, akamaster, create_model


@pytest.fixture(scope="module")
def classifier():
    return small_classifier()


def test_every_kind_of_source_gives_the_same_answer(classifier, tmp_path):
    pixels = photo()
    path = tmp_path / "photo.png"
    path.write_bytes(encoded(pixels))
    sources = [path, str(path), path.read_bytes(), Image.open(path), pixels]
    rows = classifier.probabilities(sources)
    assert rows.shape == (5, 3)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows.sum(axis=1), 1, atol=1e-6)
    assert np.ptp(rows, axis=0).max() == 0


def test_one_image_is_answered_like_a_list_of_one(classifier):
    pixels = photo()
    for one in (pixels, encoded(pixels), Image.fromarray(pixels)):
        assert classifier.predict(one) == classifier.predict([one])


def test_an_array_of_rank_four_is_a_batch(classifier):
    batch = np.stack([photo(label) for label in LABELS])
    np.testing.assert_array_equal(
        classifier.probabilities(batch), classifier.probabilities(list(batch))
    )


def test_grey_arrays_of_rank_two_are_images_and_of_rank_three_batches():
    classifier = small_classifier(channels=1)
    batch = np.random.default_rng(0).integers(0, 256, (7, 12, 11), dtype=np.uint8)
    assert classifier.probabilities(batch[0]).shape == (1, 3)
    assert classifier.probabilities(batch).shape == (7, 3)


def test_predictions_are_sorted_and_carry_label_and_index(classifier):
    [row] = classifier.predict([photo()], k=2)
    assert len(row) == 2
    assert row[0].score >= row[1].score
    assert all(isinstance(p, Prediction) and LABELS[p.index] == p.label for p in row)
    assert len(classifier.predict([photo()], k=99)[0]) == 3


def test_no_images_give_no_answers(classifier):
    assert classifier.predict([]) == []
    assert classifier.probabilities([]).shape == (0, 3)


def test_more_images_than_a_batch_keep_their_order(classifier):
    images = [photo(LABELS[i % 3], seed=i) for i in range(70)]
    rows = classifier.probabilities(iter(images))
    np.testing.assert_allclose(rows[69], classifier.probabilities([images[69]])[0], atol=1e-6)


@pytest.mark.parametrize("k", [0, -1, 1.5, True, "3"])
def test_a_senseless_k_is_refused(classifier, k):
    with pytest.raises(ConfigError, match="k must be"):
        classifier.predict([photo()], k=k)


def test_a_threshold_keeps_the_classes_that_reach_it(classifier):
    wide = small_classifier(labels=[f"class {i}" for i in range(9)], multi_label=True)
    [row] = wide.probabilities([photo()])
    expected = [i for i in np.argsort(-row, kind="stable").tolist() if row[i] >= 0.5]
    assert 5 < len(expected) < 9  # more than a default of five
    [found] = wide.predict([photo()], threshold=0.5)
    assert [one.index for one in found] == expected
    assert len(wide.predict([photo()])[0]) == 5
    assert [one.index for one in wide.predict([photo()], k=2, threshold=0.5)[0]] == expected[:2]
    assert wide.predict([photo()], threshold=1) == [[]]
    assert len(wide.predict([photo()], threshold=0)[0]) == 9
    best = classifier.predict([photo()])[0][0]
    assert classifier.predict([photo()], threshold=best.score) == [[best]]


@pytest.mark.parametrize("threshold", [-0.1, 1.5, True, "0.5", float("nan")])
def test_a_senseless_threshold_is_refused(classifier, threshold):
    with pytest.raises(ConfigError, match=r"threshold must be a number in 0\.\.1"):
        classifier.predict([photo()], threshold=threshold)


def test_multi_label_probabilities_are_sigmoids_of_the_logits():
    classifier = small_classifier(multi_label=True)
    pixels = np.stack([photo(height=24, width=20)])
    prepared = ((pixels / 255 - 0.4) / 0.3).astype(np.float32)
    logits = classifier.model(prepared, training=False).numpy()
    expected = 1 / (1 + np.exp(-logits))
    np.testing.assert_allclose(classifier.probabilities_of_pixels(pixels), expected, atol=1e-5)
    assert repr(classifier) == "Classifier(small, 3 classes, multi-label, input 24x20x3)"
    assert classifier.digest() != small_classifier().digest()
    with pytest.raises(ConfigError, match="multi_label must be True or False, found 1"):
        small_classifier(multi_label=1)


def test_a_digest_is_of_weights_and_not_of_what_dropout_draws(tmp_path):
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Dropout(0.5)(keras.layers.GlobalAveragePooling2D()(inputs))
    model = keras.Model(inputs, keras.layers.Dense(2)(x))
    classifier = Classifier(model, ["a", "b"], Preprocessing(size=8))
    classifier.save(tmp_path / "saved")
    assert load(tmp_path / "saved").digest() == classifier.digest()
    before = classifier.digest()
    model.layers[-1].bias.assign([1, 0])
    assert classifier.digest() != before


def test_a_multi_label_classifier_is_saved_as_one_and_older_cards_are_single_label(tmp_path):
    folder = small_classifier(multi_label=True).save(tmp_path / "several")
    assert load(folder).multi_label is True
    card = folder / "classifier.json"
    content = json.loads(card.read_text())
    assert content["multi_label"] is True
    card.write_text(json.dumps(content | {"multi_label": "yes"}))
    with pytest.raises(ConfigError, match=r"classifier\.json: field 'multi_label' .* found 'yes'"):
        load(folder)
    del content["multi_label"]
    card.write_text(json.dumps(content))
    assert load(folder).multi_label is False


def test_one_class_that_is_there_or_not():
    classifier = small_classifier(labels=["dog"], multi_label=True)
    [[only]] = classifier.predict([photo()])
    assert only.label == "dog" and 0 < only.score < 1


def test_an_unreadable_image_is_named(classifier, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(encoded(photo(), "JPEG")[:300])
    with pytest.raises(ImageError, match=r"broken\.jpg"):
        classifier.predict([photo(), broken])
    with pytest.raises(ImageError, match=r"image 1 \(encoded image of 3 bytes\)"):
        classifier.predict([photo(), b"abc"])
    with pytest.raises(ImageError, match="NoneType"):
        classifier.predict([None])


def test_pixels_at_the_input_size_skip_resizing(classifier):
    pixels = np.stack([photo(height=24, width=20)])
    prepared = (pixels / 255 - 0.4) / 0.3
    logits = classifier.model(prepared.astype(np.float32), training=False).numpy()
    expected = np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose(classifier.probabilities_of_pixels(pixels), expected, atol=1e-5)
    with pytest.raises(ConfigError, match="expected uint8"):
        classifier.probabilities_of_pixels(pixels[:, 1:])


def test_a_registry_model_needs_no_preprocessing():
    classifier = Classifier(build_model("resnet20_cifar10", num_classes=3), LABELS)
    assert classifier.preprocessing.size == (32, 32)
    assert classifier.architecture == "resnet20_cifar10"


def test_published_weights_bring_their_classes_and_preprocessing(tmp_path):
    model = build_model("resnet20_cifar10")
    tensors = {
        origin.key: np.ones_like(np.transpose(value, np.argsort(origin.changes[0].order)))
        if origin.changes
        else np.asarray(value)
        for path, origin in akamaster.SOURCE.origins(model, None).items()
        for value in [np.asarray(next(v for v in model.variables if v.path == path))]
    }
    np.savez(tmp_path / "published.npz", **tensors)
    classifier = Classifier(create_model("resnet20_cifar10", weights=tmp_path / "published.npz"))
    assert classifier.labels == class_names("cifar10")
    assert classifier.preprocessing == akamaster.SOURCE.releases["resnet20_cifar10"].preprocessing

    larger = create_model("resnet20_cifar10", 3, (40, 36, 1), weights=tmp_path / "published.npz")
    with pytest.raises(ConfigError, match=r"name the 3 classes .*published\.npz, do not say"):
        Classifier(larger)
    assert Classifier(larger, LABELS).preprocessing.input_shape == (40, 36, 1)


def test_the_weights_own_preprocessing_is_taken(monkeypatch):
    model = build_model("resnet20_cifar10")
    rule = Preprocessing(size=(32, 32), mean=(0.5,), std=(0.5,))
    found = Provenance("elsewhere", "file.h5", rule, "cifar10")
    monkeypatch.setattr("keras_cls.classifier.provenance", {model: found}.get)
    assert Classifier(model).preprocessing == rule
    other = Preprocessing(size=(32, 32))
    assert Classifier(model, preprocessing=other).preprocessing == other
    found = Provenance("elsewhere", "file.h5", rule, "imagenet")
    monkeypatch.setattr("keras_cls.classifier.provenance", {model: found}.get)
    with pytest.raises(ConfigError, match="are for the 1000 of imagenet"):
        Classifier(model)


def test_fresh_networks_need_labels():
    with pytest.raises(ConfigError, match="name the 10 classes of 'resnet20_cifar10'"):
        Classifier(build_model("resnet20_cifar10"))


def test_a_foreign_model_must_say_how_images_are_prepared():
    model = keras.Sequential(
        [keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(3)]
    )
    with pytest.raises(ConfigError, match="preprocessing="):
        Classifier(model, LABELS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": ["a", "b"]}, "3 outputs, but there are 2 labels"),
        ({"labels": ["a", "b", "b"]}, "twice"),
        ({"labels": ["a", "b", ""]}, "entry 2"),
        ({"labels": "abc"}, "list of names"),
        ({"preprocessing": Preprocessing(size=(24, 24))}, "input is"),
        ({"preprocessing": Preprocessing(size=(24, 20), color_mode="rgba", mean=0, std=1)}, "rgba"),
        ({"preprocessing": "imagenet"}, "keras_cls.Preprocessing"),
        ({"sample": np.zeros((2, 24, 24, 3), np.uint8)}, "sample must be"),
        ({"sample": [1]}, "sample must be an array"),
        ({"metrics": {"loss": float("nan")}}, "must be finite"),
        ({"metrics": {"loss": "low"}}, "must be a number"),
    ],
)
def test_what_does_not_fit_the_model_is_refused(classifier, changes, message):
    arguments = {"labels": LABELS, "preprocessing": classifier.preprocessing, **changes}
    with pytest.raises(ConfigError, match=message):
        Classifier(classifier.model, **arguments)


def test_what_is_no_model_is_refused():
    with pytest.raises(ConfigError, match=r"must be a keras\.Model"):
        Classifier("resnet50", LABELS)
    with pytest.raises(ConfigError, match="is a path, found 5"):
        load(5)


def test_a_model_that_ends_in_a_softmax_is_refused(classifier):
    outputs = keras.layers.Softmax()(classifier.model.output)
    with pytest.raises(ConfigError, match="logits"):
        Classifier(keras.Model(classifier.model.input, outputs), LABELS, classifier.preprocessing)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_saved_classifier_loads_to_the_same_answers(tmp_path, channels):
    before = small_classifier(channels)
    before.metrics = {"val_accuracy": 0.75}
    before.sample = np.zeros((2, 24, 20, 4 if channels == 4 else 3), np.uint8)
    folder = before.save(tmp_path / "saved")
    after = load(folder)
    assert after.card() == before.card()
    np.testing.assert_array_equal(after.sample, before.sample)
    np.testing.assert_array_equal(after.probabilities(photo()), before.probabilities(photo()))
    assert sorted(f.name for f in tmp_path.iterdir()) == ["saved"]


def test_saving_replaces_a_classifier_and_nothing_else(tmp_path):
    folder = small_classifier(seed=0).save(tmp_path / "saved")
    newer = small_classifier(seed=1)
    newer.save(folder)
    np.testing.assert_array_equal(load(folder).probabilities(photo()), newer.probabilities(photo()))
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match="not a classifier's folder"):
        newer.save(mine)
    assert (mine / "thesis.txt").read_text() == "years of work"


def test_a_registry_network_loads_in_a_fresh_interpreter(tmp_path):
    model = build_model("resnet20_cifar10", num_classes=3)
    before = Classifier(model, LABELS)
    before.save(tmp_path / "saved")
    path = tmp_path / "photo.png"
    path.write_bytes(encoded(photo()))
    code = textwrap.dedent(
        f"""
        import keras_cls
        rows = keras_cls.load({str(tmp_path / "saved")!r}).probabilities([{str(path)!r}])
        print(*rows[0].tolist())
        """
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    found = [float(value) for value in printed.stdout.split()]
    np.testing.assert_allclose(found, before.probabilities([path])[0], atol=1e-6)


def damaged(folder, kind):
    card = folder / "classifier.json"
    if kind == "no card":
        card.unlink()
    elif kind == "card is no JSON":
        card.write_text("{")
    elif kind == "card is a list":
        card.write_text("[]")
    elif kind == "newer format":
        card.write_text(json.dumps(json.loads(card.read_text()) | {"format": 2}))
    elif kind == "labels missing":
        content = json.loads(card.read_text())
        del content["labels"]
        card.write_text(json.dumps(content))
    elif kind == "labels too few":
        card.write_text(json.dumps(json.loads(card.read_text()) | {"labels": ["a"]}))
    elif kind == "unknown preprocessing":
        content = json.loads(card.read_text())
        content["preprocessing"]["resize"] = "stretch"
        card.write_text(json.dumps(content))
    elif kind == "model missing":
        (folder / "model.keras").unlink()
    elif kind == "model cut short":
        data = (folder / "model.keras").read_bytes()
        (folder / "model.keras").write_bytes(data[: len(data) // 2])
    elif kind == "model is text":
        (folder / "model.keras").write_text("weights")
    elif kind == "sample is pickled":
        np.savez(folder / "sample.npz", images=np.array([{"a": 1}], dtype=object))
    return folder


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("no card", "has no classifier.json"),
        ("card is no JSON", r"classifier\.json: not valid JSON"),
        ("card is a list", r"classifier\.json: expected a JSON object"),
        ("newer format", "'format' is 2"),
        ("labels missing", "field 'labels' must be a list"),
        ("labels too few", "3 outputs, but there are 1 labels"),
        ("unknown preprocessing", "resize must be one of"),
        ("model missing", r"model\.keras: missing"),
        ("model cut short", r"model\.keras: damaged"),
        ("model is text", r"model\.keras: damaged"),
        ("sample is pickled", r"sample\.npz: damaged"),
    ],
)
def test_a_damaged_folder_is_refused_by_file_and_field(tmp_path, classifier, kind, message):
    folder = damaged(classifier.save(tmp_path / "saved"), kind)
    with pytest.raises(ConfigError, match=message) as caught:
        load(folder)
    assert str(folder) in str(caught.value)


def test_a_model_that_would_run_code_is_refused(tmp_path, classifier):
    folder = classifier.save(tmp_path / "saved")
    inputs = keras.Input((24, 20, 3))
    outputs = keras.layers.Lambda(lambda x: x[:, 0, 0, :])(inputs)
    keras.Model(inputs, outputs).save(folder / "model.keras")
    with pytest.raises(ConfigError, match=r"model\.keras: cannot be loaded"):
        load(folder)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(ConfigError, match="nowhere: no such folder"):
        load(tmp_path / "nowhere")


def test_a_run_folder_stands_for_its_best_classifier(tmp_path, classifier):
    saved = classifier.save(tmp_path / "run" / "classifier")
    assert load(tmp_path / "run").card() == classifier.card()
    shutil.rmtree(saved)
    with pytest.raises(ConfigError, match="neither"):
        load(tmp_path / "run")
