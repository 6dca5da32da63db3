"""TextBrewer's schedulers: temperatures of rows, and weights over steps."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from kdjax.ops import as_number
from kdjax.ops import at_least
from kdjax.ops import check_choice
from kdjax.ops import check_integer
from kdjax.ops import check_positive
from kdjax.ops import compute_dtype
from kdjax.ops import largest
from kdjax.ops import masked_mean
from kdjax.ops import softened_softmax
from kdjax.ops import unit_vectors
from kdjax.ops import validate


@validate
def flsw_temperatures(
  student_logits: Float[Array, "*batch classes"],
  teacher_logits: Float[Array, "*batch classes"],
  *,
  temperature: ArrayLike = 4.0,
  beta: ArrayLike = 1.0,
  gamma: ArrayLike = 1.0,
  axis_name: str | None = None,
) -> Float[Array, "*batch"]:
  r"""Focal-loss-style temperatures (FLSW): lower for rows that differ.

  .. math::
    T_i = T + \beta (\bar w - w_i), \qquad w_i = (1 - \cos(z^S_i, z^T_i))^\gamma

  Args:
    student_logits: `[*batch, classes]`.
    teacher_logits: `[*batch, classes]`.
    temperature: the mean temperature T.
    beta: how far the temperatures spread; beta times the largest weight,
      2^gamma, must stay below T.
    gamma: the exponent.
    axis_name: the mapped axis over which the batch is split.

  Returns:
    One temperature a row, without gradient.

  Raises:
    ValueError: if shapes differ or a static temperature is not above 0.
    TypeError: if the logits are not floating-point.

  Examples:
    >>> student = jnp.array([[1.0, 0.0], [0.0, 1.0]])
    >>> teacher = jnp.array([[1.0, 0.0], [1.0, 0.0]])
    >>> flsw_temperatures(student, teacher)
    Array([4.5, 3.5], dtype=float32)

  References:
    Wen, Lai and Qian, `Preparing lessons: improve knowledge distillation with
    better supervision <https://arxiv.org/abs/1911.07471>`_, 2019, in the form
    of `TextBrewer <https://arxiv.org/abs/2002.12620>`_.
  """
  student, teacher = (
    unit_vectors(x.astype(compute_dtype(x)))
    for x in (student_logits, teacher_logits)
  )
  distance = at_least(1 - jnp.sum(student * teacher, -1), 0.0)
  weights = distance ** as_number("gamma", gamma, distance.dtype)
  return _spread(weights, temperature, beta, axis_name)


@validate
def cwsm_temperatures(
  student_logits: Float[Array, "*batch classes"],
  *,
  temperature: ArrayLike = 4.0,
  beta: ArrayLike = 1.0,
  axis_name: str | None = None,
) -> Float[Array, "*batch"]:
  r"""Confidence-weighted temperatures (CWSM): lower for unsure students.

  .. math::
    T_i = T + \beta (\bar w - w_i), \qquad
    w_i = \frac{1}{\max_c \mathrm{softmax}(z^S_i)_c + 10^{-3}}

  Args:
    student_logits: `[*batch, classes]`.
    temperature: the mean temperature T.
    beta: how far the temperatures spread; beta times the largest weight, the
      number of classes, must stay below T.
    axis_name: the mapped axis over which the batch is split.

  Returns:
    One temperature a row, without gradient.

  Raises:
    ValueError: if a static temperature is not above 0.
    TypeError: if the logits are not floating-point.

  Examples:
    >>> logits = jnp.array([[0.0, 0.0], [0.0, 50.0]])
    >>> cwsm_temperatures(logits).round(1)
    Array([3.5, 4.5], dtype=float32)

  References:
    Wen, Lai and Qian, `Preparing lessons: improve knowledge distillation with
    better supervision <https://arxiv.org/abs/1911.07471>`_, 2019, in the form
    of `TextBrewer <https://arxiv.org/abs/2002.12620>`_.
  """
  weights = 1 / (largest(softened_softmax(student_logits), -1) + 1e-3)
  return _spread(weights, temperature, beta, axis_name)


def weight_schedule(
  kind: str, steps: int, weight: float = 1.0
) -> Callable[[ArrayLike], Array]:
  """Weight schedule: grows or decays linearly over the training.

  Args:
    kind: "linear_decay", from `weight` to 0, "linear_growth", from 0 to
      `weight`, or "constant".
    steps: the number of steps of the training.
    weight: the largest weight.

  Returns:
    An Optax schedule, step -> weight, for a weight of
    `kdjax.objectives.combine`.

  Raises:
    ValueError: if the kind is unknown or `steps` is below 1.

  TextBrewer replaces the configured weight by the schedule after the first
  step, and takes the configured weight in the first step. Here the schedule
  multiplies the weight, in all steps.

  Examples:
    >>> schedule = weight_schedule("linear_decay", 10, 0.5)
    >>> schedule(5)
    Array(0.25, dtype=float32)

  References:
    Yang et al., `TextBrewer <https://arxiv.org/abs/2002.12620>`_, 2020.
  """
  check_choice("kind", kind, ("linear_decay", "linear_growth", "constant"))
  check_integer("steps", steps, 1)

  def schedule(step: ArrayLike) -> Array:
    share = jnp.clip(jnp.asarray(step, jnp.float32) / steps, 0.0, 1.0)
    if kind == "constant":
      share = jnp.ones_like(share)
    elif kind == "linear_decay":
      share = 1 - share
    return weight * share

  return schedule


def _spread(
  weights: Array,
  temperature: ArrayLike,
  beta: ArrayLike,
  axis_name: str | None,
) -> Array:
  check_positive("temperature", temperature)
  base = as_number("temperature", temperature, weights.dtype)
  beta = as_number("beta", beta, weights.dtype)
  mean = masked_mean(weights, axis_name=axis_name)
  return jax.lax.stop_gradient(base + (mean - weights) * beta)
