"""The angles of all triplets, from distances, a matrix of them at a time."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float, Int

# Of a small batch, the angles towards several neighbours are in memory at
# once: one at a time, an accelerator would wait for the next.
_ANGLES_AT_ONCE = 2**16


@jax.custom_jvp
def angle_gaps(
  places: Int[Array, " anchors"],
  student_local: Float[Array, "anchors whole"],
  student_whole: Float[Array, "whole whole"],
  teacher_local: Float[Array, "anchors whole"],
  teacher_whole: Float[Array, "whole whole"],
) -> Float[Array, ""]:
  r"""Returns the sum of the Huber function of all gaps between cosines.

  .. math::
    \cos \angle_{jik} = \frac{d_{ij}^2 + d_{ik}^2 - d_{jk}^2}{2 d_{ij} d_{ik}}

  over the anchors i of this device, at these places of the batch, and all j
  and k. Where a distance from an anchor is 0, the cosine is 0. By the law of
  cosines a triplet costs a few operations, whatever the width of the rows; of
  points that are r times closer to each other than to others, log10(r) digits
  are lost.
  """
  distances = student_local, student_whole, teacher_local, teacher_whole
  return _towards_all(places, distances, ())[0]


@functools.partial(angle_gaps.defjvp, symbolic_zeros=True)
def _angle_gaps_jvp(
  primals: tuple[Array, ...], tangents: tuple[Any, ...]
) -> tuple[Array, Array]:
  places, *distances = primals
  # The slopes come out of the same pass as the value, and are all that is
  # kept for the backward pass.
  moving = [
    i for i, x in enumerate(tangents[1:]) if type(x) is not SymbolicZero
  ]
  value, slopes = _towards_all(places, distances, moving)
  changes = [
    jnp.sum(slope * steps[i]) for i, slope in zip(moving, slopes, strict=True)
  ]
  return value, sum(changes, jnp.zeros_like(value))


def _towards_all(
  places: Int[Array, " anchors"],
  distances: Sequence[Array],
  moving: Sequence[int],
) -> tuple[Float[Array, ""], list[Array]]:
  """Returns the sum, and its slopes by the distances that move."""
  local, whole = distances[::2], distances[1::2]
  inverses = [_inverse(x) for x in local]

  def towards(rows: Sequence[Array]) -> tuple[Array, list[Array]]:
    """The same for one neighbour j: `[anchors, whole]` in memory."""
    nears = [row[places] for row in rows]
    inverse_nears = [_inverse(near)[:, None] for near in nears]
    # cos = (near * inverse + rest * inverse_near) / 2
    rests = [
      far - jnp.square(row)[None] * inverse
      for far, row, inverse in zip(local, rows, inverses, strict=True)
    ]
    cosines = [
      0.5 * (near[:, None] * inverse + rest * inverse_near)
      for near, inverse, rest, inverse_near in zip(
        nears, inverses, rests, inverse_nears, strict=True
      )
    ]
    gap = cosines[0] - cosines[1]
    slope = jnp.clip(gap, -1, 1)
    slopes = []
    for i in moving:
      side, is_whole = divmod(i, 2)
      signed = -slope if side else slope
      inverse, inverse_near = inverses[side], inverse_nears[side]
      if is_whole:
        across = jnp.sum(signed * inverse_near * inverse, 0)
        slopes.append(-rows[side] * across)
      else:
        # Twice a half: j and k may change places.
        slopes.append(
          jnp.sum(
            signed * (inverse - jnp.square(inverse_near) * rests[side]), 1
          )
        )
    return jnp.sum(jnp.sum(slope * (gap - 0.5 * slope), 0)), slopes

  at_once = _ANGLES_AT_ONCE // max(local[0].size, 1)
  values, slopes = jax.lax.map(
    towards, whole, batch_size=at_once if at_once > 1 else None
  )
  return jnp.sum(values), [
    slope if i % 2 else slope.T for i, slope in zip(moving, slopes, strict=True)
  ]


def _inverse(x: Array) -> Array:
  """Returns 1 / x, and 0 for 0."""
  zero = x == 0  # NaN is not: it must reach the caller
  return jnp.where(zero, 0.0, 1.0 / jnp.where(zero, 1.0, x))
