"""Convolutions whose gradients a CPU computes as fast as their values.

Inside a loop, and the steps of an epoch are one, XLA's CPU compiler gives only
convolutions of batch, positions, channels by positions, inputs, outputs to its
fast kernels. The gradients that JAX derives have their axes permuted instead of
their arrays, and run 10 to 20 times slower there.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array

from kdjax.ops import vary_like

_LAYOUT = ("NHWC", "HWIO", "NHWC")


def convolve(
  inputs: Array,
  kernel: Array,
  strides: Sequence[int],
  padding: str | Sequence[tuple[int, int]],
  *,
  feature_group_count: int = 1,
  precision: Any = None,
  **options: Any,
) -> Array:
  """As `jax.lax.conv_general_dilated`, for `nnx.Conv`; equal but for speed.

  Args:
    inputs: `[batch, height, width, inputs]`.
    kernel: `[height, width, inputs, outputs]`.
    strides: of both axes.
    padding: of both axes.
    feature_group_count: more than one group is left to JAX.
    precision: of the products.
    **options: dilations and axes, as `nnx.Conv` gives them.

  Returns:
    `[batch, height, width, outputs]`.
  """
  dilations = options.get("lhs_dilation"), options.get("rhs_dilation")
  plain = all(x is None or set(x) == {1} for x in dilations)
  if jax.default_backend() != "cpu" or feature_group_count > 1 or not plain:
    return lax.conv_general_dilated(
      inputs,
      kernel,
      strides,
      padding,
      feature_group_count=feature_group_count,
      precision=precision,
      **options,
    )
  if isinstance(padding, str):
    padding = lax.padtype_to_pads(
      inputs.shape[1:3], kernel.shape[:2], strides, padding
    )
  pads = tuple((int(low), int(high)) for low, high in padding)
  # The rule below has no place for the sum over devices that a kernel which
  # all of them share needs; this conversion has.
  inputs, kernel = vary_like(inputs, kernel), vary_like(kernel, inputs)
  return _convolve(inputs, kernel, tuple(strides), pads, precision)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3, 4))
def _convolve(
  inputs: Array, kernel: Array, strides: Any, pads: Any, precision: Any
) -> Array:
  return lax.conv_general_dilated(
    inputs,
    kernel,
    strides,
    pads,
    dimension_numbers=_LAYOUT,
    precision=precision,
  )


def _tangent(
  strides: Any, pads: Any, precision: Any, primals: Any, tangents: Any
) -> tuple[Array, Array]:
  """The tangent is written as the transpose of the gradient that is wanted.

  Reverse mode transposes it again and arrives at that gradient; forward mode
  takes it as it is.
  """
  inputs, kernel = primals
  outputs = _convolve(inputs, kernel, strides, pads, precision)
  gradients = (
    lambda g: _inputs_gradient(inputs, kernel, g, strides, pads, precision),
    lambda g: _kernel_gradient(inputs, kernel, g, strides, pads, precision),
  )
  tangent = jnp.zeros_like(outputs)
  for gradient, moved in zip(gradients, tangents, strict=True):
    if not isinstance(moved, SymbolicZero):
      tangent += jax.linear_transpose(gradient, outputs)(moved)[0]
  return outputs, tangent


_convolve.defjvp(_tangent, symbolic_zeros=True)


def _inputs_gradient(
  inputs: Array,
  kernel: Array,
  gradient: Array,
  strides: Any,
  pads: Any,
  precision: Any,
) -> Array:
  """Spreads the outputs' gradient by the kernel, turned around."""
  around = [
    (size - 1 - low, old - 1 + low - stride * (new - 1))
    for size, old, new, stride, (low, _) in zip(
      kernel.shape[:2],
      inputs.shape[1:3],
      gradient.shape[1:3],
      strides,
      pads,
      strict=True,
    )
  ]
  return lax.conv_general_dilated(
    gradient,
    jnp.transpose(jnp.flip(kernel, (0, 1)), (0, 1, 3, 2)),
    (1, 1),
    around,
    lhs_dilation=strides,
    dimension_numbers=_LAYOUT,
    precision=precision,
  )


def _kernel_gradient(
  inputs: Array,
  kernel: Array,
  gradient: Array,
  strides: Any,
  pads: Any,
  precision: Any,
) -> Array:
  """Correlates inputs with the outputs' gradient, over batch and positions."""
  around = [
    (low, size - low - old + stride * (new - 1))
    for size, old, new, stride, (low, _) in zip(
      kernel.shape[:2],
      inputs.shape[1:3],
      gradient.shape[1:3],
      strides,
      pads,
      strict=True,
    )
  ]
  moved = lax.conv_general_dilated(
    jnp.transpose(inputs, (3, 1, 2, 0)),
    jnp.transpose(gradient, (1, 2, 0, 3)),
    (1, 1),
    around,
    rhs_dilation=strides,
    dimension_numbers=_LAYOUT,
    precision=precision,
  )
  return jnp.transpose(moved, (1, 2, 0, 3))
