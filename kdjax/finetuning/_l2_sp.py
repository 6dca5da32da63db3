"""L2-SP: weight decay towards the pretrained parameters."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PyTree

from kdjax import ops


def l2_sp(
  params: PyTree,
  pretrained_params: PyTree,
  *,
  alpha: ArrayLike = 1.0,
  beta: ArrayLike = 1.0,
) -> Float[Array, ""]:
  r"""L2 starting point (L2-SP): a penalty towards pretrained parameters.

  .. math::
    \ell = \frac\alpha2 \lVert w - w^0 \rVert_2^2
         + \frac\beta2 \lVert w' \rVert_2^2

  with the pretrained parameters w, their pretrained values w^0 and the new
  parameters w'.

  Args:
    params: a pytree of floating-point arrays.
    pretrained_params: a pytree of the same structure; it receives no gradient.
      None instead of an array or a subtree marks new parameters, such as those
      of a new head.
    alpha: the weight of pretrained parameters. May be traced.
    beta: the weight of new parameters. May be traced.

  Returns:
    A scalar. Published weights: beta 0.01 and alpha between 1e-3 and 1 (paper),
    0.01 for both (TLlib). Use no further weight decay.

  Raises:
    ValueError: if structures or shapes differ; the message names the path.
    TypeError: if a leaf is not floating-point.

  The penalty is a sum over parameters, as in the paper and in TLlib. The
  package ADAPT uses the mean, with other weights.

  Examples:
    >>> params = {"body": jnp.array([1.0, 3.0]), "head": jnp.array([2.0])}
    >>> l2_sp(params, {"body": jnp.array([1.0, 1.0]), "head": None})
    Array(4., dtype=float32)

  References:
    Li, Grandvalet and Davoine, `Explicit inductive bias for transfer learning
    with convolutional networks <https://arxiv.org/abs/1802.01483>`_, 2018.
  """
  pairs = _pairs(params, pretrained_params)
  dtype = jnp.result_type(
    jnp.float32, *(ops.compute_dtype(x) for x, _ in pairs)
  )
  sums = {True: jnp.zeros((), dtype), False: jnp.zeros((), dtype)}
  for x, start in pairs:
    gap = x.astype(dtype)
    if start is not None:
      gap = gap - jax.lax.stop_gradient(start).astype(dtype)
    sums[start is None] += 0.5 * jnp.sum(jnp.square(gap))
  return (
    ops.as_number("alpha", alpha, dtype) * sums[False]
    + ops.as_number("beta", beta, dtype) * sums[True]
  )


def _pairs(params: Any, pretrained: Any) -> list[tuple[Array, Array | None]]:
  """Returns pairs of parameters and pretrained values, None for new ones."""
  leaves = jax.tree_util.tree_flatten_with_path(params)[0]
  starts = dict(
    jax.tree_util.tree_flatten_with_path(
      pretrained, is_leaf=lambda x: x is None
    )[0]
  )
  pairs = []
  for path, leaf in leaves:
    name = f"params{jax.tree_util.keystr(path)}"
    owner = next(
      (path[:i] for i in range(len(path) + 1) if path[:i] in starts), None
    )
    if owner is None or (starts[owner] is not None and owner != path):
      raise ValueError(
        f"l2_sp: pretrained_params has no counterpart of {name}; expected the "
        "same structure, with None for new parameters."
      )
    other = starts[owner]
    leaf = jnp.asarray(leaf)
    if not jnp.issubdtype(leaf.dtype, jnp.floating):
      raise TypeError(f"l2_sp: {name} has dtype {leaf.dtype}; expected float.")
    if other is not None and jnp.shape(other) != leaf.shape:
      raise ValueError(
        f"l2_sp: pretrained_params{jax.tree_util.keystr(path)} has shape "
        f"{jnp.shape(other)}; expected {leaf.shape}, the shape in params."
      )
    pairs.append((leaf, None if other is None else jnp.asarray(other)))
  known = {path for path, _ in leaves}
  for path, other in starts.items():
    if other is not None and path not in known:
      raise ValueError(
        f"l2_sp: pretrained_params{jax.tree_util.keystr(path)} has no "
        "counterpart in params; expected the same structure. Remove it."
      )
  return pairs
