"""Learned (CTKD) and per-example (FLSW, CWSM) temperatures."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from kdjax import ops


@ops.validate
def ctkd_temperature(
  parameter: Float[Array, "..."],
  *,
  reversal: ArrayLike = 1.0,
  lowest: ArrayLike = 1.0,
  span: ArrayLike = 20.0,
) -> Float[Array, "..."]:
  r"""Curriculum temperature (CTKD): a temperature trained adversarially.

  .. math:: T = T_0 + s \, \sigma(R_\lambda(\theta))

  R is the identity in the forward pass and multiplies the gradient by -lambda
  in the backward pass, so that the temperature maximizes the loss that the
  student minimizes. Lambda grows from 0 during training: the soft targets
  become harder step by step.

  Args:
    parameter: theta, a scalar, or one per example.
    reversal: lambda, at least 0; may be traced.
    lowest: T_0 > 0.
    span: s > 0.

  Returns:
    Temperatures in the shape of `parameter`, for `soft_target_loss`. The
    reversed gradient includes that of the loss's factor T^2.

  Raises:
    ValueError: if a static `lowest` or `span` is not above 0.

  In the authors' code, the layer multiplies the gradient by a lambda that goes
  from 0 to -1 along half a cosine in 10 epochs; here lambda is positive.

  Examples:
    >>> ctkd_temperature(jnp.array(0.0))
    Array(11., dtype=float32)
    >>> jax.grad(ctkd_temperature)(0.0)
    Array(-5., dtype=float32, weak_type=True)

  References:
    Li et al., `Curriculum temperature for knowledge distillation
    <https://arxiv.org/abs/2211.16231>`_, 2023; code zhengli97/CTKD.
  """
  ops.check_positive("lowest", lowest)
  ops.check_positive("span", span)
  parameter = parameter.astype(ops.compute_dtype(parameter))
  lowest = ops.as_number("lowest", lowest, parameter.dtype)
  span = ops.as_number("span", span, parameter.dtype)
  return lowest + span * jax.nn.sigmoid(
    ops.reverse_gradient(parameter, reversal)
  )


@ops.validate
def flsw_temperature(
  student_logits: Float[Array, "*batch classes"],
  teacher_logits: Float[Array, "*batch classes"],
  *,
  temperature: ArrayLike = 4.0,
  beta: ArrayLike = 1.0,
  gamma: ArrayLike = 2.0,
  where: Bool[Array, "*batch"] | None = None,
  axis_name: str | None = None,
) -> Float[Array, "*batch"]:
  r"""Focal-loss style temperature (FLSW): lower where the logits differ more.

  .. math::
    T_i = T_0 + \beta \, (\operatorname{mean}_j w_j - w_i), \quad
    w_i = (1 - \cos(z^S_i, z^T_i))^\gamma

  Args:
    student_logits: `[*batch, classes]`. A logit of -inf, on either side, is
      replaced by 0.
    teacher_logits: `[*batch, classes]`.
    temperature: the base T_0 > 0; a number, or one per example. May be traced.
    beta: the scale of the differences between temperatures. May be traced.
    gamma: the exponent of the cosine distance. May be traced.
    where: `[*batch]`, True for the examples in the mean; None takes all.
    axis_name: the mapped axis over which the batch is split.

  Returns:
    One temperature an example, without gradient. Keep beta well below T_0: w
    may reach 2^gamma, and a temperature is not bounded from below.

  Raises:
    ValueError: if the shapes differ or a static base is not above 0.

  As in TextBrewer, 1e-4 is added to the norms.

  Examples:
    >>> student, teacher = jnp.eye(2), jnp.array([[1.0, 0.0], [1.0, 0.0]])
    >>> print(flsw_temperature(student, teacher).round(2))
    [4.5 3.5]

  References:
    Wen, Lai and Qian, `Preparing lessons: improve knowledge distillation with
    better supervision <https://arxiv.org/abs/1911.07471>`_, 2019; code
    airaria/TextBrewer, schedulers.py.
  """

  def direction(logits: Array) -> Array:
    logits = logits.astype(ops.compute_dtype(logits))
    logits = jnp.where(jnp.isneginf(logits), 0.0, logits)
    return logits / (ops.safe_norm(logits, keepdims=True) + 1e-4)

  cosine = jnp.sum(direction(student_logits) * direction(teacher_logits), -1)
  # Rounding may make 1 - cosine negative; its fractional power would be NaN.
  gamma = ops.as_number("gamma", gamma, cosine.dtype)
  weight = ops.at_least(1 - cosine, 0.0) ** gamma
  return _around_base(weight, temperature, beta, where, axis_name)


@ops.validate
def cwsm_temperature(
  student_logits: Float[Array, "*batch classes"],
  teacher_logits: Float[Array, "*batch classes"] | None = None,
  *,
  temperature: ArrayLike = 4.0,
  beta: ArrayLike = 1.0,
  where: Bool[Array, "*batch"] | None = None,
  axis_name: str | None = None,
) -> Float[Array, "*batch"]:
  r"""Confidence-weighted temperature (CWSM): lower where the student is unsure.

  .. math::
    T_i = T_0 + \beta \, (\operatorname{mean}_j w_j - w_i), \quad
    w_i = 1 / \max_c p^S_{ic}

  where p is the softmax at temperature 1.

  Args:
    student_logits: `[*batch, classes]`.
    teacher_logits: not used; `flsw_temperature` takes the same arguments.
    temperature: the base T_0 > 0; a number, or one per example. May be traced.
    beta: the scale of the differences between temperatures. May be traced.
    where: `[*batch]`, True for the examples in the mean; None takes all.
    axis_name: the mapped axis over which the batch is split.

  Returns:
    One temperature an example, without gradient. Keep beta well below T_0: w
    may reach the number of classes, and a temperature is not bounded from
    below.

  Raises:
    ValueError: if the shapes differ or a static base is not above 0.

  As in TextBrewer, w uses the student's confidence, and 1e-3 is added to it.

  Examples:
    >>> print(cwsm_temperature(jnp.array([[0.0, 0.0], [9.0, 0.0]])).round(2))
    [3.5 4.5]

  References:
    Wen, Lai and Qian, `Preparing lessons: improve knowledge distillation with
    better supervision <https://arxiv.org/abs/1911.07471>`_, 2019; code
    airaria/TextBrewer, schedulers.py.
  """
  del teacher_logits
  weight = 1 / (ops.largest(ops.softened_softmax(student_logits), -1) + 1e-3)
  return _around_base(weight, temperature, beta, where, axis_name)


def _around_base(
  weight: Array,
  temperature: ArrayLike,
  beta: ArrayLike,
  where: Array | None,
  axis_name: str | None,
) -> Array:
  """Returns T_0 + beta (mean weight - weight), without gradient."""
  ops.check_positive("temperature", temperature)
  base = ops.as_number(
    "temperature", temperature, weight.dtype, shape=weight.shape
  )
  beta = ops.as_number("beta", beta, weight.dtype)
  mean = ops.masked_mean(weight, where, axis_name=axis_name)
  return jax.lax.stop_gradient(base + beta * (mean - weight))
