"""The layers that the networks need and Keras lacks, registered for ``keras.saving``."""

from typing import Any

import keras


@keras.saving.register_keras_serializable(package="keras_cls")
class ZeroPadChannels(keras.layers.Layer):
    """Adds channels of zeros: [N, H, W, C] -> [N, H, W, before + C + after], any float dtype.

    Args:
        before: how many channels of zeros come first.
        after: how many come last.
    """

    def __init__(self, before: int, after: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.before = before
        self.after = after

    def call(self, inputs: Any) -> Any:
        """Pad the last axis."""
        return keras.ops.pad(inputs, ((0, 0), (0, 0), (0, 0), (self.before, self.after)))

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Only the last axis grows."""
        *rest, channels = input_shape
        return (*rest, None if channels is None else self.before + channels + self.after)

    def get_config(self) -> dict[str, Any]:
        """What ``__init__`` takes."""
        return {**super().get_config(), "before": self.before, "after": self.after}
