"""Pooled outputs distillation (PODNet)."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from kdjax import ops


@ops.validate
def pod_loss(
  student_features: Sequence[ArrayLike],
  past_features: Sequence[ArrayLike],
) -> Float[Array, " batch"]:
  r"""Pooled outputs distillation (PODNet): marginals of feature maps are kept.

  .. math::
    \ell = \frac1L \sum_l \lVert u(F_l) - u(F^\text{past}_l) \rVert_2, \quad
    u(F) = \frac{v}{\lVert v \rVert_2}, \;
    v = \Bigl[\sum_w F_{hwc}^2, \sum_h F_{hwc}^2\Bigr]

  Maps have the channels last (NHWC). Transpose the maps of PyTorch or Equinox,
  `[batch, channels, height, width]`: the shapes cannot tell the layout.

  Args:
    student_features: the maps of each stage, `[batch, height, width,
      channels]`; stages may differ in size.
    past_features: those of the network before the current task, of the same
      shapes; no gradient.

  Returns:
    One value an example, a mean over stages, at most 2. Published weight: 3
    times sqrt(classes seen / new classes) on CIFAR-100, beside a weight of 1
    for the embeddings (`lucir_loss`, the paper's POD-flat).

  Raises:
    ValueError: if there is no stage, or shapes differ.
    TypeError: if a map is not floating-point.

  As in the authors' code, maps are squared before the sums, and both poolings
  are one vector of norm 1. The paper's text does not square them.

  Examples:
    >>> past = jnp.ones((1, 2, 2, 1))
    >>> loss = pod_loss([past.at[0, 0].set(0.0)], [past])
    >>> print(f"{loss[0]:.4f}")
    0.6058

  References:
    Douillard et al., `PODNet: pooled outputs distillation for small-tasks
    incremental learning <https://arxiv.org/abs/2004.13513>`_, 2020.
  """
  pairs = _stages(student_features, past_features)
  distances = [
    ops.safe_norm(_pooled(ours) - _pooled(jax.lax.stop_gradient(past)))
    for ours, past in pairs
  ]
  return jnp.mean(jnp.stack(distances), 0)


def _pooled(maps: Array) -> Array:
  """Returns both marginals of the squared maps as one unit vector."""
  squares = jnp.square(maps.astype(ops.compute_dtype(maps)))
  batch = squares.shape[0]
  marginals = [jnp.reshape(jnp.sum(squares, i), (batch, -1)) for i in (2, 1)]
  return ops.normalize_as_torch(jnp.concatenate(marginals, -1))


def _stages(student: object, past: object) -> list[tuple[Array, Array]]:
  sides = []
  for name, maps in (("student_features", student), ("past_features", past)):
    if not isinstance(maps, Sequence) or not maps:
      raise ValueError(
        f"pod_loss: {name} is {type(maps).__name__}; expected a list of maps, "
        "one or more."
      )
    sides.append([_as_map(f"{name}[{i}]", x) for i, x in enumerate(maps)])
  if len(sides[0]) != len(sides[1]):
    raise ValueError(
      f"pod_loss: student_features has {len(sides[0])} stages and "
      f"past_features {len(sides[1])}; expected as many."
    )
  for i, (ours, theirs) in enumerate(zip(*sides, strict=True)):
    if ours.shape != theirs.shape:
      raise ValueError(
        f"pod_loss: past_features[{i}] has shape {theirs.shape}; expected "
        f"{ours.shape}, as in student_features[{i}]."
      )
  return list(zip(*sides, strict=True))


def _as_map(name: str, value: ArrayLike) -> Array:
  maps = jnp.asarray(value)
  if maps.ndim != 4:
    raise ValueError(
      f"pod_loss: {name} has shape {maps.shape}; expected [batch, height, "
      "width, channels]."
    )
  if not jnp.issubdtype(maps.dtype, jnp.floating):
    raise TypeError(f"pod_loss: {name} has dtype {maps.dtype}; expected float.")
  return maps
