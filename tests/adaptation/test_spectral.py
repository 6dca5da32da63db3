"""Losses on singular values: NumPy, kinks, ranks and devices' needs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from kdjax.adaptation import bnm_loss
from kdjax.adaptation import bsp_loss
from kdjax.adaptation import rsd_loss
from kdjax.adaptation._svd import svd


def samples(n_source=4, n_target=4, dims=9):
  rng = np.random.default_rng(0)
  return rng.normal(size=(n_source, dims)), rng.normal(size=(n_target, dims))


def softmax(logits):
  powers = np.exp(logits - logits.max(-1, keepdims=True))
  return powers / powers.sum(-1, keepdims=True)


def subspace_distance(source, target, weight):
  bases = [np.linalg.svd(x.T, full_matrices=False)[0] for x in (source, target)]
  p_s, cosines, p_t = np.linalg.svd(bases[0].T @ bases[1])
  gap = np.abs(p_s) - np.abs(p_t.T)
  return np.sum(np.sqrt(1 - cosines**2)) + weight * np.sqrt(np.sum(gap**2))


def test_equal_numpy():
  source, target = samples(4, 6)
  values = [np.linalg.svd(x, compute_uv=False) for x in (source, target)]
  logits = 2 * target
  norm = np.linalg.svd(softmax(logits), compute_uv=False).sum()
  with jax.enable_x64(True):
    for k in (1, 2, 9):
      expected = sum((v[:k] ** 2).sum() for v in values)
      value = bsp_loss(source, target, components=k)
      np.testing.assert_allclose(value, expected, rtol=1e-12)
    np.testing.assert_allclose(bnm_loss(logits), -norm / 6, rtol=1e-12)
    np.testing.assert_allclose(
      bnm_loss(logits, scaling="mean"), -norm / 6, rtol=1e-12
    )
    np.testing.assert_allclose(
      bnm_loss(logits[:, :3], scaling="mean") * 3,
      bnm_loss(logits[:, :3]) * 6,
      rtol=1e-12,
    )
    equal = samples()
    np.testing.assert_allclose(
      rsd_loss(*equal, mismatch_weight=0.3),
      subspace_distance(*equal, 0.3),
      rtol=1e-10,
    )


@pytest.mark.parametrize("loss", [bsp_loss, rsd_loss])
def test_gradients_of_two_domains(loss):
  with jax.enable_x64(True):
    check_grads(
      jax.jit(loss),
      tuple(map(jnp.asarray, samples())),
      order=1,
      modes=("fwd", "rev"),
      rtol=1e-5,
    )


def test_gradient_of_predictions():
  with jax.enable_x64(True):
    logits = jnp.asarray(samples()[0])
    check_grads(jax.jit(bnm_loss), (logits,), order=1, modes=("fwd", "rev"))


def test_decomposition_has_a_finite_derivative():
  square = jnp.diag(jnp.array([2.0, 2.0, 1.0, 0.0]))

  @jax.jit
  def derivatives(matrix):
    u, s, v = svd(matrix)
    return (u * s[None]) @ v.T, jax.jacobian(svd)(matrix)

  for matrix in (square, 0 * square, jnp.eye(4), 1e4 * jnp.ones((4, 4))):
    back, derivative = derivatives(matrix)
    np.testing.assert_allclose(back, matrix, atol=1e-2)
    for leaf in jax.tree.leaves(derivative):
      assert np.all(np.isfinite(leaf))


def test_known_values():
  """One-hot rows of as many classes give the largest nuclear norm."""
  sure = 1e4 * jnp.eye(4)
  values = [
    bnm_loss(sure),
    bnm_loss(sure[jnp.zeros(4, int)]),
    bnm_loss(0 * sure),
  ]
  np.testing.assert_allclose(values, [-1, -0.5, -0.25], rtol=1e-5)
  source = jnp.float32(samples()[0])
  # A subspace has no scale, and no angle to itself.
  np.testing.assert_allclose(
    rsd_loss(source, 5.0 * source[::-1], mismatch_weight=0.0), 0, atol=1e-3
  )
  orthogonal = jnp.eye(8, dtype=jnp.float32)
  np.testing.assert_allclose(
    rsd_loss(orthogonal[:3], orthogonal[3:6], mismatch_weight=0.0), 3
  )


LOSSES = {
  "bsp": (bsp_loss, 2),
  "bsp 3": (functools.partial(bsp_loss, components=3), 2),
  "rsd": (rsd_loss, 2),
  "bnm": (bnm_loss, 1),
  "bnm mean": (functools.partial(bnm_loss, scaling="mean"), 1),
}


@pytest.mark.parametrize("name", LOSSES)
def test_masks_and_extremes(name):
  loss, domains = LOSSES[name]
  names = ("where_source", "where_target") if domains == 2 else ("where",)
  rows = [jnp.float32(x) for x in samples(5, 4)[:domains]]
  where = jnp.array([True, False, True, True, False])
  masks = dict.fromkeys(names[:1], where)

  @jax.jit
  def masked(rows, masks):
    return jax.value_and_grad(lambda r: loss(*r, **masks))(rows)

  spoiled = [jnp.where(where[:, None], rows[0], jnp.nan), *rows[1:]]
  value, gradients = masked(spoiled, masks)
  expected, wanted = jax.jit(jax.value_and_grad(lambda r: loss(*r)))(
    [rows[0][where], *rows[1:]]
  )
  np.testing.assert_allclose(value, expected, rtol=2e-5)
  np.testing.assert_allclose(gradients[0][where], wanted[0], atol=2e-4)
  np.testing.assert_array_equal(gradients[0][~where], 0)

  empty = {n: jnp.zeros(len(r), bool) for n, r in zip(names, rows, strict=True)}
  value, gradients = masked(rows, empty)
  assert value == 0
  assert not any(np.any(g) for g in gradients)

  # One program: each row counts, whatever it is.
  full = {n: jnp.ones(len(r), bool) for n, r in zip(names, rows, strict=True)}
  equal = [jnp.broadcast_to(rows[0][:1], r.shape) for r in rows]
  one = {n: jnp.arange(len(r)) == 1 for n, r in zip(names, rows, strict=True)}
  for changed, mask in (
    ([1e4 * r for r in rows], full),
    ([0 * r for r in rows], full),
    (equal, full),
    (rows, one),
  ):
    value, gradients = masked(changed, mask)
    assert np.isfinite(value)
    assert all(np.all(np.isfinite(g)) for g in gradients)

  half = loss(*(r.astype(jnp.bfloat16) for r in rows))
  assert half.dtype == jnp.float32
  np.testing.assert_allclose(half, loss(*rows), rtol=0.05)


def test_a_masked_class_does_not_matter():
  logits = jnp.float32(samples()[0][:, :4])
  masked = logits.at[:, 3].set(-jnp.inf)
  value, gradient = jax.value_and_grad(bnm_loss)(masked)
  np.testing.assert_allclose(value, bnm_loss(logits[:, :3]), rtol=1e-5)
  assert np.all(np.isfinite(gradient))


def test_errors_name_the_argument():
  source, target = map(jnp.float32, samples())
  with pytest.raises(ValueError, match="components is 0; expected"):
    bsp_loss(source, target, components=0)
  with pytest.raises(ValueError, match=r"target has shape \(4, 3\)"):
    rsd_loss(source, target[:, :3])
  with pytest.raises(ValueError, match="scaling is 'sum'"):
    bnm_loss(source, scaling="sum")
