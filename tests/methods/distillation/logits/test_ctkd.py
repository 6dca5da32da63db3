"""CTKD: the temperature climbs against the student, little by little."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.distillation import soft_target_loss
from kdjax.methods import create
from kdjax.methods.distillation.logits._ctkd import _ctkd
from kdjax.nets import Outputs

RNG = np.random.default_rng(0)
STUDENT, TEACHER = (
  Outputs(jnp.float32(3 * RNG.normal(size=(8, 5))), {}, None) for _ in range(2)
)
BOTH = {"student": STUDENT, "teacher": TEACHER}
BATCH = {"mask": jnp.arange(8) < 6}
KEY = jax.random.key(0)


def program(objective):
  def loss(params, state, logits):
    moved = BOTH | {"student": STUDENT._replace(logits=logits)}
    value, state, _ = objective.apply(params, state, moved, BATCH, KEY)
    return value, state

  return jax.jit(jax.value_and_grad(loss, (0, 2), has_aux=True))


def test_gradient_grows_along_half_a_cosine():
  objective = _ctkd(steps_per_epoch=2, ramp_epochs=4)
  params, state = jax.jit(objective.init)(KEY, BOTH)
  assert params == {"parameter": 1.0}
  step = program(objective)
  slopes = []
  for _ in range(10):
    (value, state), (gradient, _) = step(params, state, STUDENT.logits)
    slopes.append(gradient["parameter"])

  @jax.jit
  @jax.value_and_grad
  def plain(parameter):
    temperature = 1 + 20 * jax.nn.sigmoid(parameter)
    values = soft_target_loss(
      STUDENT.logits, TEACHER.logits, temperature=temperature
    )
    return jnp.mean(values[:6])

  expected, slope = plain(1.0)
  np.testing.assert_allclose(value, expected, rtol=1e-5)
  epochs = np.repeat(np.minimum(np.arange(1, 6), 4), 2)
  reversal = (1 - np.cos(np.pi * epochs / 4)) / 2
  np.testing.assert_allclose(slopes, -reversal * slope, rtol=1e-4)


@pytest.mark.slow
def test_each_example_may_have_its_own():
  """The perceptron resists; the student still sees a plain soft target."""
  objective = _ctkd(steps_per_epoch=1, ramp_epochs=1, units=4)
  params, state = jax.jit(objective.init)(KEY, BOTH)
  (value, _), (gradient, by_logits) = program(objective)(
    params, state, STUDENT.logits
  )
  assert np.isfinite(value)
  assert np.any(gradient["inner"]["kernel"] != 0)
  np.testing.assert_allclose(by_logits.sum(-1), 0.0, atol=1e-6)


def test_a_method_counts_epochs():
  with pytest.raises(ValueError, match="ctkd counts epochs; expected steps_"):
    create("ctkd")
