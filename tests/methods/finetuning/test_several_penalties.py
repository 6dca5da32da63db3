"""L2-SP, DELTA and prototypical networks as objectives."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from kdjax import finetuning, nets, training
from kdjax.methods.finetuning._delta import _delta
from kdjax.methods.finetuning._l2_sp import _l2_sp
from kdjax.methods.finetuning._prototypical import _prototypical
from kdjax.nets import Outputs

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)


def normal(*shape):
  return jnp.asarray(RNG.normal(size=shape), jnp.float32)


def close(value, expected):
  np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)


def mlp(classes, seed):
  return nets.MLP(
    classes, input_shape=(2, 2, 1), hidden=(4,), rngs=nnx.Rngs(seed)
  )


BATCH = {
  "image": normal(4, 2, 2, 1),
  "label": jnp.arange(4) % 3,
  "mask": jnp.arange(4) < 3,
}


@pytest.mark.slow
def test_l2_sp_sees_the_parameters_and_pulls_them_back():
  student, past = mlp(3, 1), mlp(5, 2)
  learner = training.finetune(
    student,
    past,
    _l2_sp(weight=0.5, head_weight=0.25),
    optax.sgd(1.0),
  )
  state = learner.init(KEY, BATCH)
  moved, metrics = jax.jit(learner.step)(state, learner.frozen, BATCH, KEY)
  params, start = state.student.params, learner.frozen["past"].params
  value = finetuning.l2_sp(params, start | {"head": None}, alpha=0.5, beta=0.25)
  total, count = metrics["loss"]
  close(total / count, value)
  jax.tree.map(
    lambda new, old, origin: close(new, old - 0.5 * (old - origin)),
    moved.student.params["layers"],
    params["layers"],
    start["layers"],
  )
  jax.tree.map(
    lambda new, old: close(new, 0.75 * old),
    moved.student.params["head"],
    params["head"],
  )


def test_l2_sp_needs_the_same_network():
  student = mlp(3, 1)
  past = nets.MLP(3, input_shape=(2, 2, 1), hidden=(4, 4), rngs=nnx.Rngs(2))
  learner = training.finetune(past, student, _l2_sp(), optax.sgd(1.0))
  state = learner.init(KEY, BATCH)
  with pytest.raises(ValueError, match="no counterpart of params"):
    jax.eval_shape(learner.step, state, learner.frozen, BATCH, KEY)


def features(*names):
  return {name: normal(4, 2, 2, 3) for name in names}


@pytest.mark.parametrize("attentive", [True, False])
def test_delta_sums_over_the_features_and_shrinks_the_head(attentive):
  attention = {"f1": jnp.array([0.2, 0.5, 0.3])} if attentive else None
  objective = _delta(attention, weight=2.0, head_weight=0.5)
  head = {"kernel": normal(2, 2)}
  roles = {
    role: Outputs(
      normal(4, 3), features("f0", "f1"), None, params={"head": head}
    )
    for role in ("student", "past")
  }
  params, state = objective.init(KEY, roles)
  value, *_ = objective.apply(params, state, roles, BATCH, KEY)
  expected = sum(
    finetuning.delta_loss(
      roles["student"].features[name],
      roles["past"].features[name],
      channel_attention=(attention or {}).get(name),
    )
    for name in ("f0", "f1")
  )
  shrink = 0.5 * jnp.sum(head["kernel"] ** 2) / 2
  close(value, 2 * jnp.mean(expected[:3]) + shrink)
  past = roles["past"]._replace(features=features("f0"))
  with pytest.raises(ValueError, match=r"features of past.*'f1'"):
    objective.apply(params, state, roles | {"past": past}, BATCH, KEY)


@pytest.mark.slow
def test_prototypes_are_of_the_support_that_counts():
  roles = {
    k: Outputs(normal(n, 3), {}, normal(n, 4))
    for k, n in (("support", 7), ("query", 4))
  }
  batch = {
    "support": {"label": jnp.arange(7) % 3, "mask": jnp.arange(7) < 6},
    "query": {"label": jnp.arange(4) % 3, "mask": jnp.arange(4) < 3},
  }
  objective = _prototypical(3)
  value, *_ = objective.apply({}, {}, roles, batch, KEY)
  expected = finetuning.prototypical_loss(
    roles["support"].embedding[:6],
    batch["support"]["label"][:6],
    roles["query"].embedding[:3],
    batch["query"]["label"][:3],
    num_classes=3,
  )
  close(value, jnp.mean(expected))
