"""What holds for several methods on stages."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import methods
from kdjax.methods.distillation.features._ab import _ab
from kdjax.methods.distillation.features._fitnet import _fitnet
from kdjax.methods.distillation.features._ofd import _ofd
from kdjax.methods.distillation.features._review_kd import _review_kd
from kdjax.methods.distillation.features._rows import _at, _kdsvd
from tests.methods.distillation.networks import (
  KEY,
  STAGED,
  STAGED_MASK,
  STAGED_TEACHER,
  STAGED_WIDE,
  pair,
  staged,
  start_and_apply,
)

STAGED_BATCH = {"mask": STAGED_MASK, "label": np.zeros(4, int)}
ALL = ("fitnet", "at", "nst", "fsp", "ab", "ft", "kdsvd", "ofd")


def objective_of(name):
  """A method's own objective, or that of its stage before."""
  method = methods.create(name, steps_per_epoch=5)
  return method.before.get("initialization", method).objective


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fitnet", "afd"])
def test_float64_stays_float64(name):
  """Of features, parameters and statistics; else differences are noise."""
  with jax.enable_x64(True):
    student, teacher = jax.tree.map(jnp.float64, (STAGED, STAGED_WIDE))
    objective = objective_of(name)
    params, state = jax.jit(
      lambda: objective.init(KEY, pair(student, teacher))
    )()

    @jax.jit
    def along(step):
      def loss(step):
        features = jax.tree.map(
          lambda x: x + step * jnp.cos(x), student.features
        )
        moved = student._replace(features=features)
        value, after, _ = objective.apply(
          params, state, pair(moved, teacher), STAGED_BATCH, KEY
        )
        return value, after

      return jax.jvp(loss, (step,), (1.0,))

    (value, after), (slope, _) = along(0.0)
    ahead, behind = (float(along(step)[0][0]) for step in (1e-6, -1e-6))
  assert value.dtype == np.float64
  np.testing.assert_allclose((ahead - behind) / 2e-6, slope, rtol=1e-6)
  assert jax.tree.map(lambda x: x.dtype, after) == jax.tree.map(
    lambda x: x.dtype, state
  )


@pytest.mark.parametrize("name", [*ALL, "review_kd"])
def test_units_are_maps_of_one_position(name):
  """Every method takes an MLP, as far as shapes tell."""

  def flatten(outputs):
    return jax.tree.map(lambda x: x[:, 0, 0] if x.ndim == 4 else x, outputs)

  objective = objective_of(name)
  shapes = jax.eval_shape(flatten, pair(STAGED, STAGED_TEACHER))
  params, state = jax.eval_shape(lambda: objective.init(KEY, shapes))
  loss, *_ = jax.eval_shape(
    objective.apply, params, state, shapes, STAGED_BATCH, KEY
  )
  assert loss.shape == ()


def test_errors_say_what_is_missing():
  bare = STAGED._replace(preactivations=None)
  with pytest.raises(ValueError, match="student has no preactivations"):
    _ab().init(KEY, pair(bare, STAGED_TEACHER))
  with pytest.raises(ValueError, match="teacher has no preactivations"):
    _review_kd().init(KEY, pair(STAGED, bare))
  bare = STAGED_TEACHER._replace(normalizations=None)
  with pytest.raises(ValueError, match="teacher has no normalizations"):
    start_and_apply(_ofd(), pair(STAGED, bare))
  with pytest.raises(ValueError, match="student has a map of"):
    start_and_apply(_fitnet(), pair(STAGED, staged(1, sizes=(8, 8, 3))))
  with pytest.raises(ValueError, match=r"teacher_features\[0\] has shape"):
    start_and_apply(_kdsvd(), pair(STAGED, STAGED_WIDE))
  tall = STAGED_TEACHER._replace(
    features={k: x[:, :1] for k, x in staged(1, (8, 8, 8)).features.items()}
  )
  with pytest.raises(ValueError, match="at most as high and at most as wide"):
    start_and_apply(_at(), pair(STAGED, tall))
