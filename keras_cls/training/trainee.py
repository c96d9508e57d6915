"""A network as it is trained: loss, auxiliary heads, the metrics that are shown."""

from typing import Any

import keras

from keras_cls.architectures.cells import set_drop_path_progress
from keras_cls.training.recipes import Recipe


class Trainee(keras.Model):
    """A functional model with a recipe's loss, over layers that a classifier shares.

    Its outputs are logits [N, K], or a dict of them with one entry an auxiliary head; its targets
    are shares of the classes, float32 [N, K]. In training the loss is the cross-entropy to smoothed
    targets, with the auxiliary heads' added at the recipe's weight; in validation it is the plain
    cross-entropy of the logits. The metrics ``accuracy`` and, of more than five classes,
    ``top5`` count where the largest share lies.
    """

    @classmethod
    def of(
        cls, inputs: keras.KerasTensor, outputs: Any, recipe: Recipe, name: str, head: str = ""
    ) -> "Trainee":
        """Build it; ``head`` is the name of the logits among the outputs, where they are a dict."""
        model = cls(inputs, outputs, name=name)
        model.head = head
        model.aux_weight = recipe.aux_weight
        model.smoothed = keras.losses.CategoricalCrossentropy(
            from_logits=True, label_smoothing=recipe.label_smoothing
        )
        model.plain = keras.losses.CategoricalCrossentropy(from_logits=True)
        model.accuracy = keras.metrics.CategoricalAccuracy(name="accuracy")
        model.top5 = None
        logits = outputs[head] if isinstance(outputs, dict) else outputs
        if logits.shape[-1] > 5:
            model.top5 = keras.metrics.TopKCategoricalAccuracy(5, name="top5")
        return model

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """The recipe's loss in training, the plain one else."""
        logits, others = self._heads(y_pred)
        if not training:
            return self.plain(y, logits, sample_weight)
        loss = self.smoothed(y, logits, sample_weight)
        for other in others:
            loss += self.aux_weight * self.smoothed(y, other, sample_weight)
        return loss

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Count the logits' hits."""
        logits, _ = self._heads(y_pred)
        self.accuracy.update_state(y, logits)
        if self.top5 is not None:
            self.top5.update_state(y, logits)
        return self.get_metrics_result()

    def _heads(self, outputs: Any) -> tuple[Any, list[Any]]:
        if not isinstance(outputs, dict):
            return outputs, []
        return outputs[self.head], [v for name, v in outputs.items() if name != self.head]


class DropPathGrowth(keras.callbacks.Callback):
    """Lets drop path grow in a straight line from none to all over the run (arXiv:1707.07012)."""

    def __init__(self, network: keras.Model, epochs: int) -> None:
        super().__init__()
        self._network = network
        self._epochs = epochs

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Set it for the epoch."""
        set_drop_path_progress(self._network, epoch / self._epochs)
