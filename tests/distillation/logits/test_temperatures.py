"""Temperatures that follow the training or the example."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from kdjax.distillation import (
  ctkd_temperature,
  cwsm_temperature,
  flsw_temperature,
  soft_target_loss,
)
from tests import laws, oracles

RNG = np.random.default_rng(4)
STUDENT, TEACHER = (3 * RNG.normal(size=(2, 16, 6))).astype(np.float32)
MASK = np.arange(16) % 5 != 1


def weights():
  def direction(z):
    z = np.float64(z)
    return z / (np.linalg.norm(z, axis=-1, keepdims=True) + 1e-4)

  cosine = (direction(STUDENT) * direction(TEACHER)).sum(-1)
  confidence = np.exp(oracles.log_softmax(STUDENT)).max(-1)
  return (1 - cosine) ** 1.5, np.float64(1 / (confidence + 1e-3))


@functools.partial(jax.jit, static_argnames="axis_name")
def temperatures(student, teacher, where, axis_name=None):
  options = {"temperature": 5.0, "beta": 0.7, "where": where}
  return (
    flsw_temperature(
      student, teacher, gamma=1.5, axis_name=axis_name, **options
    ),
    cwsm_temperature(student, teacher, axis_name=axis_name, **options),
  )


def test_per_example_temperatures_equal_their_formulas():
  for values, weight in zip(
    temperatures(STUDENT, TEACHER, MASK), weights(), strict=True
  ):
    expected = 5.0 + 0.7 * (weight[MASK].mean() - weight)
    np.testing.assert_allclose(values, expected, rtol=1e-5)


def test_the_mean_is_that_of_all_devices():
  mesh = jax.make_mesh(
    (8,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,)
  )
  sharded = jax.shard_map(
    lambda s, t, m: temperatures(s, t, m, "batch"),
    mesh=mesh,
    in_specs=P("batch"),
    out_specs=P("batch"),
  )
  for got, expected in zip(
    jax.jit(sharded)(STUDENT, TEACHER, MASK),
    temperatures(STUDENT, TEACHER, MASK),
    strict=True,
  ):
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_no_gradient_and_extremes():
  rows = np.float32([[0, 0, 0], [1e4, 0, -1e4], [1, 2, 3]])

  @jax.jit
  def gradient(student, teacher):
    return jax.grad(
      lambda s: sum(map(jnp.sum, temperatures(s, teacher, None)))
    )(student)

  np.testing.assert_array_equal(gradient(rows, rows[::-1]), 0.0)
  for values in temperatures(rows, rows[::-1], np.ones(3, bool)):
    assert np.all(np.isfinite(values))
  for values in temperatures(rows, rows, np.zeros(3, bool)):
    assert np.all(np.isfinite(values))


def test_masked_classes_are_as_if_absent():
  masked = [
    np.concatenate([z, np.full((16, 1), -np.inf, np.float32)], 1)
    for z in (STUDENT, TEACHER)
  ]
  for got, expected in zip(
    temperatures(*masked, MASK),
    temperatures(STUDENT, TEACHER, MASK),
    strict=True,
  ):
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_curriculum_temperature_climbs_against_the_student():
  """Its gradient is minus lambda times that of the plain one."""

  @jax.jit
  def gradients(parameter, reversal):
    def loss(parameter, student, reversal):
      temperature = ctkd_temperature(parameter, reversal=reversal)
      values = soft_target_loss(student, TEACHER, temperature=temperature)
      return jnp.mean(values)

    return jax.value_and_grad(loss, (0, 1))(parameter, STUDENT, reversal)

  value, (against, student) = gradients(1.0, 0.25)
  same, (plain, same_student) = gradients(1.0, -1.0)
  assert value == same
  assert abs(plain) > 1e-3
  np.testing.assert_allclose(against, -0.25 * plain, rtol=1e-6)
  np.testing.assert_array_equal(student, same_student)
  expected = 1 + 20 / (1 + np.exp(-1.0))
  np.testing.assert_allclose(
    jax.jit(ctkd_temperature)(1.0), expected, rtol=1e-6
  )


def test_errors():
  with pytest.raises(ValueError, match="span is 0; expected a finite number"):
    laws.trace(ctkd_temperature, 1.0, span=0)
  with pytest.raises(ValueError, match="temperature is -1; expected"):
    laws.trace(cwsm_temperature, STUDENT, temperature=-1)
  with pytest.raises(ValueError, match=r"gamma has shape \(16,\); expected"):
    laws.trace(flsw_temperature, STUDENT, TEACHER, gamma=np.ones(16))
