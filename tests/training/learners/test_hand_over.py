"""What one stage of training leaves to the next."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from kdjax import methods, training
from kdjax.methods import Method, Pass

KEY = jax.random.key(0)
BATCH = {"x": jnp.ones((4, 3)), "label": jnp.arange(4) % 2}


def coder():
  """A part of an objective that both stages have."""

  def build(rngs, outputs, batch):
    return nnx.Linear(2, 2, rngs=rngs)

  def loss(module, student_logits):
    return jnp.sum(module(student_logits) ** 2, -1)

  return methods.modular(build, loss)


def learner_of(first, then):
  method = Method(
    then, {"student": Pass(train=True)}, before={"first": Method(first, ROWS)}
  )
  network = training.Network.of(lambda rngs: nnx.Linear(3, 2, rngs=rngs))
  return training.learner(method, network, optax.sgd(0.1), on="x")


ROWS = {"student": Pass(train=True)}


def test_a_stage_leaves_the_student_and_a_part_of_its_form():
  plain = methods.stateless(lambda student_logits: student_logits.sum(-1))
  both = methods.combine({"ce": (1.0, plain), "coder": (1.0, coder())})
  own = learner_of(coder(), both)
  with pytest.raises(ValueError, match="starts after the stage 'first'"):
    own.init(KEY, BATCH)
  before = own.stages["first"].init(KEY, BATCH)
  handed = training.hand_over(own, before)
  state = handed.init(jax.random.key(1), BATCH)
  assert not handed.stages
  for name, part in (
    ("student", state.params["student"]),
    ("objective", state.params["objective"]["coder"]),
  ):
    jax.tree.map(np.testing.assert_array_equal, part, before.params[name])
  assert state.step == 0
  # A step may take the memory of what was handed over.
  step = jax.jit(handed.step, donate_argnums=0)
  step(state, handed.frozen, BATCH, KEY)
  assert not any(x.is_deleted() for x in jax.tree.leaves(before.params))
