"""The SavedModel contract, through the loader that TensorFlow Serving uses."""

import json
import threading

import keras
import numpy as np
import pytest
import tensorflow as tf
from classifiers import LABELS, answers_elsewhere, encoded, photo, pixels, small_classifier
from PIL import Image
from tensorflow.python.saved_model.fingerprinting_utils import write_fingerprint

from keras_cls import contract
from keras_cls.architectures.layers import LocalResponseNormalization
from keras_cls.classifier import Classifier
from keras_cls.errors import ConfigError, ExportError
from keras_cls.exporting import export
from keras_cls.exporting.calibration_images import calibration_images, prepared_pixels
from keras_cls.exporting.verification import (
    BOUNDS,
    Bounds,
    SessionModel,
    Verification,
    _difference_of_best,
    sample_of,
)
from keras_cls.images import encode_for_graph
from keras_cls.preprocessing import Preprocessing

TENSORS = 1e-4
FILES = 1e-3


def strings(*values):
    return np.array(values, dtype=object)


@pytest.fixture(scope="module")
def classifier():
    return small_classifier()


@pytest.fixture(scope="module")
def version(classifier, tmp_path_factory):
    return export(classifier, tmp_path_factory.mktemp("models") / "colours")


@pytest.fixture(scope="module")
def run(version):
    with SessionModel(version) as session:
        yield session


def test_the_signatures_are_those_of_the_contract(run):
    found = {
        name: (
            signature.method_name,
            {
                a: (i.dtype, [d.size for d in i.tensor_shape.dim])
                for a, i in signature.inputs.items()
            },
            {
                a: (i.dtype, [d.size for d in i.tensor_shape.dim])
                for a, i in signature.outputs.items()
            },
        )
        for name, signature in run.signatures.items()
        if not name.startswith("__")
    }
    text, real, byte = (int(t.as_datatype_enum) for t in (tf.string, tf.float32, tf.uint8))
    best = {"classes": (text, [-1, 3]), "scores": (real, [-1, 3])}
    every = {"probabilities": (real, [-1, 3])}
    encoded_images = {"image_bytes": (text, [-1])}
    predict, classify = "tensorflow/serving/predict", "tensorflow/serving/classify"
    assert found == {
        "serving_default": (predict, encoded_images, best),
        "probabilities": (predict, encoded_images, every),
        "images": (predict, {"images": (byte, [-1, 24, 20, 3])}, every),
        "classify": (classify, {"inputs": (text, [-1])}, best),
    }


def test_pixels_give_the_keras_models_probabilities(run, classifier):
    pixels = np.stack([photo(label, 24, 20, seed=i) for i, label in enumerate(LABELS)])
    found = run("images", {"images": pixels})["probabilities"]
    expected = classifier.probabilities_of_pixels(pixels)
    np.testing.assert_allclose(found, expected, atol=TENSORS, rtol=0)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP"])
def test_files_give_the_keras_models_probabilities(run, classifier, kind):
    files = [encoded(photo(label, 31 + i, 57), kind) for i, label in enumerate(LABELS)]
    found = run("probabilities", {"image_bytes": strings(*files)})["probabilities"]
    np.testing.assert_allclose(found, classifier.probabilities(files), atol=FILES, rtol=0)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_graph_turns_a_phone_photo_upright(run, classifier, orientation):
    upright = Image.fromarray(np.linspace(0, 255, 48 * 64 * 3).reshape(48, 64, 3).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(np.asarray(upright), "JPEG", exif=exif, quality=95)
    found = run("probabilities", {"image_bytes": strings(data)})["probabilities"]
    np.testing.assert_allclose(found, classifier.probabilities([data]), atol=FILES, rtol=0)


def test_classes_and_scores_are_the_best_first(run, classifier):
    data = encoded(photo("green"))
    answer = run("serving_default", {"image_bytes": strings(data)})
    expected = classifier.predict([data])[0]
    assert [label.decode() for label in answer["classes"][0]] == [p.label for p in expected]
    np.testing.assert_allclose(answer["scores"][0], [p.score for p in expected], atol=FILES)


def test_classify_reads_examples(run):
    data = encoded(photo("blue"))
    feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[data]))
    example = tf.train.Example(features=tf.train.Features(feature={"image/encoded": feature}))
    by_example = run("classify", {"inputs": strings(example.SerializeToString())})
    by_bytes = run("serving_default", {"image_bytes": strings(data)})
    np.testing.assert_array_equal(by_example["classes"], by_bytes["classes"])
    np.testing.assert_array_equal(by_example["scores"], by_bytes["scores"])


def test_an_empty_batch_gets_an_empty_answer(run):
    assert run("probabilities", {"image_bytes": strings()})["probabilities"].shape == (0, 3)
    pixels = np.zeros((0, 24, 20, 3), np.uint8)
    assert run("images", {"images": pixels})["probabilities"].shape == (0, 3)


@pytest.mark.parametrize(
    "data", [b"", b"x", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM"]
)
def test_what_is_no_image_is_an_invalid_argument(run, data):
    with pytest.raises(tf.errors.InvalidArgumentError):
        run("probabilities", {"image_bytes": strings(data)})


def unchecked(version, signature, alias, value):
    """Feed past Python's own shape check, as the C++ server does: by a wrongly typed graph."""
    graph = tf.Graph()
    with graph.as_default(), tf.compat.v1.Session(graph=graph) as session:
        meta = tf.compat.v1.saved_model.loader.load(session, ["serve"], str(version))
        definition = meta.signature_def[signature]
        name = definition.inputs[alias].name.split(":")[0]
        placeholder = graph.get_operation_by_name(name)
        placeholder.outputs[0]._shape_val = tf.TensorShape(None)
        call = session.make_callable(
            [info.name for info in definition.outputs.values()], [f"{name}:0"]
        )
        return call(value)


@pytest.mark.parametrize("shape", [(24, 20, 3), (1, 23, 20, 3), (1, 24, 20, 1), (24,)])
def test_a_wrong_rank_or_shape_is_an_error_and_not_the_end_of_the_process(version, shape):
    with pytest.raises(tf.errors.InvalidArgumentError):
        unchecked(version, "images", "images", np.zeros(shape, np.uint8))


@pytest.mark.parametrize("signature", ["serving_default", "probabilities"])
def test_encoded_images_of_a_wrong_rank_are_an_error(version, signature):
    for value in (np.array(b"x", dtype=object), strings(b"x")[None]):
        with pytest.raises(tf.errors.InvalidArgumentError):
            unchecked(version, signature, "image_bytes", value)


@pytest.mark.parametrize("channels", [1, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "resize", [pytest.param("shorter", marks=pytest.mark.slow), "squash", "pad"]
)
def test_grayscale_and_rgba_networks_export_too(tmp_path, channels, resize):
    classifier = small_classifier(channels, resize=resize, crop=0.9)
    pixels = np.dstack([photo(), np.linspace(0, 255, 2000).reshape(40, 50).astype(np.uint8)])
    files = [encoded(pixels), encoded(photo(), "JPEG"), encoded(photo()[..., 0])]
    with SessionModel(export(classifier, tmp_path / "m")) as run:
        found = run("probabilities", {"image_bytes": strings(*files)})["probabilities"]
    np.testing.assert_allclose(found, classifier.probabilities(files), atol=FILES, rtol=0)


def test_what_the_graph_cannot_read_goes_through_the_clients_encoding(run, classifier):
    webp = encoded(photo(), "WEBP", lossless=True)
    with pytest.raises(tf.errors.InvalidArgumentError, match="not a JPEG, PNG, GIF or BMP"):
        run("probabilities", {"image_bytes": strings(webp)})
    found = run("probabilities", {"image_bytes": strings(encode_for_graph(webp))})["probabilities"]
    np.testing.assert_allclose(found, classifier.probabilities([webp]), atol=FILES, rtol=0)


def test_the_version_holds_warmup_records_and_a_card(version, run, classifier):
    from tensorflow_serving.apis import prediction_log_pb2

    records = list(tf.data.TFRecordDataset(str(version / contract.WARMUP_FILE)).as_numpy_iterator())
    requests = [prediction_log_pb2.PredictionLog.FromString(r).predict_log.request for r in records]
    assert [r.model_spec.signature_name for r in requests] == [
        "serving_default",
        "probabilities",
        "images",
    ]
    for request in requests:
        assert request.model_spec.name == "colours"
        inputs = {alias: tf.make_ndarray(proto) for alias, proto in request.inputs.items()}
        assert run(request.model_spec.signature_name, inputs)
    card = json.loads((version / "card.json").read_text())
    assert card["labels"] == LABELS
    assert card["preprocessing"] == classifier.preprocessing.to_dict()
    assert card["verification"]["within_bounds"] is True
    assert card["verification"]["source"] == "synthetic images"


def test_the_fingerprint_is_that_of_the_file(version, tmp_path):
    """Not of what TensorFlow wrote, before numbers and methods were put in."""
    graph = tmp_path / contract.MODEL_FILE
    graph.write_bytes((version / contract.MODEL_FILE).read_bytes())
    write_fingerprint(str(tmp_path))
    read = tf.saved_model.experimental.read_fingerprint
    found, wanted = read(str(version)), read(str(tmp_path))
    assert found.saved_model_checksum == wanted.saved_model_checksum
    assert found.graph_def_program_hash == wanted.graph_def_program_hash


def bytes_in(folder):
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def test_grouped_convolutions_run_where_onednn_is_off(tmp_path):
    """As it is by default on processors without VNNI: the optimizer then joins other operations."""
    inputs = keras.Input((24, 20, 3))
    x = keras.layers.Conv2D(8, 5, strides=2, activation="relu")(inputs)
    x = LocalResponseNormalization()(x)
    x = keras.layers.Conv2D(8, 3, groups=2, bias_initializer="ones", activation="relu")(x)
    model = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Flatten()(x)))
    classifier = Classifier(model, LABELS, Preprocessing(size=(24, 20)))
    version = export(classifier, tmp_path / "m")
    found = answers_elsewhere(version, pixels(), TF_ENABLE_ONEDNN_OPTS="0")
    wanted = classifier.probabilities_of_pixels(pixels())
    np.testing.assert_allclose(found, wanted, atol=TENSORS)


def test_numbers_are_stored_once_and_halved_in_bfloat16(tmp_path):
    classifier = small_classifier(size=(96, 80))
    wide = keras.Sequential([keras.Input((96, 80, 3)), keras.layers.Flatten()])
    wide.add(keras.layers.Dense(40, name="hidden"))
    wide.add(keras.layers.Dense(3, name="logits"))
    classifier = Classifier(wide, LABELS, classifier.preprocessing)
    numbers = wide.count_params()
    assert numbers > 900_000
    in_float32 = bytes_in(export(classifier, tmp_path / "m"))
    in_bfloat16 = bytes_in(export(classifier, tmp_path / "m", precision="bfloat16"))
    assert 4 * numbers < in_float32 < 4 * numbers + 700_000
    assert 2 * numbers < in_bfloat16 < 2 * numbers + 700_000


class Doubled(keras.layers.Layer):
    """What no lowering knows."""

    def call(self, inputs):
        return 2 * inputs


def of_unknown_layers():
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.GlobalAveragePooling2D()(Doubled(name="doubled")(inputs))
    model = keras.Model(inputs, keras.layers.Dense(3, name="logits")(x))
    return Classifier(model, LABELS, Preprocessing(size=8, mean=0.4, std=0.3))


def test_an_unknown_layer_is_exported_as_keras_runs_it(tmp_path):
    classifier = of_unknown_layers()
    version = export(classifier, tmp_path / "m")
    card = json.loads((version / "card.json").read_text())
    assert card["export"]["folded"] is False and "doubled" in card["export"]["unfolded"]
    pixels = np.stack([photo(label, 8, 8) for label in LABELS])
    with SessionModel(version) as run:
        found = run("images", {"images": pixels})["probabilities"]
    expected = classifier.probabilities_of_pixels(pixels)
    np.testing.assert_allclose(found, expected, atol=TENSORS, rtol=0)


def test_in_bfloat16_an_unknown_layer_is_refused_by_name(tmp_path):
    with pytest.raises(ExportError, match="doubled: a layer of type Doubled"):
        export(of_unknown_layers(), tmp_path / "m", precision="bfloat16")
    assert not (tmp_path / "m").exists()


def test_in_bfloat16_the_answers_are_close_and_float32(classifier, tmp_path):
    version = export(classifier, tmp_path / "m", precision="bfloat16")
    card = json.loads((version / "card.json").read_text())
    assert card["export"] == {"format": "saved_model", "precision": "bfloat16", "folded": True}
    pixels = np.stack([photo(label, 24, 20, seed=i) for i, label in enumerate(LABELS)])
    with SessionModel(version) as run:
        found = run("images", {"images": pixels})["probabilities"]
    expected = classifier.probabilities_of_pixels(pixels)
    assert found.dtype == np.float32
    difference = np.abs(found - expected).max()
    assert 1e-6 < difference < 0.02, "computed in less than float32, and yet close"


def test_versions_count_up_from_the_highest(classifier, tmp_path):
    model = tmp_path / "m"
    for name in ("1", "7", "notes"):
        (model / name).mkdir(parents=True)
    assert export(classifier, model).name == "8"
    assert sorted(p.name for p in model.iterdir()) == ["1", "7", "8", "notes"]


@pytest.mark.slow
def test_exports_at_the_same_time_get_numbers_of_their_own(classifier, tmp_path):
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(export(classifier, tmp_path / "m").name))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == ["1", "2", "3"]


def test_an_export_that_disagrees_is_not_published(classifier, tmp_path, monkeypatch):
    monkeypatch.setitem(BOUNDS, "float32", Bounds(-1.0, -1.0, -1.0, -1.0))
    with pytest.raises(ExportError, match="does not agree"):
        export(classifier, tmp_path / "m")
    assert list((tmp_path / "m").iterdir()) == []
    version = export(classifier, tmp_path / "m", verify="report")
    card = json.loads((version / "card.json").read_text())
    assert card["verification"]["within_bounds"] is False


def test_a_network_that_gives_nan_is_not_published(tmp_path):
    classifier = small_classifier()
    kernel = classifier.model.get_layer("logits").kernel
    kernel.assign(np.full(kernel.shape, np.nan, np.float32))
    count = f"{np.prod(kernel.shape):,}"
    with pytest.raises(ExportError, match=f"logits/kernel: {count} of {count} numbers are not fin"):
        export(classifier, tmp_path / "m")
    with pytest.raises(ExportError, match="not finite"):
        export(classifier, tmp_path / "m", precision="int8", verify="report")
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize("precision", ["float32", pytest.param("int8", marks=pytest.mark.slow)])
def test_answers_beyond_all_numbers_are_not_published(tmp_path, precision):
    classifier = small_classifier()
    for name in ("conv1", "logits"):
        kernel = classifier.model.get_layer(name).kernel
        kernel.assign(np.full(kernel.shape, 1e30, np.float32))
    with pytest.raises(ExportError, match="nan"):
        export(classifier, tmp_path / "m", precision=precision, calibration=pixels(20))


def test_a_wrong_name_for_a_score_is_found():
    expected = np.float32([[0.5, 0.3, 0.2]])
    scores = np.float32([[0.5, 0.3, 0.2]])
    for classes, difference in ([b"a", b"b", b"c"], 0), ([b"b", b"a", b"c"], 0.2):
        answer = {"classes": np.array([classes], dtype=object), "scores": scores}
        found = _difference_of_best(answer, expected, ["a", "b", "c"])
        assert found == pytest.approx(difference)


def test_nan_is_never_within_bounds():
    found = Verification(
        images=1,
        source="",
        tensor_difference=float("nan"),
        tensor_bound=TENSORS,
        encoded_difference=0.0,
        encoded_bound=FILES,
        mean_difference=0.0,
        mean_bound=TENSORS,
        relative_difference=0.0,
        relative_bound=TENSORS,
        same_class=1.0,
    )
    assert not found.within_bounds
    assert found.to_dict()["tensor_difference"] is None


def test_the_kept_sample_is_what_is_verified_on(classifier):
    kept = np.zeros((2, 24, 20, 3), np.uint8)
    classifier = small_classifier()
    classifier.sample = kept
    sample = sample_of(classifier, None)
    assert sample.pixels is kept
    assert "sample" in sample.source


def test_what_was_not_calibrated_with_is_verified_too():
    classifier = small_classifier()
    classifier.sample = pixels(3)
    given = prepared_pixels(classifier, pixels(20), "photos/")
    sample = sample_of(classifier, given)
    assert len(sample.pixels) == 23
    assert sample.source == "photos/ and the sample kept with the classifier"
    assert len(sample_of(classifier, calibration_images(classifier, None)).pixels) == 3


def test_a_saved_classifier_can_be_named_by_its_folder(classifier, tmp_path):
    classifier.save(tmp_path / "saved")
    assert export(tmp_path / "saved", tmp_path / "m") == tmp_path / "m" / "1"


def test_senseless_arguments_are_refused(classifier, tmp_path):
    with pytest.raises(ConfigError, match="format must be one of saved_model, litert"):
        export(classifier, tmp_path, format="onnx")
    with pytest.raises(ConfigError, match="verify must be"):
        export(classifier, tmp_path, verify="maybe")
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(ExportError, match="file"):
        export(classifier, file)
