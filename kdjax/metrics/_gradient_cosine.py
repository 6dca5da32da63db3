"""Cosine similarity of the gradients of two losses."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kdjax import ops


def gradient_cosine(tree_a: Any, tree_b: Any) -> Float[Array, ""]:
  r"""Cosine between two gradients: how far two losses agree.

  .. math::
    \frac{\sum_p g_p \cdot h_p}
         {\sqrt{\sum_p \lVert g_p \rVert^2} \sqrt{\sum_p \lVert h_p \rVert^2}}

  over all parameters p. For the gradients of distillation and cross-entropy:
  near 1, distillation repeats the signal of the labels; near 0, it adds an
  independent signal; below 0, it opposes the labels.

  Args:
    tree_a: a pytree of arrays, such as the gradient of the cross-entropy.
    tree_b: a pytree of the same structure and shapes, such as the gradient of
      the distillation loss. Both are gradients of the whole batch, already
      averaged over devices.

  Returns:
    A scalar in [-1, 1]; 0 if a gradient is 0.

  Raises:
    ValueError: if structures or shapes differ.

  Examples:
    >>> a = {"kernel": jnp.ones((2, 2)), "bias": jnp.zeros(2)}
    >>> gradient_cosine(a, jax.tree.map(lambda x: -2.0 * x, a))
    Array(-1., dtype=float32)

  References:
    Du et al., `Adapting auxiliary losses using gradient similarity
    <https://arxiv.org/abs/1812.02224>`_, 2018.
  """
  structures = jax.tree.structure(tree_a), jax.tree.structure(tree_b)
  if structures[0] != structures[1]:
    raise ValueError(
      f"gradient_cosine: tree_b has structure {structures[1]}; expected "
      f"{structures[0]}, as in tree_a."
    )
  a, b = (
    [jnp.asarray(x) for x in jax.tree.leaves(tree)] for tree in (tree_a, tree_b)
  )
  shapes = [x.shape for x in a], [x.shape for x in b]
  if shapes[0] != shapes[1]:
    raise ValueError(
      f"gradient_cosine: tree_b has shapes {shapes[1]}; expected {shapes[0]}, "
      "as in tree_a."
    )
  a, b = _scaled(a), _scaled(b)
  product, *squares = (
    sum((jnp.sum(x * y) for x, y in zip(p, q, strict=True)), jnp.zeros(()))
    for p, q in ((a, b), (a, a), (b, b))
  )
  zero = (squares[0] == 0) | (squares[1] == 0)
  scale = jnp.sqrt(jnp.where(zero, 1.0, squares[0] * squares[1]))
  return jnp.where(zero, 0.0, jnp.clip(product / scale, -1.0, 1.0))


def _scaled(leaves: list[Array]) -> list[Array]:
  """Divides by the largest entry, so that squares do not underflow."""
  leaves = [x.astype(ops.compute_dtype(x)) for x in leaves]
  peaks = [jnp.max(jnp.abs(x), initial=0.0) for x in leaves]
  peak = (
    ops.nonzero_divisor(jnp.max(jnp.stack(peaks), initial=0.0))
    if peaks
    else 1.0
  )
  return [x / peak for x in leaves]
