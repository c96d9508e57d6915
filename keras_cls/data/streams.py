"""What the pipeline reads, whatever it comes from."""

from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
import tensorflow as tf

Example: TypeAlias = tuple[tf.Tensor, tf.Tensor]
"""(image, target), or a batch of them."""


class ImageStream(Protocol):
    """What the pipeline reads: labelled images that come in an order of their own making.

    An *item* is a tuple of tensors that stands for an image: its index, or what was read of it. If
    its first tensor is an int64 scalar, that is the image's index.
    """

    @property
    def labels(self) -> tuple[str, ...]:
        """The class names, of all C."""

    @property
    def counts(self) -> np.ndarray:
        """int64 [C], images of each class."""

    @property
    def multi_label(self) -> bool:
        """Whether an image may have several classes, or none."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """What messages call an image."""

    def in_order(self) -> tf.data.Dataset:
        """Every item once, in a fixed order."""

    def shuffled(
        self, seed: int, per_epoch: int, first: int, balanced: bool = False
    ) -> tf.data.Dataset:
        """Endless items: epoch after epoch, each in a new order, from seed and epoch alone.

        Args:
            seed: what the orders are drawn from.
            per_epoch: places of an epoch, ``len(self)`` or more; those beyond the last image show
                images of the same epoch again.
            first: where to begin, counted in places from the beginning of epoch 0.
            balanced: show every class equally often.
        """

    def load(self, *item: tf.Tensor) -> Example:
        """Item -> (image, target).

        The image is uint8 [h, w, 1 | 3 | 4], the last axis known beforehand, or a scalar string of
        encoded bytes; the target an int64 scalar, or, multi-label, float32 [C] of zeros and ones.
        """


@runtime_checkable
class HeldStream(ImageStream, Protocol):
    """A stream of indices that may hold its images in memory, decoded."""

    # A method, as isinstance() looks at a protocol's properties, which would decode all images.
    def is_held(self) -> bool:
        """Whether all images are in memory, decoded; where that is still to be done, it is done."""

    def pixel_table(self) -> tf.Tensor | None:
        """uint8 [N, h, w, 1 | 3 | 4] where all are held and have one size, else None."""

    def target_table(self) -> tf.Tensor:
        """The targets of all, int64 [N] or float32 [N, C]."""

    def unheld(self) -> "HeldStream":
        """The same images, read anew each time where they are files."""
