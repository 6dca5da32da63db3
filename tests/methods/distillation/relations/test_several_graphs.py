"""IRG and ITRD: what they embed, select and leave out."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.distillation import irg_loss, itrd_correlation_loss, itrd_mutual_loss
from kdjax.methods.distillation.relations._irg import _irg
from kdjax.methods.distillation.relations._itrd import _itrd
from kdjax.nets import Outputs

MASK = np.arange(8) < 6
KEY = jax.random.key(0)


def outputs(width, shapes=(), seed=0):
  rng = np.random.default_rng(seed)

  def draw(*shape):
    return rng.normal(size=(8, *shape)).astype(np.float32)

  features = {f"f{i}": draw(*shape) for i, shape in enumerate(shapes)}
  return jax.tree.map(jnp.asarray, Outputs(draw(3), features, draw(width)))


def run(objective, student, teacher):

  @jax.jit
  def program(outputs):
    params, state = objective.init(KEY, outputs)
    return params, objective.apply(params, state, outputs, {"mask": MASK}, KEY)

  outputs = {"student": student, "teacher": teacher}
  params, (value, *_) = jax.device_get(program(outputs))
  return params, value


def linear(params, x):
  return np.asarray(x) @ params["kernel"] + params["bias"]


@pytest.mark.slow
@pytest.mark.parametrize("width", [4, 6])
def test_itrd_embeds_the_mutual_term_only_if_it_must(width):
  student, teacher = outputs(width), outputs(6, seed=1)
  params, value = run(_itrd(), student, teacher)
  embedded = linear(params, student.embedding)
  compared = student.embedding if width == 6 else embedded

  @jax.jit
  def loss(embedded, compared, teacher):
    return 2.0 * itrd_correlation_loss(
      embedded, teacher, where=MASK
    ) + 0.05 * itrd_mutual_loss(compared, teacher, where=MASK)

  expected = loss(embedded, compared, teacher.embedding)
  np.testing.assert_allclose(value, expected, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
  ("ours", "theirs"),
  [
    (((4, 4, 2), (4, 4, 4), (2, 2, 8)), ((8, 8, 3), (4, 4, 6))),
    (((12,), (8,), (6,)), ((9, 5), (9, 5), (9, 5))),
  ],
  ids=["maps", "units and tokens"],
)
def test_irg_takes_the_last_two_stages_of_any_network(ours, theirs):
  student, teacher = outputs(4, ours), outputs(6, ((4, 4, 2), *theirs), 1)
  _, value = run(_irg(), student, teacher)

  def as_map(x):
    return x.reshape(8, *(1,) * (4 - x.ndim), *x.shape[1:])

  maps = [
    [as_map(side.features[name]) for name in sorted(side.features)[-2:]]
    for side in (student, teacher)
  ]
  embeddings = student.embedding, teacher.embedding
  expected = jax.jit(functools.partial(irg_loss, where=MASK))(
    *embeddings, *maps, student.logits, teacher.logits
  )
  np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_irg_of_a_single_stage():
  student, teacher = outputs(4, ((5,),)), outputs(6, ((7,),), 1)
  _, value = run(_irg(), student, teacher)
  assert np.isfinite(value)


def test_errors_say_what_came():
  bare = Outputs(jnp.zeros((8, 3)), {}, None)
  with pytest.raises(ValueError, match="teacher has no embedding"):
    _itrd().init(KEY, {"student": outputs(4), "teacher": bare})
