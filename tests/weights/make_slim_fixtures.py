"""Make the fixtures slim-*.json.gz of tests/weights/fixtures with TF-slim itself.

    python tests/weights/make_slim_fixtures.py SLIM FOLDER [NETWORK...]

SLIM is the folder research/slim of github.com/tensorflow/models, for nets/inception_v4.py,
inception_resnet_v2.py and nasnet/; Inception v3 and VGG come with tf_slim. In an environment of
its own, on the CPU:

    pip install tensorflow-cpu==2.15.1 tf_keras==2.15.1 tf_slim==1.1.0

Each network is built for inference, with 1,001 classes (VGG: 1,000), at one or two image sizes;
its weights are drawn by the rule of drawn_slim_weights.py. Written are the versions, every
variable's name and shape, the logits, and at the published size, where the auxiliary heads have the
published shapes, their logits as well.
"""

import gzip
import json
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import tensorflow
import tf_slim
from tf_slim.nets import inception_v3, vgg

sys.path.insert(0, str(Path(__file__).parent))
from drawn_slim_weights import draw, draw_images

tf = tensorflow.compat.v1
# Of images [1, h, w, 3], and whether the auxiliary head is wanted: logits, and its logits or None.
Build = Callable[[tensorflow.Tensor, bool], tuple[tensorflow.Tensor, tensorflow.Tensor | None]]


class HParams(SimpleNamespace):
    """What the nets use of tf.contrib.training.HParams."""

    def set_hparam(self, name: str, value: object) -> None:
        setattr(self, name, value)


def provide_contrib() -> None:
    """The nets were written for TensorFlow 1 with its contrib, where slim lived."""
    parts = {
        "slim": tf_slim,
        "framework": tf_slim,
        "layers": tf_slim,
        "training": SimpleNamespace(HParams=HParams),
    }
    contrib = ModuleType("tensorflow.contrib")
    for name, part in parts.items():
        setattr(contrib, name, part)
    tf.contrib = contrib
    sys.modules.update({"tensorflow": tf, "tensorflow.contrib": contrib})
    # TensorFlow 2.15 looks for the layers that slim wraps where tf_keras does not have them.
    for name in ("base", "convolutional", "core", "normalization", "pooling"):
        layers = import_module(f"tf_keras.src.legacy_tf_layers.{name}")
        sys.modules[f"tf_keras.legacy_tf_layers.{name}"] = layers
    sys.modules["tf_keras.legacy_tf_layers"] = import_module("tf_keras.src.legacy_tf_layers")


def inception(module: ModuleType, name: str) -> Build:
    def build(images, aux):
        with tf_slim.arg_scope(getattr(module, f"{name}_arg_scope")()):
            logits, ends = getattr(module, name)(
                images, 1001, is_training=False, create_aux_logits=aux
            )
        return logits, ends.get("AuxLogits")

    return build


def cells(module: str, name: str, scope: str, cell: int, classes: int = 1001) -> Build:
    """``cell`` is the one that the auxiliary head reads; slim builds it for training alone."""
    nasnet = import_module("nets.nasnet.nasnet")
    nets = import_module(f"nets.nasnet.{module}")
    hparams = HParams(data_format="NHWC", use_bounded_activation=False)

    def build(images, aux):
        with tf_slim.arg_scope(getattr(nets, scope)()):
            logits, ends = getattr(nets, name)(images, classes, is_training=False)
            if aux:
                with tf_slim.arg_scope([tf_slim.batch_norm], is_training=False):
                    read = tf.nn.relu(ends[f"Cell_{cell}"])
                    nasnet._build_aux_head(read, ends, classes, hparams, scope=f"aux_{cell}")
        return logits, ends.get("AuxLogits")

    return build


def vgg_of(name: str) -> Build:
    def build(images, aux):
        with tf_slim.arg_scope(vgg.vgg_arg_scope()):
            return getattr(vgg, name)(images, 1000, is_training=False)[0], None

    return build


def networks() -> dict[str, tuple[Build, list[tuple[int, int]]]]:
    """Our name -> how slim builds it, and the image sizes, the published one first."""
    large, small = [(331, 331), (151, 180)], [(224, 224), (97, 130)]
    return {
        "inception_v3": (inception(inception_v3, "inception_v3"), [(299, 299), (151, 180)]),
        **{
            name: (inception(import_module(f"nets.{name}"), name), [(299, 299), (151, 180)])
            for name in ("inception_v4", "inception_resnet_v2")
        },
        "nasnet_cifar10": (
            cells("nasnet", "build_nasnet_cifar", "nasnet_cifar_arg_scope", 11, classes=10),
            [(32, 32), (23, 30)],
        ),
        "nasnet_mobile": (
            cells("nasnet", "build_nasnet_mobile", "nasnet_mobile_arg_scope", 7),
            small,
        ),
        "nasnet_large": (
            cells("nasnet", "build_nasnet_large", "nasnet_large_arg_scope", 11),
            large,
        ),
        "pnasnet5_mobile": (
            cells("pnasnet", "build_pnasnet_mobile", "pnasnet_mobile_arg_scope", 5),
            small,
        ),
        "pnasnet5_large": (
            cells("pnasnet", "build_pnasnet_large", "pnasnet_large_arg_scope", 7),
            large,
        ),
        "vgg16": (vgg_of("vgg_16"), [(224, 224)]),
        "vgg19": (vgg_of("vgg_19"), [(224, 224)]),
    }


def run(build: Build, height: int, width: int, aux: bool) -> tuple[dict, list[np.ndarray]]:
    """The variables' shapes by name, and the logits [classes] of each head."""
    with tf.Graph().as_default(), tf.Session() as session:
        images = tf.placeholder(tf.float32, (1, height, width, 3))
        heads = [head for head in build(images, aux) if head is not None]
        variables = {variable.op.name: variable for variable in tf.global_variables()}
        # In one run: of the cells' more than a thousand variables, each in its own takes an hour.
        session.run(
            [variable.initializer for variable in variables.values()],
            {
                variable.initializer.inputs[1]: draw(name, tuple(variable.shape.as_list()))
                for name, variable in variables.items()
            },
        )
        found = session.run(heads, {images: draw_images(height, width)})
    shapes = {name: variable.shape.as_list() for name, variable in variables.items()}
    return shapes, [head.reshape(-1) for head in found]


def fixture(build: Build, sizes: list[tuple[int, int]]) -> dict:
    shapes: dict = {}
    logits: dict = {}
    aux_logits: dict = {}
    for number, (height, width) in enumerate(sizes):
        found, heads = run(build, height, width, aux=number == 0)
        shapes = shapes or found
        for kept, head in zip((logits, aux_logits), heads, strict=False):
            kept[f"{height}x{width}"] = [float(f"{value:.7g}") for value in head.tolist()]
            print(f"  {height}x{width}: {np.abs(head).max():.3f}", flush=True)
    return {
        "source": "tf-slim",
        "versions": {name: version(name) for name in ("tensorflow-cpu", "tf_slim")},
        "tensors": shapes,
        "logits": logits,
        "aux_logits": aux_logits,
    }


def main(slim: str, folder: Path, *wanted: str) -> None:
    sys.path.insert(0, slim)
    provide_contrib()
    folder.mkdir(parents=True, exist_ok=True)
    for name, (build, sizes) in networks().items():
        if not wanted or name in wanted:
            print(name, flush=True)
            data = json.dumps(fixture(build, sizes), separators=(",", ":")).encode()
            (folder / f"slim-{name}.json.gz").write_bytes(gzip.compress(data, mtime=0))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
