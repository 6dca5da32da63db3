"""The GPU kernel: interpreted, equal to XLA's sums; and lowered for CUDA."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import mosaic_gpu as plgpu

from kdjax.fused import _kernel_gpu, fused_divergence
from tests.fused import divergences

# Two blocks of rows, the second with a rest, and three shares of two tiles.
ROWS, CLASSES, STEPS = 72, 320, 2


@pytest.fixture
def on_a_gpu(monkeypatch):
  """What a GPU would choose, in JAX and with small shares."""
  if not hasattr(plgpu, "InterpretGPUParams"):
    pytest.skip("this JAX cannot interpret layouts")

  def choose(*arrays, cuda, default):
    return cuda(*arrays, interpret=plgpu.InterpretGPUParams())

  monkeypatch.setattr(jax.lax, "platform_dependent", choose)
  monkeypatch.setattr(_kernel_gpu, "STEPS", STEPS)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_interpreted_kernel_equals_xla(on_a_gpu, dtype):
  student, teacher, temperature = divergences.rising_logits(ROWS, CLASSES)
  teacher[19, 7], student[19, 300] = 1e4, -1e4
  divergences.equals_xla(
    "mosaic_gpu", student.astype(dtype), teacher, temperature
  )


def test_on_a_cpu_it_is_xla():
  pair = divergences.make_logits(0, 8, 64, 1.0)

  @jax.jit
  def program(student, teacher):
    return [
      fused_divergence(
        student,
        teacher,
        divergence="reverse_kl",
        implementation=implementation,
      )
      for implementation in ("mosaic_gpu", "xla")
    ]

  np.testing.assert_array_equal(*program(*pair))


def gradient(student, teacher):
  return jax.grad(
    lambda s: jnp.sum(fused_divergence(s, teacher, implementation="mosaic_gpu"))
  )(student)


def kernels(program, student, teacher):
  """Returns the calls of the kernel after lowering for a GPU."""
  exported = jax.export.export(jax.jit(program), platforms=["cuda"])
  text = exported(student, teacher).mlir_module()
  return [line for line in text.splitlines() if "@mosaic_gpu" in line]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_it_lowers_for_a_gpu_and_reads_half_precision(dtype):
  student = jax.ShapeDtypeStruct((104, 4480), jnp.bfloat16)
  (call,) = kernels(gradient, student, student.update(dtype=dtype))
  assert "tensor<104x4480xbf16>" in call
  assert f"tensor<104x4480x{'f32' if dtype == jnp.float32 else 'bf16'}>" in call


def test_it_lowers_with_sharded_tokens_and_in_64_bits():
  mesh = jax.make_mesh(
    (2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,)
  )
  sharded = jax.shard_map(
    gradient,
    mesh=mesh,
    in_specs=(jax.P("data"), jax.P()),
    out_specs=jax.P("data"),
  )
  student = jax.ShapeDtypeStruct((128, 128), jnp.bfloat16)
  with jax.enable_x64(True):
    (call,) = kernels(sharded, student, student.update(shape=(64, 128)))
  assert "tensor<64x128xbf16>" in call


@pytest.mark.parametrize("shape", [(9, 128), (8, 100)])
def test_ragged_logits_are_left_to_xla(caplog, shape):
  logits = jax.ShapeDtypeStruct(shape, jnp.float32)
  with caplog.at_level(logging.INFO, "kdjax.fused"):
    assert not kernels(gradient, logits, logits)
  assert f"'xla' for {list(shape)} logits; 'mosaic_gpu'" in caplog.text
