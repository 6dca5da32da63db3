"""The TPU kernel: interpreted, equal to XLA's sums; and lowered for a TPU."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.fused import _kernel_tpu, fused_divergence
from tests.fused import divergences

ROWS, CLASSES = 21, 300


@pytest.fixture
def small_tiles(monkeypatch):
  """Three tiles of classes and two of rows, both with a rest."""
  monkeypatch.setattr(_kernel_tpu, "ROWS", 16)
  monkeypatch.setattr(_kernel_tpu, "CLASSES", 128)


@pytest.fixture
def interpreted(monkeypatch, small_tiles):
  """What a TPU would choose, in JAX."""

  def choose(*arrays, tpu, default):
    return tpu(*arrays, interpret=True)

  monkeypatch.setattr(jax.lax, "platform_dependent", choose)


@pytest.mark.slow
def test_values_and_gradients_are_those_of_xla(interpreted):
  student, teacher, temperature = divergences.rising_logits(ROWS, CLASSES)
  values = divergences.equals_xla("mosaic_tpu", student, teacher, temperature)
  exact, *_ = divergences.values_and_gradients(
    "forward_kl", student[:10], teacher[:10], temperature[:10]
  )
  divergences.close(values[:10], exact, 1e-5)


def test_elsewhere_it_is_xla(small_tiles):
  pair = divergences.make_logits(0, 5, 7, 1.0)

  @jax.jit
  def program(student, teacher):
    return [
      fused_divergence(
        student,
        teacher,
        divergence="reverse_kl",
        implementation=implementation,
      )
      for implementation in ("mosaic_tpu", "xla")
    ]

  np.testing.assert_array_equal(*program(*pair))


def test_it_lowers_for_a_tpu_and_reads_half_precision():
  logits = jax.ShapeDtypeStruct((100, 5000), jnp.bfloat16)
  gradient = jax.grad(
    lambda s, t: jnp.sum(fused_divergence(s, t, implementation="mosaic_tpu"))
  )
  exported = jax.export.export(jax.jit(gradient), platforms=["tpu"])
  text = exported(logits, logits).mlir_module()
  (call,) = [line for line in text.splitlines() if "@tpu_custom_call" in line]
  assert call.count("tensor<100x5000xbf16>") == 2


def test_kernels_compute_no_sums_of_float64():
  with (
    jax.enable_x64(True),
    pytest.raises(ValueError, match=r"'chunked' for forward_kl in float64"),
  ):
    fused_divergence(
      np.ones((2, 3)), np.ones((2, 3)), implementation="mosaic_tpu"
    )


def test_it_lowers_with_sharded_tokens():
  mesh = jax.make_mesh(
    (2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,)
  )
  values = jax.shard_map(
    lambda s, t: fused_divergence(s, t, implementation="mosaic_tpu"),
    mesh=mesh,
    in_specs=(jax.P("data"), jax.P()),
    out_specs=jax.P("data"),
  )
  student = jax.ShapeDtypeStruct((64, 256), jnp.float32)
  teacher = jax.ShapeDtypeStruct((32, 256), jnp.float32)
  exported = jax.export.export(jax.jit(values), platforms=["tpu"])
  assert "@tpu_custom_call" in exported(student, teacher).mlir_module()
