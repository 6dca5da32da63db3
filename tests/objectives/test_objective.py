"""Objectives: what is in their state, how they reduce, how they add up."""

import functools
import inspect

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdjax.adaptation import coral_loss
from kdjax.adaptation import dann_loss
from kdjax.adaptation import mmd
from kdjax.adaptation import soft_h_divergence
from kdjax.distillation import kd_loss
from kdjax.nets import Outputs
from kdjax.objectives import Objective
from kdjax.objectives import combine
from kdjax.objectives import select_embeddings
from kdjax.objectives import select_features
from kdjax.objectives import select_logits
from kdjax.objectives import select_logits_and_labels
from kdjax.objectives import select_supervised
from kdjax.objectives import stateless

KEY = jax.random.key(0)


def outputs(seed, dtype=jnp.float32):
  logits, low, high = jax.random.normal(jax.random.key(seed), (3, 4, 5), dtype)
  return Outputs(logits, {"low": low, "high": high}, logits + low)


STUDENT, TEACHER = outputs(1), outputs(2)
BATCH = {
  "label": jnp.array([0, 4, 2, 1]),
  "mask": jnp.array([True, True, False, True]),
}


def squared_gap(student, teacher, *, scale=1.0):
  return scale * jnp.sum((student - teacher) ** 2, axis=-1)


def run(objective, student=STUDENT, teacher=TEACHER, batch=BATCH, steps=1):
  """From the start, in one program."""

  @jax.jit
  def program(student, teacher, batch):
    params, state = objective.init(KEY, student, teacher)
    for _ in range(steps):
      loss, state, metrics = objective.apply(
        params, state, student, teacher, batch, KEY
      )
    return loss, state, metrics

  return program(student, teacher, batch)


def test_stateless_averages_the_examples_that_count():
  loss, state, metrics = run(stateless(squared_gap, scale=2.0))
  values = 2 * np.sum((STUDENT.logits - np.array(TEACHER.logits)) ** 2, -1)
  values = np.asarray(values)
  np.testing.assert_allclose(loss, values[[0, 1, 3]].mean(), rtol=1e-6)
  total, count = metrics["loss"]
  np.testing.assert_allclose(total, values[[0, 1, 3]].sum(), rtol=1e-6)
  assert count == 3
  assert state == {"scale": 2.0}


def test_padding_reaches_neither_value_nor_gradient():
  def loss_fn(logits, batch):
    return run(
      stateless(squared_gap), STUDENT._replace(logits=logits), batch=batch
    )[0]

  program = jax.jit(jax.value_and_grad(loss_fn))
  value, gradient = program(STUDENT.logits, BATCH)
  other = STUDENT.logits.at[2].set(1e4)
  assert program(other, BATCH)[0] == value
  assert not np.any(gradient[2])
  nothing = BATCH | {"mask": jnp.zeros(4, bool)}
  value, gradient = program(STUDENT.logits, nothing)
  assert value == 0
  assert not np.any(gradient)


def test_batch_coupled_loss_is_given_mask_and_axis():
  def coupled(student, teacher, *, where, axis_name, scale):
    return scale * jnp.sum(where) * (1.0 if axis_name is None else 0.0)

  loss, _, metrics = run(stateless(coupled, scale=2.0))
  assert (loss, metrics["loss"]) == (6.0, (18.0, 3.0))
  loss, _, _ = run(stateless(coupled, axis_name="batch", scale=2.0))
  assert loss == 0.0


def select_domain_logits(student, teacher, batch):
  return student.logits[:, 0], teacher.logits[:, 0]


@pytest.mark.parametrize(
  ("loss", "select"),
  [
    (mmd, select_embeddings),
    (coral_loss, select_embeddings),
    (dann_loss, select_domain_logits),
    (soft_h_divergence, select_domain_logits),
  ],
)
@pytest.mark.parametrize("two_domains", [False, True])
def test_losses_of_two_samples_are_given_the_mask_of_each(
  loss, select, two_domains
):
  batch, target_mask = BATCH, BATCH["mask"]
  if two_domains:  # As in training.adaptation_loss.
    target_mask = jnp.array([True, False, False, True])
    batch = BATCH | {"target": {"mask": target_mask}}
  value, _, _ = run(stateless(loss, select), batch=batch)
  source, target = select(STUDENT, TEACHER, batch)
  expected = jax.jit(loss)(
    np.asarray(source)[BATCH["mask"]], np.asarray(target)[target_mask]
  )
  np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_a_loss_without_a_value_an_example_is_refused():
  def mean_gap(student, teacher):
    return jnp.mean((student - teacher) ** 2)

  message = r"mean_gap returned shape \(\); expected one value an example"
  with pytest.raises(ValueError, match=message):
    run(stateless(mean_gap))


def test_the_loss_refuses_static_hyperparameters_out_of_range():
  for changes in ({"temperature": -1.0}, {"alpha": np.float32(1.5)}):
    objective = stateless(kd_loss, select_logits_and_labels, **changes)
    _, state = objective.init(KEY, None, None)
    with pytest.raises(ValueError, match=f"{next(iter(changes))} is"):
      jax.eval_shape(objective.apply, {}, state, STUDENT, TEACHER, BATCH, KEY)


def test_half_precision_reaches_the_loss_in_float32():
  cross_entropy = optax.softmax_cross_entropy_with_integer_labels
  student = outputs(1, jnp.bfloat16)
  loss, _, metrics = run(stateless(cross_entropy, select_supervised), student)
  exact = jax.jit(cross_entropy)(
    student.logits.astype(jnp.float32), BATCH["label"]
  )
  assert loss.dtype == metrics["loss"][0].dtype == jnp.float32
  np.testing.assert_allclose(
    loss, exact[jnp.array([0, 1, 3])].mean(), rtol=1e-6
  )


def test_hyperparameters_do_not_recompile_and_are_vmapped():
  objective = stateless(squared_gap, scale=1.0)
  apply = jax.jit(chex.assert_max_traces(objective.apply, n=1))
  losses = [
    apply({}, {"scale": jnp.float32(s)}, STUDENT, TEACHER, BATCH, KEY)[0]
    for s in (1.0, 2.0, 3.0)
  ]
  states = jax.vmap(
    lambda scale: stateless(squared_gap, scale=scale).init(KEY, None, None)[1]
  )(jnp.arange(1.0, 4.0))
  swept = jax.vmap(objective.apply, (None, 0, None, None, None, None))(
    {}, states, STUDENT, TEACHER, BATCH, KEY
  )[0]
  np.testing.assert_allclose(swept, losses, rtol=1e-6)


def test_an_option_that_is_no_number_is_refused_and_can_be_bound():
  def loss(student, teacher, *, kind):
    return squared_gap(student, teacher) if kind == "squared" else None

  # Unwrapped: beartype, which users do not run, would be first to complain.
  with pytest.raises(TypeError, match="kind is 'squared'; expected a number"):
    run(inspect.unwrap(stateless)(loss, kind="squared"))
  value, _, _ = run(stateless(functools.partial(loss, kind="squared")))
  np.testing.assert_allclose(value, run(stateless(squared_gap))[0])
  for true in (True, np.True_, jnp.array(True)):
    with pytest.raises(TypeError, match=r"kind is .*True.*functools.partial"):
      run(stateless(loss, kind=true))
  with pytest.raises(TypeError, match="kd is None"):
    run(inspect.unwrap(combine)({"kd": (None, stateless(squared_gap))}))


def test_what_does_not_fit_is_refused_when_it_is_built():
  # Unwrapped, as above.
  build, add = inspect.unwrap(stateless), inspect.unwrap(combine)
  with pytest.raises(ValueError, match=r"temprature given; expected .*alpha"):
    build(kd_loss, select_logits_and_labels, temprature=4.0)
  for part in (stateless(squared_gap), (1.0, kd_loss)):
    with pytest.raises(TypeError, match=r"combine: kd is .*by `stateless`"):
      add({"kd": part})


def test_combine_adds_weighted_losses_and_prefixes_metrics():
  gap = stateless(squared_gap)
  features = stateless(squared_gap, select_features("low", "high"))
  both = combine({"a": (0.5, gap), "b": (2.0, combine({"c": (1, features)}))})
  loss, state, metrics = run(both)
  a, b = run(gap)[0], run(features)[0]
  np.testing.assert_allclose(loss, 0.5 * a + 2 * b, rtol=1e-6)
  names = ["loss", "a/loss", "b/loss", "b/c/loss"]
  assert set(metrics) == set(names)
  np.testing.assert_allclose(metrics["b/c/loss"][0], 3 * b, rtol=1e-6)
  np.testing.assert_allclose(metrics["loss"][0], 3 * loss, rtol=1e-6)
  assert state["weights"] == {"a": 0.5, "b": 2.0}

  def in_order():  # which compiled programs do not keep
    variables = both.init(KEY, STUDENT, TEACHER)
    metrics = both.apply(*variables, STUDENT, TEACHER, BATCH, KEY)[2]
    assert list(metrics) == names

  jax.eval_shape(in_order)


def test_a_schedule_is_evaluated_at_the_step_in_the_state():
  gap = stateless(squared_gap)
  schedule = optax.piecewise_constant_schedule(1.0, {1: 10.0, 2: 10.0})
  plain = run(gap)[0]
  for steps, weight in ((1, 1.0), (2, 10.0), (3, 100.0)):
    loss, state, _ = run(combine({"gap": (schedule, gap)}), steps=steps)
    np.testing.assert_allclose(loss, weight * plain, rtol=1e-6)
    assert state["step"] == steps
  assert state["weights"] == {}


def test_parts_get_keys_and_states_of_their_own():
  noisy = Objective(
    lambda key, *_: (jax.random.normal(key), jnp.zeros(())),
    lambda params, state, student, teacher, batch, key: (
      params * 0,
      state + jax.random.normal(key),
      {},
    ),
  )
  both = combine({"a": (1, noisy), "b": (1, noisy)})
  params, _ = both.init(KEY, None, None)
  assert params["a"] != params["b"]
  _, state, _ = run(both)
  assert state["objectives"]["a"] != state["objectives"]["b"] != 0


@pytest.mark.parametrize(
  ("select", "expected"),
  [
    (select_logits, (STUDENT.logits, TEACHER.logits)),
    (
      select_logits_and_labels,
      (STUDENT.logits, TEACHER.logits, BATCH["label"]),
    ),
    (select_supervised, (STUDENT.logits, BATCH["label"])),
    (select_embeddings, (STUDENT.embedding, TEACHER.embedding)),
    (
      select_features("low"),
      (STUDENT.features["low"], TEACHER.features["low"]),
    ),
    (
      select_features("low", "high"),
      (STUDENT.features["low"], TEACHER.features["high"]),
    ),
  ],
)
def test_selectors_return_the_arguments_of_a_loss(select, expected):
  jax.tree.map(
    np.testing.assert_array_equal, select(STUDENT, TEACHER, BATCH), expected
  )


def test_a_combination_is_of_named_parts():
  with pytest.raises(TypeError, match=r"objectives is a list; expected a mapp"):
    inspect.unwrap(combine)([(1.0, stateless(squared_gap))])
  with pytest.raises(ValueError, match=r"objectives is empty; expected one or"):
    combine({})


def test_a_schedule_is_no_hyperparameter():
  objective = inspect.unwrap(stateless)(squared_gap, scale=lambda step: 1.0)
  with pytest.raises(TypeError, match=r"scale is <function .*; expected a num"):
    objective.init(jax.random.key(0), None, None)
