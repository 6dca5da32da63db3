"""Centred kernel alignment (CKA)."""

import functools

import jax
import numpy as np
import pytest

from kdjax.metrics import cka

CKA = jax.jit(cka, static_argnames=("debiased", "pool"))


def rows(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape)


def oracle(a, b, debiased):
  n = len(a)
  a, b = (x.reshape(n, -1) for x in (a, b))
  center = np.eye(n) - 1 / n

  def hsic(k, m):
    if not debiased:
      return np.trace(k @ center @ m @ center)
    k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
    ones = np.ones(n)
    return (
      np.trace(k @ m)
      + (ones @ k @ ones) * (ones @ m @ ones) / ((n - 1) * (n - 2))
      - 2 / (n - 2) * (ones @ k @ m @ ones)
    ) / (n * (n - 3))

  k, m = a @ a.T, b @ b.T
  return hsic(k, m) / np.sqrt(hsic(k, k) * hsic(m, m))


@pytest.mark.parametrize("debiased", [False, True])
def test_cka_equals_numpy(debiased):
  a, b = rows(12, 5), rows(12, 2, 2, 3, seed=1)
  b[:, 0, 0] += a[:, :3]
  expected = oracle(a, b, debiased)
  with jax.enable_x64(True):
    np.testing.assert_allclose(CKA(a, b, debiased=debiased), expected)
  # Neither offset nor scale matter, masked rows neither.
  a, b = np.vstack([a, a[:4]]), np.vstack([b, 9 * b[:4]])
  got = CKA(
    np.float32(1e4 * a + 3e3),
    np.float32(1e-6 * b),
    debiased=debiased,
    where=np.arange(16) < 12,
  )
  np.testing.assert_allclose(got, expected, rtol=1e-4)


def test_cka_of_pooled_maps():
  a, b = rows(12, 5), rows(12, 4, 4, 3, seed=1)
  np.testing.assert_allclose(
    CKA(a, b, pool=True), CKA(a, b.mean((1, 2))), rtol=1e-5
  )


def test_debiased_cka_of_independent_features_is_near_zero():
  a, b = rows(32, 256), rows(32, 256, seed=1)
  assert CKA(a, b) > 0.7
  assert abs(CKA(a, b, debiased=True)) < 0.1


@pytest.mark.parametrize("debiased", [False, True])
def test_cka_without_anything_to_compare_is_zero(debiased):
  a = np.float32(rows(8, 3))
  gradient = jax.jit(jax.grad(functools.partial(cka, debiased=debiased)))
  for x, where in (
    (np.full((8, 3), 0.1, np.float32), np.arange(8) < 7),
    (a, np.arange(8) < 1),
    (a, np.zeros(8, bool)),
  ):
    assert CKA(x, a, debiased=debiased, where=where) == 0
    np.testing.assert_array_equal(gradient(x, a, where=where), 0)


def test_cka_over_devices():
  a, b = np.float32(rows(16, 5)), np.float32(rows(16, 6, seed=1))
  where = np.arange(16) % 5 > 0
  shards = jax.tree.map(lambda x: x.reshape(8, 2, *x.shape[1:]), (a, b, where))
  mapped = jax.pmap(
    lambda a, b, where: cka(a, b, where=where, axis_name="batch"), "batch"
  )
  np.testing.assert_allclose(
    np.asarray(mapped(*shards))[3], CKA(a, b, where=where), rtol=1e-5
  )
