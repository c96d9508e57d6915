"""The optimizers against NumPy, and against Keras' own where it has the same."""

from itertools import pairwise

import keras
import numpy as np
import pytest

from keras_cls.training.optimizers import AdamW, Method, Rates, RmsProp, Sgd, make_optimizer

RANDOM = np.random.default_rng(0)
START = {"kernel": RANDOM.normal(size=(4, 3)), "bias": RANDOM.normal(size=3)}
GRADIENTS = [{name: RANDOM.normal(size=v.shape) for name, v in START.items()} for _ in range(6)]


def run(optimizer: keras.Optimizer) -> dict[str, np.ndarray]:
    variables = [keras.Variable(value, name=name) for name, value in START.items()]
    for gradients in GRADIENTS:
        optimizer.apply([gradients[v.name].astype("f4") for v in variables], variables)
    return {v.name: np.array(v) for v in variables}


def assert_same(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> None:
    for name in START:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("decays", ["kernels", "all"])
@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_takes_the_decays_gradient_in(decays: str, nesterov: bool) -> None:
    found = run(make_optimizer(Sgd(0.9, nesterov), 0.1, 0.01, decays))
    for name, start in START.items():
        decay = 0.01 if decays == "all" or name == "kernel" else 0.0
        w, velocity = start.copy(), 0.0
        for gradients in GRADIENTS:
            gradient = gradients[name] + decay * w
            velocity = 0.9 * velocity - 0.1 * gradient
            w = w + (0.9 * velocity - 0.1 * gradient if nesterov else velocity)
        np.testing.assert_allclose(found[name], w, rtol=2e-5, atol=1e-6)


def test_rmsprop_has_its_epsilon_under_the_root() -> None:
    found = run(make_optimizer(RmsProp(0.9, 0.9, 1.0), 0.045, 0.01))
    for name, start in START.items():
        w, squares, velocity = start.copy(), 0.0, 0.0
        for gradients in GRADIENTS:
            gradient = gradients[name] + (0.01 * w if name == "kernel" else 0)
            squares = 0.9 * squares + 0.1 * gradient**2
            velocity = 0.9 * velocity + 0.045 * gradient / np.sqrt(squares + 1.0)
            w = w - velocity
        np.testing.assert_allclose(found[name], w, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("decays", ["kernels", "all"])
def test_adamw_is_keras_own(decays: str) -> None:
    theirs = keras.optimizers.AdamW(0.01, weight_decay=0.1)
    if decays == "kernels":
        theirs.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    assert_same(run(make_optimizer(AdamW(), 0.01, 0.1, decays)), run(theirs))


@pytest.mark.parametrize("method", [Sgd(), RmsProp(), AdamW()])
def test_a_share_of_the_rate_is_that_rate(method: Method) -> None:
    """The bias at a third of the rate moves as with a third of the rate throughout."""
    shares = {"kernel": 1.0, "bias": 1 / 3}
    found = run(make_optimizer(method, 0.03, 0.0, rates=Rates(lambda v: shares[v.name])))
    whole = run(make_optimizer(method, 0.03, 0.0))
    third = run(make_optimizer(method, 0.01, 0.0))
    np.testing.assert_allclose(found["kernel"], whole["kernel"], rtol=1e-6)
    np.testing.assert_allclose(found["bias"], third["bias"], rtol=1e-5)


@pytest.mark.parametrize("method", [Sgd(), RmsProp(), AdamW()])
def test_a_share_of_nothing_changes_nothing(method: Method) -> None:
    found = run(
        make_optimizer(method, 0.03, 0.1, "all", rates=Rates(lambda v: float(v.name == "kernel")))
    )
    np.testing.assert_array_equal(found["bias"], START["bias"])
    assert np.abs(found["kernel"] - START["kernel"]).max() > 1e-3


def test_the_norm_is_that_of_all_gradients_together() -> None:
    found = run(make_optimizer(Sgd(0.0), 1.0, 0.0, clip_norm=0.5))
    w = {name: start.copy() for name, start in START.items()}
    for gradients in GRADIENTS:
        norm = np.sqrt(sum((g**2).sum() for g in gradients.values()))
        for name in w:
            w[name] -= gradients[name] * min(1, 0.5 / norm)
    assert_same(found, w)


@pytest.mark.parametrize("ema", [0.2, 0.9999])
def test_the_average_follows_the_weights_and_begins_quickly(ema: float) -> None:
    optimizer = make_optimizer(Sgd(0.0), 0.1, 0.0, ema=ema)
    variables = [keras.Variable(value, name=name) for name, value in START.items()]
    average: dict[str, np.ndarray] = {}
    for step, gradients in enumerate(GRADIENTS):
        optimizer.apply([gradients[v.name].astype("f4") for v in variables], variables)
        momentum = min(ema, (1 + step) / (10 + step)) if step else 0
        for v in variables:
            average[v.name] = momentum * average.get(v.name, 0) + (1 - momentum) * np.array(v)
    for v, kept in zip(variables, optimizer._model_variables_moving_average, strict=True):
        np.testing.assert_allclose(np.array(kept), average[v.name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("velocity", ["steps", "gradients"])
def test_momentum_sums_up_steps_or_gradients(velocity: str, nesterov: bool) -> None:
    """Which differs where the rate changes."""
    rates = keras.optimizers.schedules.PiecewiseConstantDecay([1, 3], [0.1, 0.3, 0.02])
    found = run(make_optimizer(Sgd(0.9, nesterov, velocity), rates, 0.0))
    for name, start in START.items():
        w, v = start.copy(), 0.0
        for step, gradients in enumerate(GRADIENTS):
            g, rate = gradients[name], 0.1 if step <= 1 else 0.3 if step <= 3 else 0.02
            if velocity == "steps":
                v = 0.9 * v + rate * g
                w = w - (rate * g + 0.9 * v if nesterov else v)
            else:
                v = 0.9 * v + g
                w = w - rate * (g + 0.9 * v if nesterov else v)
        np.testing.assert_allclose(found[name], w, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("method", [Sgd(), RmsProp(), AdamW()])
def test_biases_of_normalization_may_learn_faster_and_decay_no_more(method: Method) -> None:
    """At 8 times the rate, and an eighth of the decay."""

    def moved(rates: Rates, rate: float, decay: float) -> np.ndarray:
        variable = keras.Variable(START["bias"], name="beta")
        optimizer = make_optimizer(method, rate, decay, "all", rates=rates)
        for gradients in GRADIENTS:
            optimizer.apply([gradients["bias"].astype("f4")], [variable])
        return np.array(variable)

    faster = moved(Rates(norm_bias=8.0), 0.01, 0.1)
    np.testing.assert_allclose(faster, moved(Rates(), 0.08, 0.1 / 8), rtol=1e-5)
    # Together with a share of the rate, as fine-tuning has it.
    both = moved(Rates(lambda variable: 0.5, norm_bias=8.0), 0.02, 0.1)
    np.testing.assert_allclose(faster, both, rtol=1e-5)


def test_what_stops_learning_rests_though_there_is_velocity() -> None:
    variables = [keras.Variable(value, name=name) for name, value in START.items()]
    method = Sgd(0.9, nesterov=True, velocity="gradients")
    optimizer = make_optimizer(method, 0.1, 0.01, "all", rates=Rates(stops={"bias": 3}))
    seen = []
    for gradients in GRADIENTS:
        optimizer.apply([gradients[v.name].astype("f4") for v in variables], variables)
        seen.append({v.name: np.array(v) for v in variables})
    for earlier, later in pairwise(seen):
        assert np.abs(later["kernel"] - earlier["kernel"]).max() > 1e-3
    assert np.abs(seen[2]["bias"] - seen[1]["bias"]).max() > 1e-3
    for later in seen[3:]:
        np.testing.assert_array_equal(later["bias"], seen[2]["bias"])
