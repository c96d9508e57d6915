"""What the exporter, the server and the client agree on: names, tensors, protocol messages.

A model is a folder ``NAME/VERSION/`` that holds ``saved_model.pb``. Its signatures are:

================== =============================== ===============================================
signature          input                           outputs
================== =============================== ===============================================
serving_default    image_bytes: string ``[N]``     classes: string ``[N, k]``,
                                                   scores: float32 ``[N, k]``, best first
probabilities      image_bytes: string ``[N]``     probabilities: float32 ``[N, C]``
images             images: uint8 ``[N, H, W, 3]``  probabilities: float32 ``[N, C]``
classify           inputs: string ``[N]``,         classes, scores, as in serving_default
                   serialized ``tf.Example``
================== =============================== ===============================================

This room needs NumPy and protobuf only: no TensorFlow, no Keras.
"""

from dataclasses import dataclass

SIGNATURE_DEFAULT = "serving_default"
SIGNATURE_PROBABILITIES = "probabilities"
SIGNATURE_IMAGES = "images"
SIGNATURE_CLASSIFY = "classify"

INPUT_IMAGE_BYTES = "image_bytes"
INPUT_IMAGES = "images"
INPUT_EXAMPLES = "inputs"
EXAMPLE_IMAGE_KEY = "image/encoded"
"""The feature of a ``tf.Example`` that holds the encoded image, for the classify signature."""

OUTPUT_CLASSES = "classes"
OUTPUT_SCORES = "scores"
OUTPUT_PROBABILITIES = "probabilities"

METHOD_PREDICT = "tensorflow/serving/predict"
METHOD_CLASSIFY = "tensorflow/serving/classify"
METHOD_REGRESS = "tensorflow/serving/regress"

SERVE_TAG = "serve"
MODEL_FILE = "saved_model.pb"
LITE_FILE = "model.tflite"  # what TensorFlow Serving looks for with --prefer_tflite_model
WARMUP_FILE = "assets.extra/tf_serving_warmup_requests"

TOP_K = 5
"""How many classes ``serving_default`` and ``classify`` answer with, where there are as many."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """One class of an answer.

    ``index`` is the class's place in the model's list of labels; a client, which is told labels
    and scores only, does not know it: None.
    """

    label: str
    index: int | None
    score: float
