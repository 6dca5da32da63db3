"""Many students as one program: each is the one that `fit` alone trains."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from kdjax import methods, training
from kdjax.methods import Objective
from kdjax.training.loop import _fit_folder
from tests.training.loop import fit_runs
from tests.training.loop.fit_runs import BATCH, CLASSES, PIXELS, arrays, learner

KEY = jax.random.key(0)
TRAIN, HELD_OUT = arrays(), arrays(10, seed=1)
DOMAINS = {"source": arrays(16), "target": arrays(24, seed=3)}


def fit(own, data, **options):
  defaults = {"batch_size": BATCH, "key": KEY, "diagnostics": False}
  return training.fit(own, data, **(defaults | options))


def network():
  return training.Network.of(
    lambda rngs: nnx.Linear(PIXELS, CLASSES, rngs=rngs)
  )


def body():
  return training.Network.of(lambda rngs: Embedding(rngs))


class Embedding(nnx.Module):
  """A network with an embedding and a head."""

  def __init__(self, rngs):
    self.layer = nnx.Linear(PIXELS, 4, rngs=rngs)
    self.head = nnx.Linear(4, CLASSES, rngs=rngs)

  def __call__(self, x):
    from kdjax.nets import Outputs

    embedding = jnp.tanh(self.layer(x))
    return Outputs(self.head(embedding), {}, embedding)


def assert_alone(own, data, steps, students, values, **options):
  """Each student of a grid is the one that is trained alone."""
  result = fit(own, data, steps=steps, students=students, **options)
  assert len(result.students) == len(values)
  options.pop("students_at_a_time", None)
  for i, (one, (seed, value)) in enumerate(
    zip(result.students, values, strict=True)
  ):
    bound = own._replace(
      init=lambda key, batch, value=value: own.init(key, batch, **value)
    )
    key = jax.random.fold_in(KEY, seed)
    alone = fit(bound, data, **(options | {"steps": steps, "key": key}))
    for a, b in zip(
      jax.tree.leaves(one.state.params),
      jax.tree.leaves(alone.state.params),
      strict=True,
    ):
      np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    for name in set(alone.metrics) - {"seconds"}:
      np.testing.assert_allclose(
        one.metrics[name], alone.metrics[name], rtol=1e-4, atol=1e-4
      )
      if name != "step":
        np.testing.assert_array_equal(
          result.metrics[name][:, i], one.metrics[name]
        )
  return result


POINTS = [(0, 1.0), (0, 4.0), (1, 1.0), (1, 4.0)]


@pytest.mark.parametrize(
  "options",
  [
    {},
    pytest.param({"scan": False}, marks=pytest.mark.slow),
    pytest.param({"students_at_a_time": 1}, marks=pytest.mark.slow),
    pytest.param({"students_at_a_time": 2}, marks=pytest.mark.slow),
    pytest.param(
      {"mode": "shard_map", "devices": jax.devices()[:2]},
      marks=pytest.mark.slow,
    ),
    pytest.param(
      {"mode": "jit", "devices": jax.devices()[:2], "scan": False},
      marks=pytest.mark.slow,
    ),
    pytest.param(
      {"mode": "pmap", "devices": jax.devices()[:2]}, marks=pytest.mark.slow
    ),
  ],
  ids=str,
)
def test_each_student_is_the_one_alone(options):
  result = assert_alone(
    learner(network()),
    TRAIN,
    100,
    training.grid(seed=(0, 1), temperature=(1.0, 4.0)),
    [(seed, {"temperature": value}) for seed, value in POINTS][:4],
    validation=HELD_OUT,
    evaluate_every=50,
    **options,
  )
  assert result.metrics["accuracy"].shape == (2, 4)
  assert result.model is None
  assert result.students[1].values == {"seed": 0, "temperature": 4.0}
  assert not result.diverged.any()
  assert repr(result).startswith("FitResult(4 students, step 100, accuracy ")


@pytest.mark.slow
def test_a_method_with_a_reversal_and_a_memory():
  own = training.adapt(
    body(), methods.create("dann", steps=100), optax.sgd(0.01, 0.9)
  )
  assert_alone(
    own, DOMAINS, 100, training.grid(seed=(0, 3)), [(0, {}), (3, {})]
  )


@pytest.mark.slow
def test_a_method_with_an_update_of_its_own():
  own = training.generalize(body(), methods.create("mldg"), optax.sgd(0.05))
  data = {"a": arrays(16), "b": arrays(24, seed=3), "c": arrays(16, seed=4)}
  assert_alone(own, data, 100, training.grid(seed=(0, 3)), [(0, {}), (3, {})])


@pytest.mark.slow
def test_a_method_of_peers():
  own = training.collaborate(
    [body(), body()], methods.create("mutual"), optax.sgd(0.05)
  )
  assert_alone(own, TRAIN, 100, training.grid(seed=(0, 3)), [(0, {}), (3, {})])


@pytest.mark.slow
def test_a_module_comes_back_for_each_student():
  result = fit(
    learner(),
    TRAIN,
    steps=4,
    students={"temperature": [1.0, 8.0]},
    diagnostics=True,
  )
  assert result.metrics["gradient_cosine"].shape == (4, 2)
  first, second = (one.module for one in result.students)
  assert isinstance(first, fit_runs.Network)
  assert jnp.any(first.head.kernel[...] != second.head.kernel[...])


class StopError(Exception):
  """A fault of a test."""


def stop():
  raise StopError


@pytest.mark.slow
@pytest.mark.parametrize("scan", [True, False])
def test_a_resumed_grid_has_the_same_bits(tmp_path, monkeypatch, scan):
  options = {
    "steps": 10,
    "students": training.grid(seed=(0, 5), alpha=(0.1, 0.9)),
    "evaluate_every": 4,
    "checkpoint_every": 3,
    "validation": HELD_OUT,
    "scan": scan,
  }
  own = learner(fit_runs.Network(4, 0, dropout=0.1))
  whole = fit(own, TRAIN, workdir=tmp_path / "whole", **options)
  with monkeypatch.context() as patch:
    patch.setattr(_fit_folder.FitFolder, "save", SAVE_OR_STOP)
    with pytest.raises(StopError):
      fit(own, TRAIN, workdir=tmp_path / "run", **options)
  resumed = fit(own, TRAIN, workdir=tmp_path / "run", **options)
  jax.tree.map(np.testing.assert_array_equal, resumed.state, whole.state)
  for name in set(whole.metrics) - {"seconds"}:
    np.testing.assert_array_equal(resumed.metrics[name], whole.metrics[name])
  message = r"a run with hyperparameters\.alpha = \[.*same settings"
  with pytest.raises(training.RunError, match=message):
    fit(
      own,
      TRAIN,
      workdir=tmp_path / "run",
      **(options | {"students": training.grid(seed=(0, 5), alpha=(0.1, 0.8))}),
    )


SAVE_OR_STOP = fit_runs.at_step(6, stop)


def exploding():
  """A loss that is NaN from the step on that a hyper-parameter says."""

  def apply(params, state, outputs, batch, key, *, axis_name=None):
    bad = state["count"] >= state["at"]
    value = jnp.mean(outputs["student"].logits ** 2)
    value = jnp.where(bad, jnp.nan, value)
    moved = state | {"count": state["count"] + 1}
    return value, moved, {"loss": (value, jnp.ones(()))}

  def init(key, specs):
    return {}, {"count": jnp.zeros((), int), "at": jnp.asarray(5.0)}

  return training.distill(
    network(), None, Objective(init, apply), optax.sgd(0.1)
  )


@pytest.mark.slow
def test_a_student_that_diverged_leaves_the_others_alone(tmp_path):
  options = {"evaluate_every": 2, "workdir": tmp_path, "validation": HELD_OUT}
  grid = {"at": [9.0, 3.0]}
  with pytest.warns(UserWarning, match="of 2 students .* at step 4: 1; the"):
    fit(exploding(), TRAIN, steps=6, students=grid, **options)
  result = fit(exploding(), TRAIN, steps=8, students=grid, **options)
  assert result.diverged.tolist() == [False, True]
  assert [bool(one.diverged) for one in result.students] == [False, True]
  for name in ("train/loss", "accuracy"):
    seen = np.isnan(result.metrics[name]).tolist()
    assert seen == [[False, False]] + 3 * [[False, True]]
  line = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
  assert line["train/loss"][1] is None
  assert "1 diverged" in repr(result)
  message = "diverged at step 10: loss is nan in 2 of 2"
  with pytest.raises(training.DivergedError, match=message):
    fit(exploding(), TRAIN, steps=12, students=grid, **options)


ERRORS = {
  "kind": ({"students": 3}, "students is a int; expected name -> values"),
  "empty": ({"students": {"seed": []}}, r"students\['seed'\] has the shape"),
  "lengths": (
    {"students": {"seed": [0, 1], "alpha": [0.1]}},
    r"students\['alpha'\] has the shape \(1,\)",
  ),
  "seed": ({"students": {"seed": [0.5]}}, r"students\['seed'\] is of float"),
  "text": ({"students": {"alpha": ["a"]}}, "expected numbers"),
  "name": ({"students": {"alhpa": [0.5]}}, "no hyper-parameter 'alhpa'"),
  "at_a_time": ({"students_at_a_time": 1}, "and students is None"),
  "stream": (
    {"students": {"seed": [0]}, "data": [TRAIN], "batch_size": None},
    "students is given, and data comes in batches",
  ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors_name_the_argument(case):
  options, message = ERRORS[case]
  options = {"data": TRAIN, "steps": 2} | options
  unchecked = training.fit
  while hasattr(unchecked, "__wrapped__"):  # what a user without pytest calls
    unchecked = unchecked.__wrapped__
  options = {"batch_size": BATCH, "key": KEY, "diagnostics": False} | options
  with pytest.raises((TypeError, ValueError), match=message):
    unchecked(learner(network()), options.pop("data"), **options)
