"""Two parts of a batch are the whole batch, once `apply` names the axis."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from kdjax import methods
from kdjax.nets import Outputs
from kdjax.ops import masked_mean

KEY = jax.random.key(0)
ROWS = 8
RNG = np.random.default_rng(0)


def outputs(width):
  logits, embedding = (
    jnp.float32(RNG.normal(size=(ROWS, n))) for n in (3, width)
  )
  return Outputs(logits, {}, embedding)


BOTH = {"student": outputs(4), "teacher": outputs(6)}
# Three examples count in the first half, one in the second.
BATCH = {
  "mask": jnp.array([1, 0, 1, 1, 0, 1, 0, 0], bool),
  "label": jnp.arange(ROWS) % 3,
}
TOKENS = {
  "student": Outputs(jnp.float32(RNG.normal(size=(ROWS, 5, 3))), {}, None),
}
TOKEN_BATCH = {"mask": jnp.asarray(RNG.random((ROWS, 5)) < 0.4)}


def of_examples(student_logits, teacher_logits, labels, *, slack):
  gap = jnp.sum((student_logits - teacher_logits) ** 2, -1)
  return jnp.where(labels == 0, slack, 1.0) * gap


def of_tokens(student_logits):
  return jnp.sum(jnp.square(student_logits), -1)


def of_the_batch(student_embeddings, *, power, where=None, axis_name=None):
  """The variance of what counts: no mean over examples."""
  mean = masked_mean(student_embeddings[:, 0], where, axis_name=axis_name)
  second = masked_mean(
    student_embeddings[:, 0] ** power, where, axis_name=axis_name
  )
  return second - mean**2


class Projector(nnx.Module):
  """A projection with statistics of the batch."""

  def __init__(self, student_embeddings, teacher_embeddings, rngs):
    widths = student_embeddings.shape[-1], teacher_embeddings.shape[-1]
    self.linear = nnx.Linear(*widths, rngs=rngs)
    self.norm = nnx.BatchNorm(widths[1], momentum=0.9, rngs=rngs)


def projected(projector, student_embeddings, teacher_embeddings):
  ours = projector.norm(projector.linear(student_embeddings))
  return jnp.mean((ours - teacher_embeddings) ** 2, -1)


def projected_of_the_batch(projector, student_embeddings, mask, *, axis_name):
  ours = projector.norm(projector.linear(student_embeddings))
  return of_the_batch(ours, power=2, where=mask, axis_name=axis_name)


PARTS = {
  "per example": methods.stateless(of_examples, slack=0.5),
  "coupled": methods.stateless(of_the_batch, power=2.0),
  "modular": methods.modular(Projector, projected),
  "modular and coupled": methods.modular(Projector, projected_of_the_batch),
}
CASES = {name: (part, BOTH, BATCH) for name, part in PARTS.items()}
CASES["tokens"] = methods.stateless(of_tokens), TOKENS, TOKEN_BATCH
CASES["combined"] = (
  methods.combine(
    {
      name.replace(" ", "_"): (0.5 + i, part)
      for i, (name, part) in enumerate(PARTS.items())
    }
    | {"twice": (2.0, methods.combine({"in": (1.0, PARTS["modular"])}))}
  ),
  BOTH,
  BATCH,
)


def step(objective, variables, roles, batch, *, axis_name=None):
  """The value, the metrics of all devices, the state, and the gradients."""
  params, state = variables

  def loss(params, scale):
    student = roles["student"]
    scaled = jax.tree.map(lambda x: x * scale, student)
    value, moved, metrics = objective.apply(
      params,
      state,
      roles | {"student": scaled},
      batch,
      KEY,
      axis_name=axis_name,
    )
    return value, (moved, metrics)

  (value, (moved, metrics)), gradients = jax.value_and_grad(
    loss, (0, 1), has_aux=True
  )(params, jnp.float32(1.1))
  if axis_name is not None:
    metrics = jax.lax.psum(metrics, axis_name)
    gradients = jax.lax.pmean(gradients, axis_name)
  return value, metrics, moved, gradients


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_two_parts_are_the_whole(name):
  objective, roles, batch = CASES[name]
  halves = jax.tree.map(
    lambda x: x.reshape(2, ROWS // 2, *x.shape[1:]), (roles, batch)
  )

  @jax.jit
  def both(halves, roles, batch):
    variables = objective.init(KEY, roles)

    def part(roles, batch):
      return step(objective, variables, roles, batch, axis_name="batch")

    whole = step(objective, variables, roles, batch)
    return whole, jax.vmap(part, axis_name="batch")(*halves)

  whole, parts = both(halves, roles, batch)
  for expected, got in zip(*map(jax.tree.leaves, (whole, parts)), strict=True):
    for i in range(2):
      np.testing.assert_allclose(got[i], expected, rtol=2e-5, atol=1e-6)
  value, gradients = whole[0], whole[-1]
  assert value != 0
  assert all(np.any(x != 0) for x in jax.tree.leaves(gradients[1]))


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_part_alone_is_another_loss(name):
  """So the test above can fail: no part ignores the axis."""
  objective, roles, batch = CASES[name]
  halves = jax.tree.map(lambda x: x[: ROWS // 2], (roles, batch))

  @jax.jit
  def values(halves, roles, batch):
    variables = objective.init(KEY, roles)
    return [
      objective.apply(*variables, *both, KEY)[0]
      for both in (halves, (roles, batch))
    ]

  part, whole = values(halves, roles, batch)
  assert abs(part - whole) > 1e-3 * abs(whole)


# Gradients of an episode, which are no part of an objective.
OF_EPISODES = {"maml_losses", "reptile_gradient", "adapt_to_task"}


def test_only_apply_names_the_axis():
  for name in set(methods.__all__) - OF_EPISODES:
    value = getattr(methods, name)
    if callable(value) and not isinstance(value, type):
      assert "axis_name" not in inspect.signature(value).parameters, name
  parameters = inspect.signature(PARTS["coupled"].apply).parameters
  assert parameters["axis_name"].kind is inspect.Parameter.KEYWORD_ONLY
  # A hyper-parameter of this name would be a second way to say it.
  with pytest.raises(ValueError, match="no hyper-parameter 'axis_name'"):
    methods.stateless(of_the_batch, power=2.0, axis_name="batch")
