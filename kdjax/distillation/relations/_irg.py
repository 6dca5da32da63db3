"""Instance relationship graph distillation (IRG)."""

from collections.abc import Sequence

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from kdjax import ops
from kdjax.distillation._batch_rows import (
  Pairs,
  Rows,
  batch_rows,
  over_rows,
  pair_mean,
  pairs,
)
from kdjax.distillation._inputs import teacher_side

_FLOOR = 1e-12


@ops.validate
def irg_loss(
  student_embeddings: Float[Array, "batch student_dims"],
  teacher_embeddings: Float[Array, "batch teacher_dims"],
  student_maps: Sequence[ArrayLike] | None = None,
  teacher_maps: Sequence[ArrayLike] | None = None,
  student_logits: Float[Array, "batch classes"] | None = None,
  teacher_logits: Float[Array, "batch classes"] | None = None,
  *,
  vertex_weight: ArrayLike = 0.1,
  edge_weight: ArrayLike = 5.0,
  transformation_weight: ArrayLike = 5.0,
  where: Bool[Array, " batch"] | None = None,
  chunk_size: int | None = None,
  axis_name: str | None = None,
  stop_teacher_gradient: bool = True,
) -> Float[Array, ""]:
  r"""Instance relationship graph (IRG): equal vertices, edges and paths.

  .. math::
    \ell = w_V \operatorname{mean} (z^S - z^T)^2
      + w_E \operatorname*{mean}_l \operatorname*{mean}_{ij}
        (E^{S, l}_{ij} - E^{T, l}_{ij})^2
      + w_P \operatorname*{mean}_i (P^S_i - P^T_i)^2

  The edges are `E_ij = | f_i - f_j |^2`, for the embedding and for two feature
  maps. The transformation from the first map f to the second map g is `P_i = |
  f_i - g_i |^2`. Each is divided by its maximum over the batch. Without maps or
  logits, their terms are left out: two embeddings alone give w_E times the
  edges' term.

  Maps have the channels last (NHWC). Transpose the maps of PyTorch or Equinox,
  `[batch, channels, height, width]`: the shapes cannot tell the layout.

  Args:
    student_embeddings: `[batch, student_dims]`.
    teacher_embeddings: `[batch, teacher_dims]`; they receive no gradient.
    student_maps: the maps of two stages, `[batch, height, width, channels]`.
      For the transformation, the larger map is average-pooled to the other's
      size, and the channels of the wider map are averaged in adjacent groups.
    teacher_maps: the teacher's two maps, of any size; they receive no gradient.
    student_logits: `[batch, classes]`.
    teacher_logits: `[batch, classes]`; they receive no gradient.
    vertex_weight: the weight of the logits' term. May be traced.
    edge_weight: the weight of the edges' term. May be traced.
    transformation_weight: the weight of the transformations' term. May be
      traced.
    where: `[batch]`, True for the examples in the loss; None takes all.
    chunk_size: how many rows of the matrices of edges are in memory at a time,
      in the backward pass too; a static integer. None computes all rows at
      once.
    axis_name: the mapped axis over which the batch is split.
    stop_teacher_gradient: False lets gradients reach the teacher.

  Returns:
    A scalar. Published weight: 1, with the defaults here, on the maps of the
    last two stages (AberHu's Knowledge-Distillation-Zoo).

  Raises:
    ValueError: if the batch sizes or the numbers of classes differ, maps or
      logits are given on one side only, or there are not two maps.
    TypeError: if the arrays are not floating-point.

  The formula is that of AberHu's code, which has the paper's one-to-one mode;
  the authors' code is in Caffe.

  Examples:
    >>> points = jnp.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> print(f"{irg_loss(points, 1.0 - 3.0 * points):.6f}")
    0.000000

  References:
    Liu et al., `Knowledge distillation via instance relationship graph
    <https://openaccess.thecvf.com/content_CVPR_2019/html/Liu_Knowledge_Distillation_via_Instance_Relationship_Graph_CVPR_2019_paper.html>`_,
    2019.
  """
  _check_both("logits", student_logits, teacher_logits)
  _check_both("maps", student_maps, teacher_maps)
  pair = pairs(student_embeddings, where, axis_name)
  layers = [(student_embeddings, teacher_embeddings)]
  if student_maps is not None and teacher_maps is not None:
    batch = student_embeddings.shape[0]
    layers += zip(
      _as_maps("student_maps", student_maps, batch),
      _as_maps("teacher_maps", teacher_maps, batch),
      strict=True,
    )
  layers = [
    (
      ops.zero_masked(s, where),
      ops.zero_masked(teacher_side(t, stop_teacher_gradient), where),
    )
    for s, t in layers
  ]

  def edge_gap(student: Array, teacher: Array) -> Array:
    sides = [batch_rows(x, where, axis_name) for x in (student, teacher)]
    scales = [
      _largest(
        over_rows(_longest_edge, rows, pair=pair, chunk_size=chunk_size),
        axis_name,
      )
      for rows in sides
    ]

    def gaps(student: Rows, teacher: Rows, pair: Pairs) -> Array:
      edges = _squared(student, pair) / scales[0]
      return jnp.square(edges - _squared(teacher, pair) / scales[1])

    return pair_mean(
      gaps, *sides, pair=pair, chunk_size=chunk_size, axis_name=axis_name
    )

  edge_loss = jnp.mean(jnp.stack([edge_gap(*layer) for layer in layers]))
  dtype = edge_loss.dtype
  loss = ops.as_number("edge_weight", edge_weight, dtype) * edge_loss
  if len(layers) > 1:
    (student_first, teacher_first), (student_second, teacher_second) = layers[
      1:
    ]
    transformations = [
      _transformation(student_first, student_second, where, axis_name),
      _transformation(teacher_first, teacher_second, where, axis_name),
    ]
    loss += ops.as_number(
      "transformation_weight", transformation_weight, dtype
    ) * ops.masked_mean(
      jnp.square(transformations[0] - transformations[1]),
      where,
      axis_name=axis_name,
    )
  if student_logits is not None and teacher_logits is not None:
    gaps = student_logits.astype(dtype) - teacher_side(
      teacher_logits.astype(dtype), stop_teacher_gradient
    )
    loss += ops.as_number(
      "vertex_weight", vertex_weight, dtype
    ) * ops.masked_mean(
      jnp.square(ops.zero_masked(gaps, where)), where, axis_name=axis_name
    )
  return loss


def _squared(rows: Rows, pair: Pairs) -> Float[Array, "batch whole"]:
  """Returns squared distances; exactly 0 for an example and itself."""
  squared = ops.at_least(ops.pairwise_squared_distances(*rows), _FLOOR)
  return jnp.where(pair.valid & ~pair.diagonal, squared, 0.0)


def _longest_edge(rows: Rows, pair: Pairs) -> Float[Array, " batch"]:
  return ops.largest(_squared(rows, pair), 1)


def _transformation(
  first: Array, second: Array, where: Array | None, axis_name: str | None
) -> Float[Array, " batch"]:
  """Returns squared distances between two maps, divided by their maximum."""
  shape = tuple(map(min, first.shape[1:], second.shape[1:]))
  gaps = _average_down(first, shape) - _average_down(second, shape)
  squared = ops.at_least(jnp.sum(jnp.square(gaps), (1, 2, 3)), _FLOOR)
  if where is not None:
    squared = jnp.where(where, squared, 0.0)
  return squared / _largest(squared, axis_name)


def _average_down(maps: Array, shape: tuple[int, ...]) -> Array:
  """Averages a map to a smaller height, width and number of channels."""
  height, width, channels = shape
  maps = ops.adaptive_mean_pool(maps, (height, width))
  columns = maps.reshape(maps.shape[0], height * width, -1, 1)
  columns = ops.adaptive_mean_pool(columns, (height * width, channels))
  return columns.reshape(-1, *shape)


def _largest(values: Array, axis_name: str | None) -> Array:
  """Returns the largest value of the batch, differentiable over devices."""
  return ops.nonzero_divisor(ops.largest(ops.gather_batch(values, axis_name)))


def _check_both(name: str, student: object, teacher: object) -> None:
  if (student is None) != (teacher is None):
    missing = "student" if student is None else "teacher"
    raise ValueError(
      f"irg_loss: {missing}_{name} is None; expected {name} of student and "
      "teacher, or of neither."
    )


def _as_maps(name: str, maps: Sequence[ArrayLike], batch: int) -> list[Array]:
  arrays = [jnp.asarray(x) for x in maps]
  shapes = [x.shape for x in arrays]
  if [(len(shape), *shape[:1]) for shape in shapes] != [(4, batch)] * 2:
    raise ValueError(
      f"irg_loss: {name} have shapes {shapes}; expected two maps [batch, "
      f"height, width, channels] of {batch} examples."
    )
  for x in arrays:
    if not jnp.issubdtype(x.dtype, jnp.floating):
      raise TypeError(f"irg_loss: {name} have dtype {x.dtype}; expected float.")
  return arrays
