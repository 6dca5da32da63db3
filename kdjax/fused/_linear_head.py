"""Logits from hidden states and a head, and their gradients, by chunk."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import ops
from kdjax.fused._row_chunks import weigh


@ops.exportable
class Head(NamedTuple):
  r"""Head of a language model: weight, bias, scale and softcap.

  .. math::
    x = \mathrm{scale} \, (h W^\top + b), \quad
    z = \mathrm{softcap} \, \tanh(x / \mathrm{softcap})

  All four receive gradients.

  Attributes:
    weight: `[vocab, hidden]`; the embedding matrix in a model with tied
      weights.
    bias: `[vocab]`, or None.
    scale: a number, as in Cohere's models, or None for 1.
    softcap: a number above 0, as in Gemma 2's, or None for no cap.

  Examples:
    >>> Head(jnp.ones((3, 2)), softcap=30.0).weight.shape
    (3, 2)

  References:
    Gemma team, `Gemma 2 <https://arxiv.org/abs/2408.00118>`_, 2024, section 2.
  """

  weight: Any
  bias: Any = None
  scale: Any = None
  softcap: Any = None


class Linear(NamedTuple):
  """Hidden states and a head, in place of their logits."""

  hidden: Array
  head: Head


def as_linear(name: str, hidden: Array, head: Head | ArrayLike) -> Linear:
  """Checks a head against its hidden states; returns both as arrays."""
  if not isinstance(head, Head):
    head = Head(head)
  if head.softcap is not None:
    ops.check_positive(f"{name}_head's softcap", head.softcap)
  for field, value in zip(Head._fields, head, strict=True):
    absent = value is None and field != "weight"
    if not absent and not _is_array(value):
      raise TypeError(
        f"{name}_head has a {field} of type {type(value).__name__}; expected "
        "an array."
      )
  # A Python integer is accepted for a float.
  numbers = (float(x) if isinstance(x, int) else x for x in head)
  head = Head(*(None if x is None else jnp.asarray(x) for x in numbers))
  weight = head.weight
  if weight.ndim != 2 or weight.shape[1] != hidden.shape[-1]:
    raise ValueError(
      f"{name}_head has weights of shape {weight.shape}; expected "
      f"[vocab, hidden] = (vocab, {hidden.shape[-1]}), as in {name}_hidden."
    )
  for field, shape in (
    ("bias", weight.shape[:1]),
    ("scale", ()),
    ("softcap", ()),
  ):
    value = getattr(head, field)
    if value is not None and value.shape != shape:
      raise ValueError(
        f"{name}_head has a {field} of shape {value.shape}; expected {shape}."
      )
  for field, value in zip(Head._fields, head, strict=True):
    if value is not None and not jnp.issubdtype(value.dtype, jnp.floating):
      raise TypeError(
        f"{name}_head has a {field} of dtype {value.dtype}; expected "
        "floating-point."
      )
  return Linear(hidden.reshape(-1, hidden.shape[-1]), head)


def _is_array(value: Any) -> bool:
  numbers = int | float | np.number | np.ndarray | jax.Array
  return isinstance(value, numbers) or hasattr(value, "__jax_array__")


def linear_logits(linear: Linear, dtype: Any) -> Array:
  """Returns logits in `dtype`, without rounding half-precision products."""
  hidden, (weight, bias, scale, softcap) = linear
  kind = _product_dtype(linear)
  logits = jnp.einsum(
    "rh,vh->rv",
    hidden.astype(kind),
    weight.astype(kind),
    preferred_element_type=dtype,
  )
  if bias is not None:
    logits += bias.astype(dtype)[None]
  if scale is not None:
    logits *= scale.astype(dtype)
  if softcap is not None:
    softcap = softcap.astype(dtype)
    logits = softcap * jnp.tanh(logits / softcap)
  return logits


def linear_gradients(
  linear: Linear, gradient: Array, weights: Array
) -> tuple[Array, Head]:
  """Returns the gradients by the hidden states and the head.

  The operands of the matrix products have the dtype of the arrays, as in the
  forward pass; the sums have the dtype of the gradient.

  Args:
    linear: a chunk of hidden states, and the head.
    gradient: the gradient of each row's value by its logits.
    weights: `[rows]`, the weights of the rows in the sums over rows for the
      head. The gradient by the hidden states is not weighted here.
  """
  hidden, (weight, bias, scale, softcap) = linear
  dtype, kind = gradient.dtype, _product_dtype(linear)
  by_bias = by_scale = by_softcap = None
  if scale is not None or softcap is not None:
    plain = linear_logits(Linear(hidden, Head(weight, bias)), dtype)
    factor = jnp.ones((), dtype) if scale is None else scale.astype(dtype)
    if softcap is not None:
      cap = softcap.astype(dtype)
      ratio = factor * plain / cap
      squashed = jnp.tanh(ratio)
      slope = 1 - jnp.square(squashed)
      by_softcap = _total(
        gradient * (squashed - _product(slope, ratio)), weights
      )
      gradient *= slope
    if scale is not None:
      by_scale = _total(_product(gradient, plain), weights)
      gradient *= factor
  if bias is not None:
    by_bias = jnp.sum(weigh(gradient, weights), 0)
  gradient = gradient.astype(kind)
  by_hidden = jnp.einsum(
    "rv,vh->rh", gradient, weight.astype(kind), preferred_element_type=dtype
  )
  by_weight = jnp.einsum(
    "rv,rh->vh",
    gradient,
    weigh(hidden.astype(dtype), weights).astype(kind),
    preferred_element_type=dtype,
  )
  return by_hidden, Head(by_weight, by_bias, by_scale, by_softcap)


def _product(a: Array, b: Array) -> Array:
  """Returns a b, 0 where a = 0: a class masked by its bias has b = -inf."""
  return jnp.where(a == 0, 0.0, a * b)


def _total(terms: Array, weights: Array) -> Array:
  return jnp.sum(weigh(jnp.sum(terms, -1), weights))


def _product_dtype(linear: Linear) -> Any:
  """Returns bfloat16 if both arrays are bfloat16, else at least float32.

  The small entries of a gradient underflow in float16, not in bfloat16.
  """
  kind = jnp.promote_types(linear.hidden.dtype, linear.head.weight.dtype)
  return kind if kind == jnp.bfloat16 else jnp.promote_types(kind, jnp.float32)
