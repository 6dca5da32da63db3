"""Average accuracy, forgetting, backward and forward transfer."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from kdjax import ops


@ops.exportable
class ContinualMetrics(NamedTuple):
  """Metrics of a sequence of tasks.

  Attributes:
    average_accuracy: of all tasks after the last one.
    forgetting: how far each task but the last fell below its best accuracy
      before the last task; negative if it rose above it.
    backward_transfer: how far each task but the last moved after it was
      learned.
    forward_transfer: how far each task but the first was above a network
      without training, before it was learned; None without those accuracies.

  References:
    Lopez-Paz and Ranzato, `Gradient episodic memory for continual learning
    <https://arxiv.org/abs/1706.08840>`_, 2017.
  """

  average_accuracy: Float[Array, ""]
  forgetting: Float[Array, ""]
  backward_transfer: Float[Array, ""]
  forward_transfer: Float[Array, ""] | None


@ops.validate
def continual_metrics(
  accuracies: Float[Array, "tasks tasks"],
  random_accuracies: Float[Array, " tasks"] | None = None,
) -> ContinualMetrics:
  r"""Metrics of continual learning: of the matrix of accuracies.

  .. math::
    A = \frac1T \sum_j a_{Tj}, \quad
    F = \frac1{T-1} \sum_{j<T} \max_{i<T} a_{ij} - a_{Tj}, \quad
    B = \frac1{T-1} \sum_{j<T} a_{Tj} - a_{jj}, \quad
    W = \frac1{T-1} \sum_{j>1} a_{j-1,j} - r_j

  Args:
    accuracies: a, `[tasks, tasks]`; the entry (i, j) is the accuracy on task j
      after training on task i.
    random_accuracies: r, `[tasks]`, of the network before all training; None if
      they are not known.

  Returns:
    `ContinualMetrics`. With a single task all transfers are 0.

  Raises:
    ValueError: if the matrix is not square, or shapes do not fit.
    TypeError: if an array is not floating-point.

  Forgetting is the paper's. mammoth's function takes the maximum over all rows,
  the last one included, so that it is never negative, and changes the matrix
  that it gets.

  Examples:
    >>> matrix = jnp.array([[0.75, 0.5], [0.5, 1.0]])
    >>> metrics = continual_metrics(matrix, jnp.array([0.5, 0.25]))
    >>> print(*metrics)
    0.75 0.25 -0.25 0.25

  References:
    Chaudhry et al., `Riemannian walk for incremental learning
    <https://arxiv.org/abs/1801.10112>`_, 2018 (forgetting); Lopez-Paz and
    Ranzato, `Gradient episodic memory for continual learning
    <https://arxiv.org/abs/1706.08840>`_, 2017 (transfer).
  """
  values = accuracies.astype(ops.compute_dtype(accuracies))
  tasks = values.shape[0]
  rest = max(tasks - 1, 1)
  final, own = values[-1, :-1], jnp.diagonal(values)[:-1]
  best = jnp.max(values[:-1, :-1], 0, initial=-jnp.inf)
  forward = None
  if random_accuracies is not None:
    start = random_accuracies.astype(values.dtype)[1:]
    forward = jnp.sum(jnp.diagonal(values, 1) - start) / rest
  return ContinualMetrics(
    jnp.mean(values[-1]),
    jnp.sum(best - final) / rest,
    jnp.sum(final - own) / rest,
    forward,
  )
