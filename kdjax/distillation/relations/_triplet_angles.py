"""Angles of all triplets from distances, computed in blocks (RKD)."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float, Int

from kdjax import ops

# The number of angles in memory: at several anchors, between one neighbor and
# all examples. A small batch takes several neighbors at a time: with one at a
# time an accelerator would be idle between steps.
_ANCHORS_AT_ONCE = 8  # if the number of examples is symbolic
_ANGLES_AT_ONCE = 2**18
_FEW_ANGLES = 2**16


class _Triangles(NamedTuple):
  """All triangles of an anchor, one near example and any far example."""

  near: Float[Array, "anchors 1"]
  far: Float[Array, "anchors whole"]
  across: Float[Array, "1 whole"]
  inverse_near: Float[Array, "anchors 1"]
  inverse_far: Float[Array, "anchors whole"]

  def rest(self) -> Float[Array, "anchors whole"]:
    return self.far - jnp.square(self.across) * self.inverse_far

  def cosines(self) -> Float[Array, "anchors whole"]:
    """Returns the anchor's (near^2 + far^2 - across^2) / (2 near far)."""
    by_far = self.near * self.inverse_far
    return 0.5 * (by_far + self.rest() * self.inverse_near)

  def slopes(
    self,
    slope: Float[Array, "anchors whole"],
    positions: Int[Array, " anchors"],
  ) -> Float[Array, " whole"]:
    """Returns derivatives by the near example's distances.

    `slope` is the derivative by the cosines. Derivatives by the far distances
    are not needed: in another triangle, near and far example are exchanged.
    """
    near = self.inverse_far - jnp.square(self.inverse_near) * self.rest()
    across = jnp.sum(slope * self.inverse_near * self.inverse_far, 0)
    return (
      (-self.across[0] * across).at[positions].add(jnp.sum(slope * near, 1))
    )


@jax.custom_jvp
def angle_gaps(
  positions: Int[Array, " anchors"],
  student: Float[Array, "whole whole"],
  teacher: Float[Array, "whole whole"],
) -> Float[Array, ""]:
  r"""Returns the sum of the Huber function of all gaps between cosines.

  .. math::
    \cos \angle_{jik} = \frac{d_{ij}^2 + d_{ik}^2 - d_{jk}^2}{2 d_{ij} d_{ik}}

  over the anchors i at these positions of the batch, and all j and k. Where a
  distance from the anchor is 0, because the points are equal or masked, the
  cosine is 0. By the law of cosines a triplet costs a few operations, for
  embeddings of any width. Points that are r times closer to each other than to
  other points lose log10(r) digits.
  """
  return _over_anchors(positions, (student, teacher), (False, False))[0]


@functools.partial(angle_gaps.defjvp, symbolic_zeros=True)
def _angle_gaps_jvp(
  primals: tuple[Any, ...], tangents: tuple[Any, ...]
) -> tuple[Array, Array]:
  positions, *sides = primals
  wanted = [type(step) is not SymbolicZero for step in tangents[1:]]
  # The same pass computes value and derivatives; the backward pass keeps only
  # the derivatives.
  value, slopes = _over_anchors(positions, sides, wanted)
  change = jnp.zeros_like(value)
  for slope, step in zip(slopes, tangents[1:], strict=True):
    if slope is not None:
      change += jnp.sum(slope * step)
  return value, change


def _over_anchors(
  positions: Int[Array, " anchors"],
  sides: Sequence[Float[Array, "whole whole"]],
  wanted: Sequence[bool],
) -> tuple[Float[Array, ""], list[Float[Array, "whole whole"] | None]]:
  """Returns the sum, and its derivatives by the wanted sides' distances."""
  count, whole = positions.size, sides[0].shape[0]
  if ops.is_symbolic(count):
    size = _ANCHORS_AT_ONCE
  else:
    size = min(count, max(1, _ANGLES_AT_ONCE // whole))
  index = jnp.arange(-(-count // size) * size).reshape(-1, size)
  # Padding of the last block has distance 0 from all points, so no angles.
  blocks = positions[index % count], index < count

  def add(sums: Any, block: tuple[Array, Array]) -> tuple[Any, None]:
    positions, counted = block
    # Without the barrier, XLA computes terms without an anchor before the loop,
    # for all neighbors, and keeps several matrices in memory.
    *rows, positions = jax.lax.optimization_barrier((*sides, positions))
    far = [jnp.where(counted[:, None], side[positions], 0.0) for side in rows]
    terms = _over_neighbors(positions, far, rows, wanted)
    return jax.tree.map(jnp.add, sums, terms), None

  zeros = (
    jnp.zeros((), sides[0].dtype),
    [
      jnp.zeros_like(side) if wants else None
      for side, wants in zip(sides, wanted, strict=True)
    ],
  )
  zeros = jax.tree.map(lambda x: ops.vary_like(x, positions, *sides), zeros)
  return jax.lax.scan(add, zeros, blocks)[0]


def _over_neighbors(
  positions: Int[Array, " anchors"],
  far: Sequence[Float[Array, "anchors whole"]],
  sides: Sequence[Float[Array, "whole whole"]],
  wanted: Sequence[bool],
) -> tuple[Float[Array, ""], list[Float[Array, "whole whole"] | None]]:
  """Returns sum and derivatives at some anchors, with distances `far`."""
  inverses = [_inverse(x) for x in far]

  def towards(
    rows: Sequence[Float[Array, " whole"]],
  ) -> tuple[Array, list[Array | None]]:
    student, teacher = (
      _Triangles(
        near=row[positions][:, None],
        far=x,
        across=row[None],
        inverse_near=_inverse(row[positions])[:, None],
        inverse_far=inverse,
      )
      for row, x, inverse in zip(rows, far, inverses, strict=True)
    )
    gap = student.cosines() - teacher.cosines()
    slope = jnp.clip(gap, -1, 1)
    huber = jnp.sum(slope * (gap - 0.5 * slope), 0)
    slopes = [
      triangles.slopes(signed, positions) if wants else None
      for triangles, signed, wants in zip(
        (student, teacher), (slope, -slope), wanted, strict=True
      )
    ]
    return jnp.sum(huber), slopes

  if ops.is_symbolic(far[0].size):
    at_once = 1
  else:
    at_once = _FEW_ANGLES // max(far[0].size, 1)
  values, slopes = jax.lax.map(
    towards, sides, batch_size=at_once if at_once > 1 else None
  )
  return jnp.sum(values), slopes


def _inverse(x: Array) -> Array:
  """Returns 1 / x, and 0 for 0."""
  zero = x == 0  # NaN stays NaN: it must reach the caller
  return jnp.where(zero, 0.0, 1.0 / jnp.where(zero, 1.0, x))
