"""The last maps, and a network's own classifier on them."""

import jax
import jax.numpy as jnp
from jaxtyping import Array

from kdjax import nets
from kdjax.methods._stages import field_of, last_feature, last_maps


def classified_maps(
  student: nets.Outputs, teacher: nets.Outputs
) -> tuple[Array, Array]:
  """The deepest maps of both, of which the teacher's head sees the mean."""
  check_pooled("teacher", teacher)
  return last_maps(student, teacher)


def check_pooled(role: str, outputs: nets.Outputs) -> None:
  """Raises ValueError for tokens, of which a classifier sees no mean."""
  shape = last_feature(role, outputs).shape
  if len(shape) == 3:
    raise ValueError(
      f"{role} has tokens of shape {shape} as last features; expected maps "
      "whose mean its classifier sees."
    )


def classify(
  role: str, outputs: nets.Outputs, features: Array, *, use_bias: bool = True
) -> Array:
  """Applies a network's own classifier to features `[..., channels]`."""
  kernel, bias = field_of(role, outputs, "classifier")
  if role == "teacher":
    kernel, bias = jax.lax.stop_gradient((kernel, bias))
  if kernel.shape[0] != features.shape[-1]:
    raise ValueError(
      f"{role} has a classifier of {kernel.shape[0]} inputs and its last "
      f"features have {features.shape[-1]} channels; expected as many."
    )
  logits = jnp.matmul(features, kernel, precision=jax.lax.Precision.HIGHEST)
  return (
    logits + jnp.expand_dims(bias, range(logits.ndim - 1))
    if use_bias
    else logits
  )
