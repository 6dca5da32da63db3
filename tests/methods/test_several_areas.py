"""Every method of all areas but distillation trains."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdjax import methods, nets
from tests.methods.learners import KEY, learner_of

# The same methods as those of another row, with another option or weight.
VARIANTS = {
  "mutual_mean",
  "kdcl_naive",
  "kdcl_linear",
  "bic",
  "si",
  "clip_fd",
  "clip_ckd",
  "clip_icl",
  "clip_gd",
  "affinity_mimicking",
  # Losses of tokens, which only differ in the function.
  "minilm",
  "distillm2",
  "distilbert",
  "minilm_v2",
  "pkd",
  "seqkd",
  "gkd",
  "distillm",
  "adaptive_kl",
  "on_policy_distillation",
  "uld",
  "dskd",
}
NAMES = [
  name
  for name in methods.names()
  if methods.describe(name).area != "distillation"
]
# The methods of language train in tests/methods/language, and those of
# generalization in tests/experiments/test_generalize.py.
ELSEWHERE = {"distillation", "language", "generalization"}
TRAINED = [
  name
  for name in methods.names()
  if methods.describe(name).area not in ELSEWHERE and name not in VARIANTS
]
# Every third one, those that no slow test trains, and one for each way of
# generalization: a penalty, a rule for gradients, a network beside.
TRACED = [
  name
  for name in NAMES
  if name in (*TRAINED[::3], "irm", "andmask", "crossgrad")
  or (name in VARIANTS and methods.describe(name).area != "language")
]


@pytest.mark.parametrize("name", TRACED)
def test_a_step_of_every_method_can_be_traced(name):
  learner, batch = learner_of(name)
  state = jax.eval_shape(learner.init, KEY, batch)
  moved, metrics = jax.eval_shape(
    learner.step, state, learner.frozen, batch, KEY
  )
  assert jax.tree.structure(moved) == jax.tree.structure(state)
  assert metrics["loss"][0].shape == ()


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINED)
def test_two_steps_of_every_method_are_finite_and_move(name):
  learner, batch = learner_of(name)

  step = jax.jit(learner.step)
  state = jax.jit(learner.init)(KEY, batch)
  first, _ = step(state, learner.frozen, batch, KEY)
  last, metrics = step(first, learner.frozen, batch, KEY)
  start = {k: v for k, v in state.params.items() if k != "objective"}
  end = {k: last.params[k] for k in start}
  for leaf in jax.tree.leaves((last.params, metrics)):
    assert np.all(np.isfinite(leaf))
  moved = jax.tree.map(lambda a, b: np.any(a != b), start, end)
  # Batch statistics alone; labels that `renew` gives before each epoch; and
  # these four examples have no tuple: the two of one class are the farthest.
  still = name in {"adabn", "goat", "refilled_relation"}
  assert any(jax.tree.leaves(moved)) != still
  assert "loss" in metrics


# Of each way in which a loss or a rule looks at the whole batch, one.
SHARDED = (
  "dann",
  "iwan",
  "shot",
  "irm",
  "fishr",
  "group_dro",
  "andmask",
  "mldg",
  "der_plus_plus",
  "okddip",
  "minillm",
)


@pytest.mark.slow
@pytest.mark.parametrize("name", SHARDED)
def test_two_shards_equal_the_whole_batch(name):
  learner, batch = learner_of(name, optimizer=optax.sgd(0.1))
  generalizes = methods.describe(name).area == "generalization"
  # The first shard has one example less than the second.
  first = (0, 0) if generalizes else (0,)
  parts = batch.values() if "mask" not in batch else [batch]
  for part in parts:
    part["mask"] = part["mask"].at[first].set(False)
  state = jax.jit(learner.init)(KEY, batch)

  @jax.jit
  def whole(state, frozen, batch):
    return learner.step(state, frozen, batch, KEY)

  @jax.jit
  def in_shards(state, frozen, batch):
    def split(x):
      if generalizes:
        return jnp.stack(jnp.split(x, 2, 1))
      return jnp.stack(jnp.split(x, 2))

    def step(batch):
      return learner.step(state, frozen, batch, KEY, axis_name="shards")

    moved = jax.vmap(step, axis_name="shards")(jax.tree.map(split, batch))
    return jax.tree.map(lambda x: x[0], moved)

  one, two = (f(state, learner.frozen, batch) for f in (whole, in_shards))
  for expected, value in zip(
    jax.tree.leaves(one), jax.tree.leaves(two), strict=True
  ):
    np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-5)


def test_names_are_unique_and_every_row_says_what_it_does():
  for name in methods.names():
    row = methods.describe(name)
    assert name == name.lower()
    assert row.title
    assert row.summary
    assert len(row.summary) < 80


def test_a_weight_goes_to_the_method_that_has_one():
  objective = methods.create("mme", weight=0.7).objective
  specs = dict.fromkeys(
    ("source", "target"), nets.Outputs(jnp.ones((2, 3)), {}, jnp.ones((2, 4)))
  )
  _, state = objective.init(KEY, specs)
  assert state["weights"]["mme"] == 1.0
  own = state["objectives"]["mme"]["hyperparameters"]
  np.testing.assert_allclose(own["weight"], 0.7)


@pytest.mark.parametrize(
  ("name", "message"),
  [
    ("dann", "dann has a ramp over the whole training; expected steps"),
    ("shot", "shot keeps a row for each example; expected num_examples"),
    ("co_tuning", "co_tuning relates the classes of both tasks; expected"),
    ("delta_attention", "delta_attention weighs channels; expected attention"),
  ],
)
def test_what_a_method_needs_is_named(name, message):
  with pytest.raises(ValueError, match=message):
    methods.create(name)
