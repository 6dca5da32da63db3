"""Penalties towards the starting point, against NumPy in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.finetuning import bss_loss
from kdjax.finetuning import delta_channel_attention
from kdjax.finetuning import delta_loss
from kdjax.finetuning import l2_sp
from tests import laws

RNG = np.random.default_rng(0)
MAPS = RNG.normal(size=(2, 16, 3, 2, 5)).astype(np.float32)
ATTENTION = RNG.dirichlet(np.ones(5)).astype(np.float32)
ROWS = RNG.normal(size=(16, 5)).astype(np.float32)
BSS = jax.jit(bss_loss)


def of_features(features, unused, **options):
  del unused
  return bss_loss(features, **options)


CASES = {
  "delta": laws.Case(delta_loss, tuple(MAPS)),
  "delta_attention": laws.Case(
    delta_loss, tuple(MAPS), options={"channel_attention": ATTENTION}
  ),
  "bss": laws.Case(of_features, (ROWS, ROWS), coupled=True, options={"k": 2}),
}


@pytest.mark.parametrize("law", laws.LAWS)
@pytest.mark.parametrize("name", CASES)
def test_law(name, law):
  law(CASES[name])


def trees(seed=0):
  rng = np.random.default_rng(seed)
  tree = {"body": [rng.normal(size=(3, 2)), rng.normal(size=4)]}
  return tree | {"head": {"kernel": rng.normal(size=(4, 2))}}


def test_l2_sp_in_numpy():
  params, start = trees(0), trees(1) | {"head": None}
  expected = 0.3 / 2 * sum(
    np.sum((a - b) ** 2)
    for a, b in zip(params["body"], start["body"], strict=True)
  ) + 0.7 / 2 * np.sum(params["head"]["kernel"] ** 2)
  with jax.enable_x64(True):
    value = jax.jit(l2_sp)(params, start, alpha=0.3, beta=0.7)
    assert value.dtype == jnp.float64
    np.testing.assert_allclose(value, expected, rtol=1e-13)


def test_l2_sp_gradient_is_the_way_back():
  params, start = (jax.tree.map(np.float32, trees(i)) for i in (0, 1))
  run = jax.jit(jax.value_and_grad(l2_sp, (0, 1)))
  _, gradients = run(params, start)
  jax.tree.map(
    lambda g, a, b: np.testing.assert_allclose(g, a - b, rtol=1e-6),
    gradients[0],
    params,
    start,
  )
  assert not any(np.any(g) for g in jax.tree.leaves(gradients[1]))
  assert run(params, params)[0] == 0
  half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
  assert laws.trace(l2_sp, half, start).dtype == jnp.float32


def test_l2_sp_of_arrays_and_of_new_parameters_alone():
  assert l2_sp(np.float32([1.0, 3.0]), np.float32([1.0, 1.0])) == 2.0
  assert l2_sp({"a": np.float32([2.0])}, None, beta=3.0) == 6.0
  assert l2_sp({}, {}) == 0


def test_l2_sp_names_the_path():
  x = np.ones(2, np.float32)
  with pytest.raises(ValueError, match=r"no counterpart of params\['b'\]"):
    l2_sp({"a": x, "b": x}, {"a": x})
  with pytest.raises(ValueError, match=r"pretrained_params\['b'\] has no"):
    l2_sp({"a": x}, {"a": x, "b": x})
  with pytest.raises(ValueError, match=r"\['a'\] has shape \(3,\); expected"):
    l2_sp({"a": x}, {"a": np.ones(3, np.float32)})
  with pytest.raises(TypeError, match=r"params\['a'\] has dtype int32"):
    l2_sp({"a": np.ones(2, np.int32)}, {"a": x})
  with pytest.raises(ValueError, match=r"no counterpart of params\['a'\]"):
    l2_sp({"a": {"b": x}}, {"a": x})


def test_delta_in_numpy():
  student, teacher = np.float64(MAPS)
  squares = ((student - teacher) ** 2).sum((1, 2))
  weighted = 5 / (2 * 3 * 2) * (squares * np.float64(ATTENTION)).sum(1)
  rows = np.ones((2, 5))

  @jax.jit
  def run(student, teacher, attention, rows):
    return (
      delta_loss(student, teacher),
      delta_loss(student, teacher, channel_attention=attention),
      delta_loss(rows, 0 * rows),
    )

  with jax.enable_x64(True):
    plain, attentive, of_rows = run(
      student, teacher, np.float64(ATTENTION), rows
    )
  np.testing.assert_allclose(plain, squares.sum(1) / 2, rtol=1e-13)
  np.testing.assert_allclose(attentive, weighted, rtol=1e-13)
  np.testing.assert_allclose(of_rows, [2.5, 2.5])


def test_channel_attention():
  increases = RNG.normal(size=7)
  z = (increases - increases.mean()) / increases.std() / 2.0
  expected = np.exp(z) / np.exp(z).sum()
  attention = jax.jit(delta_channel_attention)(
    np.float32(increases), temperature=2.0
  )
  np.testing.assert_allclose(attention, expected, rtol=1e-5)
  with pytest.raises(ValueError, match=r"temperature is 0.0; expected"):
    delta_channel_attention(np.ones(2, np.float32), temperature=0.0)


@pytest.mark.parametrize("shape", [(9, 5), (4, 7), (5, 5), (1, 3)])
def test_bss_in_numpy(shape):
  rows = np.random.default_rng(1).normal(size=shape)
  k = min(3, *shape)
  expected = np.sum(np.sort(np.linalg.svd(rows)[1])[:k] ** 2)
  with jax.enable_x64(True):
    np.testing.assert_allclose(BSS(rows, k=k), expected, rtol=1e-12)
  laws.slopes_agree(functools.partial(bss_loss, k=k), (rows,))
  np.testing.assert_allclose(BSS(np.float32(rows), k=k), expected, rtol=1e-5)


def test_bss_with_a_mask_equals_a_slice():
  """Fewer rows than dims too: masked rows are no singular values."""
  where = np.array([1, 0, 1, 1, 0, 0, 0, 0], bool)
  rows = ROWS[:8]
  np.testing.assert_allclose(
    BSS(rows, k=2, where=where), BSS(rows[where], k=2), rtol=1e-5
  )


def test_bss_of_equal_singular_values_has_a_finite_gradient():
  run = jax.jit(jax.value_and_grad(functools.partial(bss_loss, k=2)))
  value, gradient = run(3 * np.eye(4, dtype=np.float32))
  np.testing.assert_allclose(value, 18.0, rtol=1e-6)
  assert np.all(np.isfinite(gradient))
  # Euler: a homogeneous function of degree 2.
  np.testing.assert_allclose(
    np.sum(np.asarray(gradient) * 3 * np.eye(4)), 36, rtol=1e-5
  )


def test_bss_traced_number_and_errors():
  rows = ROWS
  known = jax.jit(functools.partial(bss_loss, k=3))
  np.testing.assert_allclose(BSS(rows, k=3), known(rows), rtol=1e-5)
  with pytest.raises(ValueError, match=r"k is 6; expected at most .* = 5"):
    bss_loss(rows, k=6)
  with pytest.raises(ValueError, match="k is 0; expected an integer from 1"):
    bss_loss(rows, k=0)
