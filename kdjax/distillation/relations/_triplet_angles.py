"""The angles of all triplets, from distances, a few of them at a time."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float, Int

from kdjax.ops import vary_like

# Angles in memory: at several anchors, towards one neighbor and all examples.
# Of a small batch, towards several neighbors: one at a time, an accelerator
# would wait for the next.
_ANGLES_AT_ONCE = 2**18
_FEW_ANGLES = 2**16


class _Triangles(NamedTuple):
  """All triangles of an anchor, one neighbor and any far example."""

  near: Float[Array, "anchors 1"]
  far: Float[Array, "anchors whole"]
  across: Float[Array, "1 whole"]
  inverse_near: Float[Array, "anchors 1"]
  inverse_far: Float[Array, "anchors whole"]

  def rest(self) -> Float[Array, "anchors whole"]:
    return self.far - jnp.square(self.across) * self.inverse_far

  def cosines(self) -> Float[Array, "anchors whole"]:
    """Returns (near^2 + far^2 - across^2) / (2 near far), the anchor's."""
    by_far = self.near * self.inverse_far
    return 0.5 * (by_far + self.rest() * self.inverse_near)

  def slopes(
    self, slope: Float[Array, "anchors whole"], places: Int[Array, " anchors"]
  ) -> Float[Array, " whole"]:
    """Returns slopes by the neighbor's distances from those by the cosines.

    Near stands for far too: neighbor and far example change places.
    """
    near = self.inverse_far - jnp.square(self.inverse_near) * self.rest()
    across = jnp.sum(slope * self.inverse_near * self.inverse_far, 0)
    return (-self.across[0] * across).at[places].add(jnp.sum(slope * near, 1))


@jax.custom_jvp
def angle_gaps(
  places: Int[Array, " anchors"],
  student: Float[Array, "whole whole"],
  teacher: Float[Array, "whole whole"],
) -> Float[Array, ""]:
  r"""Returns the sum of the Huber function of all gaps between cosines.

  .. math::
    \cos \angle_{jik} = \frac{d_{ij}^2 + d_{ik}^2 - d_{jk}^2}{2 d_{ij} d_{ik}}

  over the anchors i at these places of the batch, and all j and k. Where a
  distance from the anchor is 0, since it has no direction or does not count,
  the cosine is 0. By the law of cosines a triplet costs a few operations,
  whatever the width of the rows; of points that are r times closer to each
  other than to others, log10(r) digits are lost.
  """
  return _over_anchors(places, (student, teacher), (False, False))[0]


@functools.partial(angle_gaps.defjvp, symbolic_zeros=True)
def _angle_gaps_jvp(
  primals: tuple[Any, ...], tangents: tuple[Any, ...]
) -> tuple[Array, Array]:
  places, *sides = primals
  moving = [type(step) is not SymbolicZero for step in tangents[1:]]
  # The slopes come out of the same pass as the value, and are all that the
  # backward pass keeps.
  value, slopes = _over_anchors(places, sides, moving)
  change = jnp.zeros_like(value)
  for slope, step in zip(slopes, tangents[1:], strict=True):
    if slope is not None:
      change += jnp.sum(slope * step)
  return value, change


def _over_anchors(
  places: Int[Array, " anchors"],
  sides: Sequence[Float[Array, "whole whole"]],
  moving: Sequence[bool],
) -> tuple[Float[Array, ""], list[Float[Array, "whole whole"] | None]]:
  """Returns the sum, and its slopes by the distances of sides that move."""
  count, whole = places.size, len(sides[0])
  size = min(count, max(1, _ANGLES_AT_ONCE // whole))
  index = jnp.arange(-(-count // size) * size).reshape(-1, size)
  # What fills the last block is at distance 0 from all: it has no angles.
  blocks = places[index % count], index < count

  def add(sums: Any, block: tuple[Array, Array]) -> tuple[Any, None]:
    places, counted = block
    # Or else what no anchor enters would be made ahead of the loop for all
    # neighbors, and kept: several matrices.
    *rows, places = jax.lax.optimization_barrier((*sides, places))
    far = [jnp.where(counted[:, None], side[places], 0.0) for side in rows]
    terms = _over_neighbours(places, far, rows, moving)
    return jax.tree.map(jnp.add, sums, terms), None

  zeros = (
    jnp.zeros((), sides[0].dtype),
    [
      jnp.zeros_like(side) if moves else None
      for side, moves in zip(sides, moving, strict=True)
    ],
  )
  zeros = jax.tree.map(lambda x: vary_like(x, places, *sides), zeros)
  return jax.lax.scan(add, zeros, blocks)[0]


def _over_neighbours(
  places: Int[Array, " anchors"],
  far: Sequence[Float[Array, "anchors whole"]],
  sides: Sequence[Float[Array, "whole whole"]],
  moving: Sequence[bool],
) -> tuple[Float[Array, ""], list[Float[Array, "whole whole"] | None]]:
  """Returns the same at some anchors, whose distances are far."""
  inverses = [_inverse(x) for x in far]

  def towards(
    rows: Sequence[Float[Array, " whole"]],
  ) -> tuple[Array, list[Array | None]]:
    student, teacher = (
      _Triangles(
        near=row[places][:, None],
        far=x,
        across=row[None],
        inverse_near=_inverse(row[places])[:, None],
        inverse_far=inverse,
      )
      for row, x, inverse in zip(rows, far, inverses, strict=True)
    )
    gap = student.cosines() - teacher.cosines()
    slope = jnp.clip(gap, -1, 1)
    huber = jnp.sum(slope * (gap - 0.5 * slope), 0)
    slopes = [
      triangles.slopes(signed, places) if moves else None
      for triangles, signed, moves in zip(
        (student, teacher), (slope, -slope), moving, strict=True
      )
    ]
    return jnp.sum(huber), slopes

  at_once = _FEW_ANGLES // max(far[0].size, 1)
  values, slopes = jax.lax.map(
    towards, sides, batch_size=at_once if at_once > 1 else None
  )
  return jnp.sum(values), slopes


def _inverse(x: Array) -> Array:
  """Returns 1 / x, and 0 for 0."""
  zero = x == 0  # NaN is not: it must reach the caller
  return jnp.where(zero, 0.0, 1.0 / jnp.where(zero, 1.0, x))
