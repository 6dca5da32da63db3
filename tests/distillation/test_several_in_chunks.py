"""Batch-coupled losses from a few rows at a time: as before, in less memory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import distillation
from tests import laws

RNG = np.random.default_rng(0)
STUDENT = RNG.normal(size=(16, 6)).astype(np.float32)
TEACHER = (STUDENT + RNG.normal(size=(16, 6))).astype(np.float32)
LOSSES = {
  "pkt_loss": {},
  "cc_loss": {},
  "sp_loss": {},
  "crd_in_batch_loss": {"temperature": 0.2},
  "itrd_loss": {},
  "irg_loss": {},
  "mlld_loss": {"temperatures": (1.0, 3.0)},
  "sskd_similarity_loss": {"ratio": 0.5},
}


def temporary(function, *shapes):
  """Bytes of value and gradient, beside arguments and results."""
  rows = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
  program = jax.jit(jax.value_and_grad(function)).lower(*rows)
  return program.compile().memory_analysis().temp_size_in_bytes


@pytest.mark.slow
def test_chunks_on_several_devices():
  mapped = jax.vmap(
    jax.value_and_grad(
      functools.partial(distillation.pkt_loss, axis_name="batch", chunk_size=3)
    ),
    axis_name="batch",
  )
  split = [x.reshape(2, 8, -1) for x in (STUDENT, TEACHER)]
  value, gradient = jax.device_get(jax.jit(mapped)(*split))
  expected, whole = jax.jit(jax.value_and_grad(distillation.pkt_loss))(
    STUDENT, TEACHER
  )
  np.testing.assert_allclose(value, np.full(2, expected), rtol=1e-5)
  np.testing.assert_allclose(
    gradient.reshape(16, -1) / 2, whole, atol=1e-5 * np.max(np.abs(whole))
  )


@pytest.mark.slow
@pytest.mark.parametrize("name", LOSSES)
def test_chunks_change_nothing_but_the_rounding_and_the_memory(name):
  """Fifteen rows of 1024 at a time, so that the last chunk is filled up.

  They need little more than one whole matrix of pairs for MLLD with two
  temperatures; all others need less than half of one.
  """
  size = 1024
  shape = (size, 3, 2) if "sskd" in name else (size, 6)
  student = RNG.normal(size=shape).astype(np.float32)
  teacher = student + RNG.normal(size=shape).astype(np.float32)
  arguments = student, teacher, np.arange(size) % 16 != 3

  def compiled(**chunks):
    loss = functools.partial(
      getattr(distillation, name), **LOSSES[name], **chunks
    )
    return (
      jax.jit(jax.value_and_grad(lambda s, t, m: loss(s, t, where=m)))
      .lower(*arguments)
      .compile()
    )

  whole, chunked = compiled(), compiled(chunk_size=15)
  limit = 1.5 if name == "mlld_loss" else 0.5
  memory = chunked.memory_analysis().temp_size_in_bytes
  assert memory < limit * 4 * size**2
  value, gradient = jax.device_get(whole(*arguments))
  other, other_gradient = chunked(*arguments)
  np.testing.assert_allclose(other, value, rtol=1e-5)
  scale = np.max(np.abs(gradient))
  assert scale > 0
  np.testing.assert_allclose(other_gradient, gradient, atol=2e-5 * scale)


@pytest.mark.slow
def test_rkd_is_linear_in_the_number_of_pairs():
  """With one more factor two, the memory of all triplets would double."""
  small, large = (
    temporary(distillation.rkd_loss, (size, 4), (size, 4)) / size**2
    for size in (512, 1024)
  )
  assert large < 1.1 * small
  assert large < 4 * 20


@pytest.mark.slow
def test_rkd_of_narrow_clusters():
  """Angles between points a hundred times closer than their clusters."""
  centers = np.repeat(RNG.normal(size=(4, 6)), 4, 0)
  student, teacher = (
    centers + 0.01 * RNG.normal(size=(16, 6)) for _ in range(2)
  )
  program = jax.jit(jax.value_and_grad(distillation.rkd_loss))
  narrow = program(np.float32(student), np.float32(teacher))
  with jax.enable_x64(True):
    exact = program(
      np.float64(np.float32(student)), np.float64(np.float32(teacher))
    )
  np.testing.assert_allclose(narrow[0], exact[0], rtol=1e-5)
  scale = np.max(np.abs(exact[1]))
  np.testing.assert_allclose(narrow[1], exact[1], atol=1e-4 * scale)


@pytest.mark.parametrize("channels", [2, 9])
def test_nst_by_either_matrix(channels):
  """Six positions: the products of channels, or those of positions."""
  maps = RNG.normal(size=(2, 3, 2, 3, 5)).astype(np.float32)
  student, teacher = maps[0], np.tile(maps[1], 2)[..., :channels]

  def unit(x):
    x = np.float64(x).reshape(3, 6, -1)
    return x / np.linalg.norm(x, axis=1, keepdims=True)

  def kernel(a, b):
    return np.mean(np.einsum("bpi,bpj->bij", a, b) ** 2, (1, 2))

  s, t = unit(student), unit(teacher)
  expected = kernel(s, s) + kernel(t, t) - 2 * kernel(s, t)
  value = jax.jit(distillation.nst_loss)(student, teacher)
  np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_errors_say_what_came():
  with pytest.raises(ValueError, match="chunk_size is 0"):
    laws.trace(distillation.pkt_loss, STUDENT, TEACHER, chunk_size=0)
