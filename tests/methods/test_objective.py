"""Objectives: what is in their state, how they reduce, how they add up."""

import inspect

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdjax.adaptation import coral_loss, dann_loss, mmd, soft_h_divergence
from kdjax.distillation import kd_loss
from kdjax.methods import Objective, combine, stateless
from kdjax.nets import Outputs

KEY = jax.random.key(0)


def outputs(seed, dtype=jnp.float32):
  logits, low, high = jax.random.normal(jax.random.key(seed), (3, 4, 5), dtype)
  return Outputs(logits, {"low": low, "high": high}, logits + low)


STUDENT, TEACHER = outputs(1), outputs(2)
BOTH = {"student": STUDENT, "teacher": TEACHER}
BATCH = {
  "label": jnp.array([0, 4, 2, 1]),
  "mask": jnp.array([True, True, False, True]),
}


def squared_gap(student_logits, teacher_logits, *, scale=1.0):
  return scale * jnp.sum((student_logits - teacher_logits) ** 2, axis=-1)


def run(objective, roles=None, batch=BATCH, steps=1):
  """From the start, in one program."""
  roles = BOTH if roles is None else roles

  @jax.jit
  def program(roles, batch):
    params, state = objective.init(KEY, roles)
    for _ in range(steps):
      loss, state, metrics = objective.apply(params, state, roles, batch, KEY)
    return loss, state, metrics

  return program(roles, batch)


def test_stateless_averages_the_examples_that_count():
  loss, state, metrics = run(stateless(squared_gap, scale=2.0))
  values = 2 * np.sum((STUDENT.logits - np.array(TEACHER.logits)) ** 2, -1)
  values = np.asarray(values)
  np.testing.assert_allclose(loss, values[[0, 1, 3]].mean(), rtol=1e-6)
  total, count = metrics["loss"]
  np.testing.assert_allclose(total, values[[0, 1, 3]].sum(), rtol=1e-6)
  assert count == 3
  assert state == {"scale": 2.0}


def test_a_loss_of_a_users_own_needs_no_selector():
  """Arguments by their names, hyper-parameters by keyword."""

  def mine(student_logits, teacher_logits, labels, *, slack):
    agree = jnp.argmax(teacher_logits, -1) == labels
    gap = jnp.abs(student_logits - teacher_logits).sum(-1)
    return jnp.where(agree, gap, slack)

  loss, state, _ = run(stateless(mine, slack=0.5))
  values = jax.jit(lambda *x: mine(*x, slack=0.5))(
    STUDENT.logits, TEACHER.logits, BATCH["label"]
  )
  np.testing.assert_allclose(
    loss, np.asarray(values)[[0, 1, 3]].mean(), rtol=1e-6
  )
  assert state == {"slack": 0.5}


def test_padding_reaches_neither_value_nor_gradient():
  def loss_fn(logits, batch):
    student = STUDENT._replace(logits=logits)
    return run(stateless(squared_gap), BOTH | {"student": student}, batch)[0]

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
  def coupled(student_logits, *, where, axis_name, scale):
    return scale * jnp.sum(where) * (1.0 if axis_name is None else 0.0)

  objective = stateless(coupled, scale=2.0)
  loss, state, metrics = run(objective)
  assert (loss, metrics["loss"]) == (6.0, (18.0, 3.0))
  loss, *_ = objective.apply({}, state, BOTH, BATCH, KEY, axis_name="batch")
  assert loss == 0.0


@pytest.mark.slow
@pytest.mark.parametrize(
  ("loss", "column"),
  [
    (mmd, None),
    (coral_loss, None),
    (dann_loss, 0),
    (soft_h_divergence, 0),
  ],
)
@pytest.mark.parametrize("two_domains", [False, True])
def test_losses_of_two_samples_are_given_the_mask_of_each(
  loss, column, two_domains
):
  def select(source, target):
    if column is None:
      return source.embedding, target.embedding
    return source.logits[:, column], target.logits[:, column]

  batch, target_mask = BATCH, BATCH["mask"]
  if two_domains:  # As in training.adapt.
    target_mask = jnp.array([True, False, False, True])
    batch = {"source": BATCH, "target": {"mask": target_mask}}
  roles = {"source": STUDENT, "target": TEACHER}
  value, _, _ = run(stateless(loss, select), roles, batch)
  source, target = select(STUDENT, TEACHER)
  expected = jax.jit(loss)(
    np.asarray(source)[BATCH["mask"]], np.asarray(target)[target_mask]
  )
  np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_a_loss_without_a_value_an_example_is_refused():
  def mean_gap(student_logits, teacher_logits):
    return jnp.mean((student_logits - teacher_logits) ** 2)

  message = r"mean_gap returned shape \(\); expected one value for each entry"
  with pytest.raises(ValueError, match=message):
    run(stateless(mean_gap))


LENGTH = 3
TOKENS = Outputs(
  jnp.float32(np.random.default_rng(0).normal(size=(4, LENGTH, 5))), {}, None
)
TOKEN_MASK = np.array([[1, 1, 0], [1, 0, 0], [0, 0, 0], [1, 1, 1]], bool)


def test_a_value_for_each_token_counts_tokens():
  roles = {"student": TOKENS, "teacher": TOKENS._replace(logits=0 * TOKENS[0])}
  batch = {"mask": jnp.asarray(TOKEN_MASK)}
  loss, _, metrics = run(stateless(squared_gap), roles, batch)
  values = np.sum(np.square(TOKENS.logits), -1)
  np.testing.assert_allclose(loss, values[TOKEN_MASK].mean(), rtol=1e-6)
  total, count = metrics["loss"]
  assert count == TOKEN_MASK.sum() == 6
  np.testing.assert_allclose(total, values[TOKEN_MASK].sum(), rtol=1e-6)


def test_a_value_for_each_example_counts_examples_with_any_token():
  def of_sequences(student_logits):
    return jnp.sum(jnp.square(student_logits), (-2, -1))

  batch = {"mask": jnp.asarray(TOKEN_MASK)}
  loss, _, metrics = run(stateless(of_sequences), {"student": TOKENS}, batch)
  values = np.sum(np.square(TOKENS.logits), (-2, -1))
  np.testing.assert_allclose(loss, values[[0, 1, 3]].mean(), rtol=1e-6)
  assert metrics["loss"][1] == 3


def test_a_value_for_each_token_asks_for_a_mask_of_tokens():
  roles = {"student": TOKENS, "teacher": TOKENS}
  message = (
    r"squared_gap returned shape \(4, 3\); expected one value for each entry "
    r"of batch\['mask'\], \(4,\). A loss of tokens needs a mask of tokens: "
    r"give batch\['mask'\] the shape \(4, 3\), or sum"
  )
  with pytest.raises(ValueError, match=message):
    run(stateless(squared_gap), roles)


def test_a_mask_that_is_not_of_bools_is_refused():
  batch = BATCH | {"mask": jnp.ones(4)}
  with pytest.raises(
    TypeError, match=r"squared_gap: batch\['mask'\] is of flo"
  ):
    run(stateless(squared_gap), batch=batch)


def test_the_loss_refuses_static_hyperparameters_out_of_range():
  for changes in ({"temperature": -1.0}, {"alpha": np.float32(1.5)}):
    objective = stateless(kd_loss, **changes)
    _, state = objective.init(KEY, {})
    with pytest.raises(ValueError, match=f"{next(iter(changes))} is"):
      jax.eval_shape(objective.apply, {}, state, BOTH, BATCH, KEY)


def test_half_precision_reaches_the_loss_in_float32():
  cross_entropy = optax.softmax_cross_entropy_with_integer_labels
  student = outputs(1, jnp.bfloat16)
  loss, _, metrics = run(stateless(cross_entropy), {"student": student})
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
    apply({}, {"scale": jnp.float32(s)}, BOTH, BATCH, KEY)[0]
    for s in (1.0, 2.0, 3.0)
  ]
  states = jax.vmap(
    lambda scale: stateless(squared_gap, scale=scale).init(KEY, {})[1]
  )(jnp.arange(1.0, 4.0))
  swept = jax.vmap(objective.apply, (None, 0, None, None, None))(
    {}, states, BOTH, BATCH, KEY
  )[0]
  np.testing.assert_allclose(swept, losses, rtol=1e-6)


def test_options_are_bound_and_numbers_are_kept():
  """Words, bools, tuples and functions are no leaves of a state."""

  def loss(student_logits, teacher_logits, *, kind, double, sizes, map_, scale):
    assert (kind, double, sizes) == ("squared", True, (1, 2))
    return map_(squared_gap(student_logits, teacher_logits, scale=scale))

  options = {"kind": "squared", "double": True, "sizes": (1, 2)}
  objective = stateless(loss, map_=jnp.sqrt, scale=4.0, **options)
  value, state, _ = run(objective)
  assert state == {"scale": 4.0}
  plain = np.asarray(squared_gap(STUDENT.logits, TEACHER.logits))
  np.testing.assert_allclose(
    value, 2 * np.sqrt(plain)[[0, 1, 3]].mean(), rtol=1e-6
  )
  # Unwrapped: beartype, which users do not run, would be first to complain.
  with pytest.raises(TypeError, match="kd is None"):
    run(inspect.unwrap(combine)({"kd": (None, stateless(squared_gap))}))


@pytest.mark.parametrize("selected", [False, True])
def test_a_random_loss_gets_the_key_by_place_or_by_name(selected):
  def first(key, student_logits):
    return jax.random.uniform(key, student_logits.shape[:1])

  def last(student_logits, *, key):
    return first(key, student_logits)

  select = ("teacher_logits",) if selected else None
  value, by_name = (run(stateless(x, select))[0] for x in (first, last))
  expected = jax.random.uniform(KEY, (4,))[jnp.array([0, 1, 3])].mean()
  np.testing.assert_allclose([value, by_name], expected, rtol=1e-6)


def test_what_does_not_fit_is_refused_when_it_is_built():
  # Unwrapped, as above.
  build, add = inspect.unwrap(stateless), inspect.unwrap(combine)
  with pytest.raises(ValueError, match="'temprature'; expected one of temp"):
    build(kd_loss, temprature=4.0)
  with pytest.raises(ValueError, match="has no value for slack; expected them"):
    build(lambda student_logits, *, slack: student_logits)
  with pytest.raises(TypeError, match="loss is a float; expected a function"):
    build(1.0)
  for part in (stateless(squared_gap), (1.0, kd_loss)):
    with pytest.raises(TypeError, match=r"combine: kd is .*by `stateless`"):
      add({"kd": part})


def test_combine_adds_weighted_losses_and_prefixes_metrics():
  gap = stateless(squared_gap)
  features = stateless(
    squared_gap, ("student_features.low", "teacher_features.high")
  )
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
    metrics = both.apply(*both.init(KEY, BOTH), BOTH, BATCH, KEY)[2]
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
  def apply(params, state, outputs, batch, key, *, axis_name=None):
    return params * 0, state + jax.random.normal(key), {}

  noisy = Objective(
    lambda key, specs: (jax.random.normal(key), jnp.zeros(())), apply
  )
  both = combine({"a": (1, noisy), "b": (1, noisy)})
  params, _ = both.init(KEY, {})
  assert params["a"] != params["b"]
  _, state, _ = run(both)
  assert state["objectives"]["a"] != state["objectives"]["b"] != 0


def test_a_combination_is_of_named_parts():
  with pytest.raises(TypeError, match=r"objectives is a list; expected a mapp"):
    inspect.unwrap(combine)([(1.0, stateless(squared_gap))])
  with pytest.raises(ValueError, match=r"objectives is empty; expected one or"):
    combine({})
