"""The papers' optimizers as data, and as Keras runs them.

Weight decay comes in two kinds. The papers before AdamW add half the sum of squares, times the
decay, to the loss: its gradient, ``decay * w``, passes through momentum as any gradient does. AdamW
takes ``learning rate * decay * w`` from the weights beside the step. ``Sgd`` and ``RmsProp`` do the
former, ``AdamW`` the latter.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import keras
import tensorflow as tf

Decays: TypeAlias = Literal["kernels", "all"]
_UNDECAYED = ("bias", "gamma", "beta")

# A variable's share of the learning rate.
Multiplier: TypeAlias = Callable[[keras.Variable], float]


@dataclass(frozen=True)
class Sgd:
    """Stochastic gradient descent with momentum."""

    momentum: float = 0.9
    nesterov: bool = False
    scaling = 1.0  # the learning rate grows with the batch (arXiv:1706.02677)


@dataclass(frozen=True)
class RmsProp:
    """RMSProp as the Inception and NASNet papers use it."""

    rho: float = 0.9
    momentum: float = 0.9
    epsilon: float = 1.0
    scaling = 1.0


@dataclass(frozen=True)
class AdamW:
    """Adam with decoupled weight decay (arXiv:1711.05101)."""

    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-7
    scaling = 0.5  # with the root of the batch (arXiv:2205.10287)


Method: TypeAlias = Sgd | RmsProp | AdamW


def make_optimizer(
    method: Method,
    learning_rate: Any,
    weight_decay: float,
    decays: Decays = "kernels",
    *,
    clip_norm: float | None = None,
    ema: float | None = None,
    multiplier: Multiplier | None = None,
) -> keras.Optimizer:
    """A fresh Keras optimizer.

    Args:
        method: which, with its constants.
        learning_rate: a number or a schedule.
        weight_decay: of the kind that belongs to the method.
        decays: ``"kernels"`` leaves out biases and the parameters of normalization.
        clip_norm: the largest norm of all gradients together; None for no limit.
        ema: the momentum of the moving average of the weights, to which it rises; None for no
            average.
        multiplier: each variable's share of the learning rate; None for all the whole.
    """
    common = {
        "name": type(method).__name__.lower(),
        "learning_rate": learning_rate,
        "global_clipnorm": clip_norm,
        "use_ema": ema is not None,
        "ema_momentum": 0.99 if ema is None else ema,
    }
    match method:
        case Sgd():
            optimizer = _Sgd(momentum=method.momentum, nesterov=method.nesterov, **common)
            optimizer.l2 = weight_decay
        case RmsProp():
            optimizer = _RmsProp(
                rho=method.rho, momentum=method.momentum, epsilon=method.epsilon, **common
            )
            optimizer.l2 = weight_decay
        case AdamW():
            optimizer = _AdamW(
                beta_1=method.beta_1,
                beta_2=method.beta_2,
                epsilon=method.epsilon,
                **common,
            )
            optimizer.decoupled = weight_decay
    optimizer.undecayed = _UNDECAYED if decays == "kernels" else ()
    optimizer.multiplier = multiplier
    return optimizer


class _Extended(keras.optimizers.Optimizer):
    """What Keras' optimizers lack: decay through the gradient, and a rate for each variable."""

    l2 = 0.0
    decoupled = 0.0
    undecayed: tuple[str, ...] = ()
    multiplier: Multiplier | None = None

    def apply(self, grads: Sequence[Any], trainable_variables: Any = None) -> Any:
        """Add the decay's gradient first; each replica its part, as gradients are summed."""
        variables = (
            self._trainable_variables if trainable_variables is None else trainable_variables
        )
        variables = list(variables)
        if self.l2:
            share = self.l2 / tf.distribute.get_strategy().num_replicas_in_sync
            grads = [
                grad
                if grad is None or variable.name in self.undecayed
                else grad + keras.ops.cast(share * variable, grad.dtype)
                for grad, variable in zip(grads, variables, strict=True)
            ]
        return super().apply(grads, variables)

    def _update_model_variables_moving_average(self, trainable_variables: Sequence[Any]) -> None:
        """As TensorFlow's ExponentialMovingAverage with ``num_updates``, which TF-slim uses.

        After n steps the momentum is (1 + n) / (10 + n) at most: else the average of a short run
        would be little more than its first weights.
        """
        if not self.use_ema:
            return
        steps = keras.ops.cast(self.iterations, "float32")
        rising = keras.ops.minimum(self.ema_momentum, (1 + steps) / (10 + steps))
        momentum = keras.ops.where(steps == 0, 0.0, rising)
        for variable, average in zip(
            trainable_variables, self._model_variables_moving_average, strict=True
        ):
            share = keras.ops.cast(momentum, variable.dtype)
            average.assign(share * average + (1 - share) * variable)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Keras' own step at the variable's own rate."""
        # Within a distribution strategy it is TensorFlow's variable, which knows no path.
        known = self._trainable_variables[self._get_variable_index(variable)]
        if self.multiplier is not None:
            learning_rate = learning_rate * self.multiplier(known)
        if self.decoupled and known.name not in self.undecayed:
            rate = keras.ops.cast(learning_rate, variable.dtype)
            self.assign_sub(variable, rate * self.decoupled * variable)
        super().update_step(gradient, variable, learning_rate)


class _Sgd(_Extended, keras.optimizers.SGD):
    pass


class _RmsProp(_Extended, keras.optimizers.RMSprop):
    pass


class _AdamW(_Extended, keras.optimizers.Adam):
    pass
