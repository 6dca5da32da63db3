"""IRM, V-REx, SD and Group DRO against their formulas in NumPy."""

import chex
import jax
import jax.numpy as jnp
import laws
import numpy as np
import oracles
import pytest

from kdjax.generalization import domain_losses
from kdjax.generalization import group_dro
from kdjax.generalization import irm_penalty
from kdjax.generalization import sd_penalty
from kdjax.generalization import vrex_penalty

RNG = np.random.default_rng(0)
LOGITS = 3 * RNG.normal(size=(16, 5)).astype(np.float32)
SAME = np.zeros((16, 1), np.float32)
LABELS = RNG.integers(0, 5, 16)


def irm(logits, _, labels, **options):
  return irm_penalty(logits, labels, **options)


CASES = {
  "irm halves": laws.Case(irm, (LOGITS, SAME, LABELS), coupled=True),
  "irm squared": laws.Case(
    irm, (LOGITS, SAME, LABELS), options={"form": "squared"}, coupled=True
  ),
  "sd": laws.Case(lambda logits, _: sd_penalty(logits), (LOGITS, SAME)),
}
PENALTY_LAWS = [law for law in laws.LAWS if law is not laws.no_recompilation]


@pytest.mark.parametrize("law", PENALTY_LAWS)
@pytest.mark.parametrize("name", CASES)
def test_law(name, law):
  law(CASES[name])


def scale_gradients(logits, labels):
  """By central differences of the cross-entropy of scaled logits."""
  step = 1e-6
  up, down = (
    oracles.cross_entropy((1 + s) * logits, labels) for s in (step, -step)
  )
  return (up - down) / (2 * step)


@jax.jit
def both_forms(logits, labels):
  return irm_penalty(logits, labels), irm_penalty(
    logits, labels, form="squared"
  )


@pytest.mark.parametrize(("batch", "classes"), [(7, 4), (12, 2), (1, 3)])
def test_irm_is_the_gradient_by_a_dummy_scale(batch, classes):
  rng = np.random.default_rng(batch)
  logits = 4 * rng.normal(size=(3, batch, classes))
  labels = rng.integers(0, classes, (3, batch))
  with jax.enable_x64(True):
    halves, squared = both_forms(logits, labels)
    assert halves.shape == (3,)
    for d in range(3):
      slopes = scale_gradients(logits[d], labels[d])
      np.testing.assert_allclose(squared[d], slopes.mean() ** 2, rtol=1e-6)
      odd = slopes[1::2].mean() if batch > 1 else 0.0
      np.testing.assert_allclose(halves[d], slopes[::2].mean() * odd, rtol=1e-6)


def test_irm_keeps_digits_and_bears_masked_classes():
  # Sure of the label, by a gap of 20: the slopes are tiny, not rounding.
  logits = np.float32([[1e4, 1e4 - 20.0], [1e4 - 20.0, 1e4]])
  labels = np.array([0, 1])
  slope = -20 * np.exp(-20) / (1 + np.exp(-20))
  run = jax.jit(jax.value_and_grad(irm_penalty))
  expected, _ = run(logits, labels)
  np.testing.assert_allclose(expected, slope**2, rtol=1e-5)
  masked = np.pad(logits, ((0, 0), (0, 1)), constant_values=-np.inf)
  value, gradient = run(masked, labels)
  np.testing.assert_allclose(value, expected, rtol=1e-6)
  assert np.all(np.isfinite(gradient))


def test_vrex_is_the_variance():
  losses = np.float32([1.0, 4.0, 2.0, 7.0])
  where = np.array([True, True, False, True])
  masked = jax.jit(jax.value_and_grad(vrex_penalty))

  @jax.jit
  def unmasked(losses):
    over_devices = jax.vmap(
      lambda x: vrex_penalty(x, axis_name="d"), axis_name="d"
    )
    return (
      vrex_penalty(losses),
      vrex_penalty(losses[:1]),
      over_devices(losses.reshape(2, 2)),
    )

  value, alone, over_devices = unmasked(losses)
  np.testing.assert_allclose(value, np.var(losses), rtol=1e-6)
  np.testing.assert_allclose(over_devices, np.var(losses), rtol=1e-6)
  assert alone == 0
  value, gradient = masked(np.where(where, losses, np.nan), where=where)
  np.testing.assert_allclose(value, np.var(losses[where]), rtol=1e-6)
  expected = 2 * (losses - losses[where].mean()) / 3 * where
  np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-6)
  value, gradient = masked(losses, where=np.zeros(4, bool))
  assert value == 0
  assert not np.any(gradient)


def test_domain_losses():
  losses = np.float32([[1.0, 3.0, 8.0], [2.0, 6.0, 7.0]])
  where = np.array([[True, True, False], [False, False, False]])

  @jax.jit
  def run(losses, where):
    over_devices = jax.vmap(
      lambda x, w: domain_losses(x, where=w, axis_name="d"), 1, axis_name="d"
    )
    return (
      domain_losses(losses),
      domain_losses(losses, where=where),
      over_devices(losses[:, :, None], where[:, :, None]),
    )

  every, masked, over_devices = run(losses, where)
  np.testing.assert_allclose(every, [4.0, 5.0])
  np.testing.assert_allclose(masked, [2.0, 0.0])
  np.testing.assert_allclose(over_devices, [[2.0, 0.0]] * 3)


def test_group_dro_is_exponentiated_gradient_ascent():
  losses, weights = np.array([1.0, 3.0, 0.5]), np.array([0.2, 0.3, 0.5])
  raised = weights * np.exp(0.7 * losses)
  raised /= raised.sum()
  with jax.enable_x64(True):
    (value, updated), gradient = jax.jit(
      jax.value_and_grad(group_dro, has_aux=True)
    )(losses, weights, 0.7)
  np.testing.assert_allclose(updated, raised, rtol=1e-12)
  np.testing.assert_allclose(value, raised @ losses, rtol=1e-12)
  # The weights have no gradient: that of the losses is the weights.
  np.testing.assert_allclose(gradient, raised, rtol=1e-12)


def test_group_dro_absent_domains_and_extremes():
  losses = np.float32([1.0, np.nan, 2.0])
  weights = np.full(3, 1 / 3, np.float32)
  where = np.array([True, False, True])
  run = jax.jit(chex.assert_max_traces(group_dro, n=1))
  value, updated = run(losses, weights, 0.5, where=where)
  present = np.exp([0.5, 1.0])
  np.testing.assert_allclose(
    value, present @ [1.0, 2.0] / present.sum(), rtol=1e-6
  )
  np.testing.assert_allclose(updated[1], 1 / (1 + present.sum()), rtol=1e-6)
  value, updated = run(losses, weights, 0.1, where=np.zeros(3, bool))
  assert value == 0
  np.testing.assert_allclose(updated, weights, rtol=1e-6)
  value, updated = jax.jit(group_dro)(
    np.float32([1e4, 0.0]), np.float32([0.5, 0.5]), 1.0
  )
  assert value == 1e4
  np.testing.assert_array_equal(updated, [1.0, 0.0])


def test_sd_leaves_masked_classes_out():
  logits = np.float32([[1.0, -np.inf, 3.0], [-np.inf] * 3])
  value, gradient = jax.jit(
    jax.value_and_grad(lambda z: jnp.sum(sd_penalty(z)))
  )(logits)
  assert value == 5.0
  np.testing.assert_array_equal(gradient, [[1.0, 0.0, 3.0], [0.0] * 3])


def test_errors():
  with pytest.raises(ValueError, match="form is 'half'"):
    irm_penalty(LOGITS, LABELS, form="half")
  with pytest.raises(ValueError, match=r"labels has shape \(3,\)"):
    irm_penalty(LOGITS, LABELS[:3])
  with pytest.raises(TypeError, match="labels has dtype float32"):
    irm_penalty(LOGITS, LOGITS[:, 0])
  with pytest.raises(ValueError, match=r"weights has shape \(2,\)"):
    group_dro(np.ones(3), np.ones(2))
  with pytest.raises(ValueError, match=r"step_size has shape \(3,\)"):
    group_dro(np.ones(3), np.ones(3), np.ones(3))
