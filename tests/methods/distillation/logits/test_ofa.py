"""OFA: heads on stages and on tokens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from kdjax.distillation import ofa_loss
from kdjax.methods.distillation.logits._ofa import _Merge, _ofa
from kdjax.nets import Outputs

RNG = np.random.default_rng(0)
KEY = jax.random.key(0)
MASK = np.arange(4) < 3
BATCH = {"label": jnp.asarray(np.arange(4) % 3), "mask": jnp.asarray(MASK)}


def network(*shapes, width=6):
  """Outputs for 4 images with features of these shapes."""
  features = {
    f"f{i:02}": RNG.normal(size=(4, *shape)).astype(np.float32)
    for i, shape in enumerate(shapes)
  }
  logits, embedding = (
    RNG.normal(size=(4, n)).astype(np.float32) for n in (3, width)
  )
  return jax.tree.map(jnp.asarray, Outputs(logits, features, embedding))


OFA_LOSS = jax.jit(ofa_loss)


def count(params):
  return sum(leaf.size for leaf in jax.tree.leaves(params))


def loss_of(objective, **outputs):

  @jax.jit
  def program(outputs):
    params, state = objective.init(KEY, outputs)
    value, *_ = objective.apply(params, state, outputs, BATCH, KEY)
    return params, value

  return program(outputs)


def test_ofa_sizes_its_heads_as_the_authors_do():
  """Separable convolutions down to the deepest stage, then a classifier."""
  student = network((8, 8, 4), (8, 8, 4), (4, 4, 8), (2, 2, 12), width=12)
  params, _ = jax.eval_shape(
    _ofa().init, KEY, {"student": student, "teacher": network(width=20)}
  )

  def separable(inputs, outputs):
    return 18 * inputs + inputs**2 + inputs * outputs + 2 * (inputs + outputs)

  classifier = 20 * 3 + 3
  expected = separable(4, 8) + separable(8, 20) + separable(8, 20)
  expected += 12 * 20 + 20 + 3 * classifier
  assert count(params) == expected


def test_ofa_of_tokens_takes_four_layers_and_deeper_heads_for_shallow_ones():
  def block(width):
    return 4 * width + 12 * width**2 + width + 5 * width

  student = network(*[(197, 8)] * 12)
  params, _ = jax.eval_shape(
    _ofa().init, KEY, {"student": student, "teacher": network()}
  )
  merge = 2 * 32 + 32 * 8
  classifier = 8 * 3 + 3
  assert count(params) == 4 * (merge + classifier) + 7 * block(8)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(16, 8), (17, 8), (7, 8), (5,)])
def test_ofa_of_tokens_and_units(shape):
  student, teacher = network(shape, shape), network()
  params, value = loss_of(_ofa(), student=student, teacher=teacher)
  assert count(params) > 0
  ends = OFA_LOSS(student.logits, teacher.logits, BATCH["label"])
  assert value > np.asarray(ends)[MASK].mean()
  assert np.isfinite(value)


def test_a_merged_token_sees_its_own_four_patches():
  patches = RNG.normal(size=(1, 16, 3)).astype(np.float32)
  moved = patches.copy()
  moved[0, 6] = 5  # the second row's third patch

  @jax.jit
  def merged(patches, moved):
    merge = _Merge(3, True, nnx.Rngs(0))
    return merge(patches), merge(moved)

  before, after = map(np.asarray, merged(patches, moved))
  changed = np.any(before != after, -1)
  np.testing.assert_array_equal(changed[0], [False, True, False, False])


@pytest.mark.slow
def test_ofa_needs_nothing_of_the_teacher_but_logits():
  """A cache has no more, and the student's width will do."""
  student = network((4, 4, 3), (2, 2, 5), width=5)
  teacher = Outputs(student.logits[::-1], {}, None)
  params, value = loss_of(_ofa(), student=student, teacher=teacher)
  assert np.isfinite(value)
  assert params[0]["classifier"]["kernel"].shape == (5, 3)


def test_ofa_without_features_is_refused():
  with pytest.raises(ValueError, match="student has no features"):
    loss_of(_ofa(), student=network(), teacher=network((2, 2, 3)))
