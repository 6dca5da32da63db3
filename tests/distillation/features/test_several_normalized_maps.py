"""Attention, factors and neuron selectivity."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.distillation import at_loss, factor_transfer_loss, nst_loss
from tests import laws

RNG = np.random.default_rng(0)
STUDENT = RNG.normal(size=(16, 3, 4, 5)).astype(np.float32)
TEACHER = RNG.normal(size=(16, 3, 4, 5)).astype(np.float32)
WIDE = RNG.normal(size=(16, 3, 4, 7)).astype(np.float32)
CASES = {
  "at": laws.Case(at_loss, (STUDENT, WIDE), {"power": 1.5}),
  "ft": laws.Case(factor_transfer_loss, (STUDENT, TEACHER)),
  # A channel's size does not matter to NST: the laws' weights are for columns.
  "nst": laws.Case(
    lambda *maps: nst_loss(*(jnp.swapaxes(x, 2, 3) for x in maps)),
    (STUDENT, TEACHER[:, :, :3]),
  ),
}
AT, FACTOR, NST = (
  jax.jit(at_loss, static_argnames="form"),
  jax.jit(factor_transfer_loss, static_argnames="form"),
  jax.jit(nst_loss),
)
FORMS = [
  functools.partial(at_loss, form="norm"),
  functools.partial(at_loss, power=0.5),
  functools.partial(factor_transfer_loss, form="attention_maps"),
  factor_transfer_loss,
  nst_loss,
]


@pytest.mark.parametrize(("name", "law"), laws.pairs(CASES))
def test_law(name, law):
  law(CASES[name])


def rows(maps):
  """[batch, positions, channels] in float64."""
  maps = np.float64(maps)
  return maps.reshape(len(maps), -1, maps.shape[-1])


def attention(maps, power):
  vectors = np.mean(np.abs(rows(maps)) ** power, -1)
  return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_attention_transfer_equals_the_paper():
  difference = attention(STUDENT, 3) - attention(WIDE, 3)
  loss = functools.partial(AT, STUDENT, WIDE, power=3)
  np.testing.assert_allclose(loss(), (difference**2).mean(1), rtol=1e-4)
  np.testing.assert_allclose(
    loss(form="norm"), np.linalg.norm(difference, axis=1), rtol=1e-4
  )


def test_attention_of_large_maps_does_not_overflow():
  program = jax.jit(
    jax.value_and_grad(lambda s, t: jnp.sum(at_loss(s, t, power=4)))
  )
  value, gradient = program(STUDENT, WIDE)
  large, large_gradient = program(1e6 * STUDENT, 1e6 * WIDE)
  np.testing.assert_allclose(large, value, rtol=1e-4)
  np.testing.assert_allclose(1e6 * large_gradient, gradient, atol=1e-5)


def test_factor_transfer_equals_the_paper_and_repdistiller():
  student, teacher = (
    rows(x) / np.linalg.norm(rows(x), axis=(1, 2), keepdims=True)
    for x in (STUDENT, TEACHER)
  )
  np.testing.assert_allclose(
    FACTOR(STUDENT, TEACHER),
    np.abs(student - teacher).mean((1, 2)),
    rtol=1e-4,
  )
  np.testing.assert_allclose(
    FACTOR(STUDENT, WIDE, form="attention_maps"),
    np.abs(attention(STUDENT, 2) - attention(WIDE, 2)).mean(1),
    rtol=1e-4,
  )


def test_neuron_selectivity_is_the_distance_of_mean_feature_maps():
  """With phi(x) = x x^T, the kernel's MMD is that of the means of phi."""

  def embedding(maps):
    x = rows(maps)
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    return np.einsum("bpc,bqc->bpq", x, x) / x.shape[-1]

  expected = np.square(embedding(STUDENT) - embedding(WIDE)).sum((1, 2))
  np.testing.assert_allclose(NST(STUDENT, WIDE), expected, rtol=1e-4)


@pytest.mark.parametrize("loss", [AT, FACTOR, NST])
def test_the_larger_map_is_averaged(loss):
  large = RNG.normal(size=(16, 6, 8, 5)).astype(np.float32)
  pooled = large.reshape(16, 3, 2, 4, 2, 5).mean((2, 4))
  for pair, same in (
    ((large, TEACHER), (pooled, TEACHER)),
    ((STUDENT, large), (STUDENT, pooled)),
  ):
    np.testing.assert_allclose(loss(*pair), loss(*same), rtol=1e-5)


@pytest.mark.parametrize("loss", FORMS)
def test_dead_channels_and_empty_maps_are_finite(loss):
  maps = np.array(STUDENT[:4])
  maps[..., 1] = 0  # a dead channel
  maps[1] = 0  # an empty map
  program = jax.jit(jax.value_and_grad(lambda s, t: jnp.sum(loss(s, t))))
  for student, teacher in ((maps, TEACHER[:4]), (maps, maps), (maps, 0 * maps)):
    value, gradient = program(student, teacher)
    assert np.isfinite(value)
    assert np.all(np.isfinite(gradient))
    assert np.all(np.abs(gradient) < 1e3)
    np.testing.assert_array_equal(gradient[1], 0)
    if student is teacher:
      np.testing.assert_allclose(value, 0, atol=2e-6)


@pytest.mark.parametrize("loss", FORMS)
def test_not_a_number_reaches_the_caller(loss):
  maps = STUDENT[:2].copy()
  maps[0, 0, 0, 0] = np.nan
  got = jax.jit(loss)(maps, TEACHER[:2])
  np.testing.assert_array_equal(np.isnan(got), [True, False])


def test_errors_name_the_argument():
  with pytest.raises(ValueError, match=r"at_loss: teacher_features.*as in stu"):
    laws.trace(at_loss, STUDENT, WIDE[:2])
  with pytest.raises(ValueError, match=r"map of \(3, 3\) and teacher a map of"):
    laws.trace(nst_loss, STUDENT[:, :, :3], WIDE[:, :2])
  with pytest.raises(ValueError, match="power is 0; expected a finite number"):
    laws.trace(at_loss, STUDENT, WIDE, power=0)
  with pytest.raises(ValueError, match="form is 'sum'"):
    laws.trace(at_loss, STUDENT, WIDE, form="sum")
  with pytest.raises(ValueError, match=r"teacher_features has shape.*7"):
    laws.trace(factor_transfer_loss, STUDENT, WIDE)
