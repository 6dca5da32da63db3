"""Joint distribution adaptation (JDA, Long 2013)."""

import functools

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from kdjax import ops
from kdjax.transforms._component_map import (
  ComponentMap,
  Problem,
  make_problem,
  unit_rows,
)

_product = functools.partial(jnp.matmul, precision="highest")


@ops.validate
def joint_distribution_adaptation(
  source: Float[Array, "source dims"],
  target: Float[Array, "target dims"],
  source_labels: Int[Array, " source"],
  *,
  num_classes: int,
  num_components: int | None = None,
  ridge: ArrayLike = 1.0,
  num_iterations: int = 10,
  kernel: str = "primal",
  gamma: ArrayLike | None = None,
  normalize: bool = True,
  scaling: str = "paper",
  where_source: Bool[Array, " source"] | None = None,
  where_target: Bool[Array, " target"] | None = None,
  axis_name: str | None = None,
) -> ComponentMap:
  r"""Joint distribution adaptation (JDA): aligns marginals and class means.

  .. math::
    M \propto C\, e e^\top + \sum_c e_c e_c^\top, \qquad
    (e_c)_i = 1 / n_s^c \text{ or } -1 / n_t^c \text{ in class } c

  in the problem of `tca`. The class of a target row is that of the nearest
  source row in the space of the last iteration. The first iteration has no
  target classes and is TCA. `adaptation.jda_loss` and joint adaptation networks
  (JAN) are other methods.

  Args:
    source: `[source, dims]`.
    target: `[target, dims]`; the number of rows may differ.
    source_labels: `[source]`, integers in [0, num_classes).
    num_classes: C; static.
    num_components: see `tca`. The authors: 100; transferlearning: 30.
    ridge: lambda > 0. The authors: 1 for faces and digits, 0.1 for objects.
    num_iterations: T. The authors: 10.
    kernel: "primal", "linear" or "rbf", see `tca`.
    gamma: of "rbf"; None is 1 / dims. transferlearning: 1.
    normalize: whether rows are scaled to length 1 before and after the map and
      M is divided by its Frobenius norm, as in the codes of the authors and of
      transferlearning.
    scaling: "paper", A' K H K A = I, or "unit", see `tca`.
    where_source: mask of the source rows.
    where_target: mask of the target rows.
    axis_name: the mapped axis that holds the rest of both samples. Rows are
      gathered; `target_labels` belong to the target rows of this device.

  Returns:
    The map; `target_labels` holds the labels of the nearest source rows, and -1
    for masked rows. The iterations run in a `jax.lax.scan`. The last projection
    is differentiable in both samples, for fixed pseudo-labels.

  Raises:
    ValueError: if shapes differ, an option is unknown, a static number is
      too small or there are too many components.

  Differs from published code: transferlearning's JDA.py (and BDA.py) overwrites
  the variable of e with e_c, so from the third iteration on the marginal term
  is that of the last class. A class without target rows keeps its source part,
  as in the authors' code; a class without source rows keeps its target part.

  Examples:
    >>> source = jnp.array([[1.0, 0.1], [1.0, 0.2], [0.1, 1.0], [0.2, 1.0]])
    >>> fitted = joint_distribution_adaptation(
    ...   source, source + 0.1, jnp.array([0, 0, 1, 1]), num_classes=2,
    ...   num_components=1,
    ... )
    >>> fitted.target_labels
    Array([0, 0, 1, 1], dtype=int32)

  References:
    Long et al., `Transfer feature learning with joint distribution adaptation
    <https://doi.org/10.1109/ICCV.2013.274>`_, 2013.
  """
  ops.check_integer("num_classes", num_classes, 1)
  ops.check_integer("num_iterations", num_iterations, 1)
  pair = ops.as_sample_pair(
    source, target, where_source, where_target, axis_name
  )
  labels = ops.gather_batch(source_labels, axis_name)
  problem = make_problem(
    pair, kernel, gamma, normalize, scaling, num_components
  )
  marginal = problem.contrast()[:, None] * jnp.sqrt(1.0 * num_classes)
  dtype = pair.source.dtype

  def of_class(labels: Array, mask: Array) -> Array:
    """Returns one column for each class, of sum 1 if the class has rows."""
    members = ops.one_hot_labels(labels, num_classes, dtype, mask)
    return members / jnp.maximum(jnp.sum(members, 0), 1)[None]

  of_source = of_class(labels, pair.source_mask)

  def solve(pseudo: Array, with_classes: ArrayLike, problem: Problem) -> Array:
    of_target = of_class(pseudo, pair.target_mask)
    classes = jnp.concatenate([of_source, -of_target]) * with_classes
    contrasts = jnp.concatenate([marginal, classes], 1)
    return problem.solve(contrasts, ridge)

  def predict(coefficients: Array, problem: Problem) -> Array:
    mapped = _product(problem.features, coefficients)
    mapped = unit_rows(mapped) if normalize else mapped
    of_source, of_target = jnp.split(mapped, [pair.source.shape[0]])
    squares = ops.pairwise_squared_distances(of_target, of_source)
    squares = jnp.where(pair.source_mask[None] > 0, squares, jnp.inf)
    nearest = labels[jnp.argmin(squares, 1)].astype(jnp.int32)
    # Masked rows are zero, and as near to one source row as to another.
    return jnp.where(pair.target_mask > 0, nearest, -1)

  fixed = jax.lax.stop_gradient(problem)

  def iterate(pseudo: Array, index: Array) -> tuple[Array, None]:
    with_classes = (index > 0).astype(dtype)
    return predict(solve(pseudo, with_classes, fixed), fixed), None

  # The first iteration does not use target classes.
  start = jnp.zeros_like(pair.target_mask, jnp.int32)
  # Gives the carry of the scan its final type under `jax.shard_map`.
  start += 0 * (pair.target_mask + pair.source_mask[0]).astype(jnp.int32)
  pseudo, _ = jax.lax.scan(iterate, start, jnp.arange(num_iterations - 1))
  coefficients = solve(pseudo, float(num_iterations > 1), problem)
  pseudo = predict(jax.lax.stop_gradient(coefficients), fixed)
  return problem.as_map(
    coefficients,
    ops.local_rows(pseudo, target.shape[0], axis_name),
    axis_name,
  )
