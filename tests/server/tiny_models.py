"""SavedModels that load in a twentieth of a second, to be swapped, spoiled and copied slowly."""

import shutil
import time
from pathlib import Path

import tensorflow as tf


class Scale(tf.Module):
    """y = factor * x, and a wait of some seconds that is counted from the first."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = tf.Variable(float(factor))

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def scaled(self, x):
        return {"y": self.factor * x}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def slowly(self, x):
        end = tf.timestamp() + tf.cast(tf.reduce_max(x), tf.float64)
        tf.while_loop(lambda: tf.timestamp() < end, lambda: (), ())
        with tf.control_dependencies([end]):
            return {"y": self.factor * x}


def save_tiny_model(folder: Path, factor: float) -> Path:
    """Save it beside its place and move it there, as a careful publisher does."""
    model = Scale(factor)
    signatures = {"serving_default": model.scaled, "slowly": model.slowly}
    beside = folder.with_name(f"tmp-{folder.name}")
    tf.saved_model.save(model, str(beside), signatures=signatures)
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside.rename(folder)
    return folder


def copy_slowly(source: Path, target: Path, pause: float, order=sorted) -> None:
    """Copy a version's files, each in three pieces, with pauses; in place, as `cp -r` does."""
    for path in order(path for path in source.rglob("*") if path.is_file()):
        content = path.read_bytes()
        place = target / path.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        third = len(content) // 3 + 1
        with place.open("wb") as file:
            for start in range(0, len(content) + 1, third):
                file.write(content[start : start + third])
                file.flush()
                time.sleep(pause)
        shutil.copystat(path, place)  # as `cp -p` does: the old time of change


def models_text(**paths: Path) -> str:
    """A model config file's text; the values are base paths, or text that goes in with them."""
    configs = []
    for name, path in paths.items():
        path, more = path if isinstance(path, tuple) else (path, "")
        configs.append(
            f'config {{ name: "{name}" base_path: "{path}" model_platform: "tensorflow" {more} }}'
        )
    return "model_config_list { " + "\n".join(configs) + " }"
