"""CC and CRD in the batch: learned embeddings."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.distillation import cc_loss, crd_in_batch_loss
from kdjax.methods.distillation.relations._cc import _cc
from kdjax.methods.distillation.relations._crd_in_batch import _crd_in_batch
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


@pytest.mark.parametrize(
  ("objective", "loss", "options"),
  [
    (_cc(dim=5, form="kernel", gamma=0.3), cc_loss, {"gamma": 0.3}),
    (_cc(dim=5, form="adjacent"), cc_loss, {"form": "adjacent"}),
    (_crd_in_batch(dim=5), crd_in_batch_loss, {}),
  ],
)
def test_both_networks_are_embedded(objective, loss, options):
  student, teacher = outputs(4), outputs(6, seed=1)
  params, value = run(objective, student, teacher)
  expected = jax.jit(functools.partial(loss, where=MASK, **options))(
    linear(params["student"], student.embedding),
    linear(params["teacher"], teacher.embedding),
  )
  np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_errors_say_what_came():
  bare = Outputs(jnp.zeros((8, 3)), {}, None)
  with pytest.raises(ValueError, match="teacher has no embedding"):
    _cc().init(KEY, {"student": outputs(4), "teacher": bare})
  with pytest.raises(ValueError, match="form is 'rows'"):
    _cc(form="rows")
