"""The papers' optimizers as data, and as Keras runs them.

Weight decay comes in two kinds. The papers before AdamW add half the sum of squares, times the
decay, to the loss: its gradient, ``decay * w``, passes through momentum as any gradient does. AdamW
takes ``learning rate * decay * w`` from the weights beside the step. ``Sgd`` and ``RmsProp`` do the
former, ``AdamW`` the latter.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import keras
import tensorflow as tf

Decays: TypeAlias = Literal["kernels", "all"]
_NORM_BIAS = "beta"
_UNDECAYED = ("bias", "gamma", _NORM_BIAS)

# A variable's share of the learning rate.
Multiplier: TypeAlias = Callable[[keras.Variable], float]


@dataclass(frozen=True)
class Sgd:
    """Stochastic gradient descent with momentum.

    Attributes:
        momentum: how much of the velocity is left after a step.
        nesterov: take the step from where the velocity leads.
        velocity: what it sums up: ``"steps"``, each at the rate of its time (AlexNet's paper,
            Caffe, Keras), or ``"gradients"``, all at the rate of today (PyTorch). At a constant
            rate both are the same.
    """

    momentum: float = 0.9
    nesterov: bool = False
    velocity: Literal["steps", "gradients"] = "steps"
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


@dataclass(frozen=True)
class Rates:
    """What sets the learning rates of variables apart.

    Attributes:
        multiplier: each variable's share of the rate; None for all the whole.
        norm_bias: the rate of normalization's biases as a multiple of the others'. Their decay is
            divided by it: what a step takes from them stays as it is.
        stops: the step from which on a variable, named by its path, learns no more.
    """

    multiplier: Multiplier | None = None
    norm_bias: float = 1.0
    stops: Mapping[str, int] = field(default_factory=dict)

    def at(self, learning_rate: Any, variable: keras.Variable, step: Any) -> Any:
        """The variable's rate in a step, counted from 0."""
        if self.multiplier is not None:
            learning_rate = learning_rate * self.multiplier(variable)
        if variable.path in self.stops:
            learns = step < self.stops[variable.path]
            learning_rate = keras.ops.where(learns, learning_rate, 0.0)
        multiple = self.multiple(variable)
        return learning_rate if multiple == 1 else learning_rate * multiple

    def multiple(self, variable: keras.Variable) -> float:
        """What the rate is multiplied by, and the decay divided."""
        return self.norm_bias if variable.name == _NORM_BIAS else 1.0


EQUAL_RATES = Rates()


def make_optimizer(
    method: Method,
    learning_rate: Any,
    weight_decay: float,
    decays: Decays = "kernels",
    *,
    clip_norm: float | None = None,
    ema: float | None = None,
    rates: Rates = EQUAL_RATES,
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
        rates: what sets the learning rates of variables apart.
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
            optimizer.velocity = method.velocity
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
    optimizer.rates = rates
    return optimizer


class _Extended(keras.optimizers.Optimizer):
    """What Keras' optimizers lack: decay through the gradient, and rates for each variable.

    On several replicas gradients are added up first, so that clipping and decay see what they would
    see on one.
    """

    l2 = 0.0
    decoupled = 0.0
    undecayed: tuple[str, ...] = ()
    rates: Rates = EQUAL_RATES

    def apply(self, grads: Sequence[Any], trainable_variables: Any = None) -> Any:
        """Add up the replicas' gradients, then the decay's."""
        variables = list(
            self._trainable_variables if trainable_variables is None else trainable_variables
        )
        added = super()._all_reduce_sum_gradients(zip(grads, variables, strict=True))
        grads = [grad if grad is None else self._decayed(grad, v) for grad, v in added]
        return super().apply(grads, variables)

    def _decayed(self, gradient: Any, variable: keras.Variable) -> Any:
        """The gradient with that of the variable's own penalty."""
        if not self.l2 or variable.name in self.undecayed:
            return gradient
        penalty = self.l2 / self.rates.multiple(variable) * variable
        return gradient + keras.ops.cast(penalty, gradient.dtype)

    def _all_reduce_sum_gradients(self, grads_and_vars: Any) -> Any:
        return grads_and_vars  # apply() has done it

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Keras' own step at the variable's own rate, then the average."""
        # Within a distribution strategy it is TensorFlow's variable, which knows no path.
        index = self._get_variable_index(variable)
        known = self._trainable_variables[index]
        learning_rate = self.rates.at(learning_rate, known, self.iterations)
        if self.decoupled and known.name not in self.undecayed:
            rate = keras.ops.cast(learning_rate, variable.dtype)
            decay = self.decoupled / self.rates.multiple(known)
            self.assign_sub(variable, rate * decay * variable)
        super().update_step(gradient, variable, learning_rate)
        if self.use_ema:
            average = self._model_variables_moving_average[index]
            share = keras.ops.cast(self._average_momentum(), variable.dtype)
            self.assign(average, share * average + (1 - share) * variable)

    def _average_momentum(self) -> Any:
        """As TensorFlow's ExponentialMovingAverage with ``num_updates``, which TF-slim uses.

        After n steps the momentum is (1 + n) / (10 + n) at most: else the average of a short run
        would be little more than its first weights.
        """
        steps = keras.ops.cast(self.iterations, "float32")
        rising = keras.ops.minimum(self.ema_momentum, (1 + steps) / (10 + steps))
        return keras.ops.where(steps == 0, 0.0, rising)

    def _update_model_variables_moving_average(self, trainable_variables: Sequence[Any]) -> None:
        """update_step() has done it, where a strategy allows it."""


class _FusedSgd(keras.optimizers.SGD):
    """Keras' SGD, one operation a variable where that takes six."""

    velocity = "steps"

    def update_step(self, gradient: tf.Tensor, variable: tf.Variable, learning_rate: Any) -> None:
        """Change the variable and its velocity in place."""
        rate = tf.cast(learning_rate, variable.dtype)
        gradient = tf.cast(gradient, variable.dtype)
        if not self.momentum:
            variable.assign_sub(rate * gradient)
            return
        apply = {
            "steps": tf.raw_ops.ResourceApplyKerasMomentum,
            "gradients": tf.raw_ops.ResourceApplyMomentum,
        }[self.velocity]
        apply(
            var=variable.handle,
            accum=self.momentums[self._get_variable_index(variable)].value.handle,
            lr=rate,
            grad=gradient,
            momentum=tf.constant(self.momentum, variable.dtype),
            use_nesterov=self.nesterov,
        )


class _Sgd(_Extended, _FusedSgd):
    pass


class _RmsProp(_Extended, keras.optimizers.RMSprop):
    pass


class _AdamW(_Extended, keras.optimizers.Adam):
    pass
