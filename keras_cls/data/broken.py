"""Images that could be read when the data was opened, and cannot be any more."""

from collections.abc import Mapping

import tensorflow as tf

from keras_cls.data.streams import ImageStream

_NAMED = 10
UNKNOWN = -1


class BrokenImages:
    """A tally that a pipeline keeps while it runs: which images it could not read, how often.

    A pipeline prepares batches ahead, so that it may know of an image before its batch is used.
    """

    def __init__(self) -> None:
        self._times = tf.lookup.experimental.MutableHashTable(tf.int64, tf.int64, default_value=0)

    def note(self, indices: tf.Tensor) -> tf.Operation:
        """Count images, int64 [n]; -1 is one of which nobody knows which it is."""
        which, _, times = tf.unique_with_counts(indices, out_idx=tf.int64)
        return self._times.insert(which, self._times.lookup(which) + times)

    def times(self) -> Mapping[int, int]:
        """How often each image could not be read, by index."""
        indices, times = self._times.export()
        return dict(sorted(zip(indices.numpy().tolist(), times.numpy().tolist(), strict=True)))

    def describe(self, source: ImageStream) -> str | None:
        """What to tell the user; None where every image could be read."""
        times = self.times()
        if not times:
            return None
        known = [index for index in times if index != UNKNOWN]
        lines = [f"\n  {source.name(index)} ({times[index]} times)" for index in known[:_NAMED]]
        if len(known) > _NAMED:
            lines.append(f"\n  ... and {len(known) - _NAMED} more")
        return (
            f"images that could not be read any more while training were replaced by others "
            f"{sum(times.values())} times; have files been removed or changed?" + "".join(lines)
        )
