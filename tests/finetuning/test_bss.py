"""Batch spectral shrinkage (BSS)."""

import functools

import jax
import numpy as np
import pytest

from kdjax.finetuning import bss_loss
from tests import laws

RNG = np.random.default_rng(0)
ROWS = RNG.normal(size=(16, 5)).astype(np.float32)
BSS = jax.jit(
  lambda rows, k, where=None: bss_loss(rows, num_singular_values=k, where=where)
)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(9, 5), (4, 7), (5, 5), (1, 3)])
def test_bss_in_numpy(shape):
  rows = np.random.default_rng(1).normal(size=shape)
  k = min(3, *shape)
  expected = np.sum(np.sort(np.linalg.svd(rows)[1])[:k] ** 2)
  with jax.enable_x64(True):
    np.testing.assert_allclose(BSS(rows, k=k), expected, rtol=1e-12)
  laws.slopes_agree(functools.partial(bss_loss, num_singular_values=k), (rows,))
  np.testing.assert_allclose(BSS(np.float32(rows), k=k), expected, rtol=1e-5)


def test_bss_with_a_mask_equals_a_slice():
  """Fewer rows than dims too: masked rows are no singular values."""
  where = np.array([1, 0, 1, 1, 0, 0, 0, 0], bool)
  rows = ROWS[:8]
  np.testing.assert_allclose(
    BSS(rows, k=2, where=where), BSS(rows[where], k=2), rtol=1e-5
  )


def test_bss_of_equal_singular_values_has_a_finite_gradient():
  run = jax.jit(
    jax.value_and_grad(functools.partial(bss_loss, num_singular_values=2))
  )
  value, gradient = run(3 * np.eye(4, dtype=np.float32))
  np.testing.assert_allclose(value, 18.0, rtol=1e-6)
  assert np.all(np.isfinite(gradient))
  # Euler: a homogeneous function of degree 2.
  np.testing.assert_allclose(
    np.sum(np.asarray(gradient) * 3 * np.eye(4)), 36, rtol=1e-5
  )


def test_bss_traced_number_and_errors():
  rows = ROWS
  known = jax.jit(functools.partial(bss_loss, num_singular_values=3))
  np.testing.assert_allclose(BSS(rows, k=3), known(rows), rtol=1e-5)
  with pytest.raises(ValueError, match=r"values is 6; expected at most .* = 5"):
    bss_loss(rows, num_singular_values=6)
  with pytest.raises(ValueError, match="values is 0; expected an integer"):
    bss_loss(rows, num_singular_values=0)
