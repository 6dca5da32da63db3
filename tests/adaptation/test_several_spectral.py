"""Losses on singular values: NumPy, kinks, ranks and devices' needs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.adaptation import bnm_loss, bsp_loss, rsd_loss
from kdjax.ops import svd
from tests.laws import computed_in_float32, slopes_agree


def samples(n_source=4, n_target=4, dims=9, seed=0):
  rng = np.random.default_rng(seed)
  return rng.normal(size=(n_source, dims)), rng.normal(size=(n_target, dims))


def softmax(logits):
  powers = np.exp(logits - logits.max(-1, keepdims=True))
  return powers / powers.sum(-1, keepdims=True)


def subspace_distance(source, target, weight):
  bases = [np.linalg.svd(x.T, full_matrices=False)[0] for x in (source, target)]
  p_s, cosines, p_t = np.linalg.svd(bases[0].T @ bases[1])
  gap = np.abs(p_s) - np.abs(p_t.T)
  return np.sum(np.sqrt(1 - cosines**2)) + weight * np.sqrt(np.sum(gap**2))


@pytest.mark.slow
def test_equal_numpy():
  source, target = samples(4, 6)
  values = [np.linalg.svd(x, compute_uv=False) for x in (source, target)]
  logits = 2 * target
  norm = np.linalg.svd(softmax(logits), compute_uv=False).sum()
  equal = samples()

  @jax.jit
  def run(source, target, logits, equal):
    return {
      "bsp": [bsp_loss(source, target, num_components=k) for k in (1, 2, 9)],
      "bnm": [bnm_loss(logits), bnm_loss(logits, scaling="mean")],
      "bnm of three": [
        bnm_loss(logits[:, :3], scaling="mean") * 3,
        bnm_loss(logits[:, :3]) * 6,
      ],
      "rsd": rsd_loss(*equal, mismatch_weight=0.3),
    }

  with jax.enable_x64(True):
    got = run(source, target, logits, equal)
  expected = [sum((v[:k] ** 2).sum() for v in values) for k in (1, 2, 9)]
  np.testing.assert_allclose(got["bsp"], expected, rtol=1e-12)
  np.testing.assert_allclose(got["bnm"], -norm / 6, rtol=1e-12)
  np.testing.assert_allclose(*got["bnm of three"], rtol=1e-12)
  np.testing.assert_allclose(
    got["rsd"], subspace_distance(*equal, 0.3), rtol=1e-10
  )


@pytest.mark.slow
@pytest.mark.parametrize("loss", [bsp_loss, rsd_loss])
def test_gradients_of_two_domains(loss):
  slopes_agree(loss, samples(seed=1))


def test_gradient_of_predictions():
  slopes_agree(bnm_loss, samples(seed=1)[:1])


def test_decomposition_has_a_finite_derivative():
  square = np.diag(np.float32([2.0, 2.0, 1.0, 0.0]))

  @jax.jit
  def derivatives(matrix):
    u, s, v = svd(matrix)
    return (u * s[None]) @ v.T, jax.jacobian(svd)(matrix)

  for matrix in (square, 0 * square, np.eye(4), np.full((4, 4), 1e4)):
    back, derivative = derivatives(np.float32(matrix))
    np.testing.assert_allclose(back, matrix, atol=1e-2)
    for leaf in jax.tree.leaves(derivative):
      assert np.all(np.isfinite(leaf))


def test_known_values():
  """One-hot rows of as many classes give the largest nuclear norm."""
  nuclear = jax.jit(bnm_loss)
  sure = 1e4 * np.eye(4, dtype=np.float32)
  for logits, value in ((sure, -1), (sure[[0] * 4], -0.5), (0 * sure, -0.25)):
    np.testing.assert_allclose(nuclear(logits), value, rtol=1e-5)
  angles = jax.jit(functools.partial(rsd_loss, mismatch_weight=0.0))
  source = np.float32(samples()[0])
  # A subspace has no scale, and no angle to itself.
  np.testing.assert_allclose(angles(source, 5 * source[::-1]), 0, atol=1e-3)
  orthogonal = np.eye(9, dtype=np.float32)
  np.testing.assert_allclose(angles(orthogonal[:4], orthogonal[4:8]), 4)


LOSSES = {
  "bsp": (bsp_loss, 2),
  "bsp 3": (functools.partial(bsp_loss, num_components=3), 2),
  "rsd": (rsd_loss, 2),
  "bnm": (bnm_loss, 1),
  "bnm mean": (functools.partial(bnm_loss, scaling="mean"), 1),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LOSSES)
def test_masks_and_extremes(name):
  loss, domains = LOSSES[name]
  names = ("where_source", "where_target") if domains == 2 else ("where",)
  rows = [np.float32(x) for x in samples(5, 4)[:domains]]
  where = np.array([True, False, True, True, False])
  masks = dict.fromkeys(names[:1], where)

  @jax.jit
  def masked(rows, masks):
    return jax.value_and_grad(lambda r: loss(*r, **masks))(rows)

  spoiled = [np.where(where[:, None], rows[0], np.nan), *rows[1:]]
  value, gradients = masked(spoiled, masks)
  expected, wanted = jax.jit(jax.value_and_grad(lambda r: loss(*r)))(
    [rows[0][where], *rows[1:]]
  )
  np.testing.assert_allclose(value, expected, rtol=2e-5)
  gradient = np.asarray(gradients[0])
  np.testing.assert_allclose(gradient[where], wanted[0], atol=2e-4)
  np.testing.assert_array_equal(gradient[~where], 0)

  empty = {n: np.zeros(len(r), bool) for n, r in zip(names, rows, strict=True)}
  value, gradients = masked(rows, empty)
  assert value == 0
  assert not any(np.any(g) for g in gradients)

  # One program: each row counts, whatever it is.
  full = {n: np.ones(len(r), bool) for n, r in zip(names, rows, strict=True)}
  equal = [np.broadcast_to(rows[0][:1], r.shape) for r in rows]
  one = {n: np.arange(len(r)) == 1 for n, r in zip(names, rows, strict=True)}
  for changed, mask in (
    ([1e4 * r for r in rows], full),
    ([0 * r for r in rows], full),
    (equal, full),
    (rows, one),
  ):
    value, gradients = masked(changed, mask)
    assert np.isfinite(value)
    assert all(np.all(np.isfinite(g)) for g in gradients)
  assert computed_in_float32(loss, *rows).dtype == jnp.float32


def test_a_masked_class_does_not_matter():
  logits = np.float32(samples()[0][:, :4])
  masked = np.where(np.arange(4) == 3, -np.inf, logits)
  run = jax.jit(jax.value_and_grad(bnm_loss))
  value, gradient = run(masked)
  np.testing.assert_allclose(value, run(logits[:, :3])[0], rtol=1e-5)
  assert np.all(np.isfinite(gradient))


def test_errors_name_the_argument():
  source, target = map(np.float32, samples())
  with pytest.raises(ValueError, match="components is 0; expected"):
    bsp_loss(source, target, num_components=0)
  with pytest.raises(ValueError, match=r"target has shape \(4, 3\)"):
    rsd_loss(source, target[:, :3])
  with pytest.raises(ValueError, match="scaling is 'sum'"):
    bnm_loss(source, scaling="sum")
