"""Logarithm of maximum evidence (LogME)."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from kdjax import ops


@ops.validate
def logme(
  features: Float[Array, "batch dims"],
  labels: Int[Array, " batch"]
  | Float[Array, " batch"]
  | Float[Array, "batch targets"],
  *,
  num_classes: int | None = None,
  num_iterations: int = 11,
  tolerance: ArrayLike = 0.01,
  where: Bool[Array, " batch"] | None = None,
  axis_name: str | None = None,
) -> Float[Array, ""]:
  r"""Logarithm of maximum evidence (LogME), a transferability score.

  .. math::
    \operatorname{LogME} = \operatorname*{mean}_c \frac1n \max_{\alpha, \beta}
      \log p(y_c \mid F; \alpha, \beta), \qquad
    w \sim \mathcal N(0, \alpha^{-1} I), \quad
    y_c \mid w \sim \mathcal N(F w, \beta^{-1} I)

  for the indicators y_c of the classes, or for the targets of a regression. The
  weights w are integrated out and alpha and beta are maximized, so the score
  does not overfit. Higher is better.

  Args:
    features: `[batch, dims]`, of target examples.
    labels: integers `[batch]`, or floats `[batch]` or `[batch, targets]`.
    num_classes: the number of classes, which saves work under jit. None: the
      largest label plus 1; for traced labels, the number of examples. The score
      does not depend on it.
    num_iterations: the largest number of fixed-point steps for alpha and beta;
      a static integer.
    tolerance: the iteration stops if the relative change of alpha / beta is not
      larger. May be traced.
    where: `[batch]`, mask of the examples.
    axis_name: the mapped axis that holds the rest of the examples, which are
      gathered.

  Returns:
    A scalar, of any sign; 0 with gradient 0 if all examples are masked. Classes
    without examples are left out; in TLlib they make the score NaN.

  Raises:
    ValueError: if the batches differ, there is no step or a static tolerance is
      below 0.
    TypeError: if dtypes are wrong.

  With the defaults the fixed-point iteration starts at alpha / beta = 1 and
  stops at the same step as the authors' code. With at least twice as many
  examples as dims the result is the maximum to three or four digits. With fewer
  examples, or for features far from unit
  scale, the result may be 20 % below the maximum: `num_iterations=1000,
  tolerance=1e-6` finds the maximum, which does not depend on the scale of the
  features. Singular values of F are more exact than the eigenvalues of F'F in
  TLlib. The solution gets no gradient. At the maximum, where the evidence is
  stationary, first derivatives by the features are exact.

  Examples:
    >>> features = jnp.array([[0.0], [1.0], [2.0], [5.0]])
    >>> apart = logme(features, jnp.array([0, 0, 0, 1]))
    >>> mixed = logme(features, jnp.array([0, 1, 0, 0]))
    >>> print(f"{apart:.2f} {mixed:.2f}")
    -0.79 -0.96

  References:
    You et al., `LogME: practical assessment of pre-trained models for transfer
    learning <https://arxiv.org/abs/2102.11005>`_, 2021.
  """
  ops.check_integer("num_iterations", num_iterations, 1)
  ops.check_range("tolerance", tolerance, 0.0, math.inf)
  rows, mask = ops.gathered_rows(features, where, axis_name)
  if jnp.issubdtype(labels.dtype, jnp.integer):
    labels = ops.gather_batch(labels, axis_name)
    targets = ops.class_one_hot("logme", labels, num_classes, mask)
  else:
    columns = labels.reshape(labels.shape[0], -1)
    targets, _ = ops.gathered_rows(columns, where, axis_name)
    targets = targets.astype(jnp.promote_types(targets.dtype, rows.dtype))
    rows, mask = rows.astype(targets.dtype), mask.astype(targets.dtype)
  count = jnp.maximum(jnp.sum(mask), 1.0)
  basis = _basis(jax.lax.stop_gradient(rows))
  problem = _problem(basis, jax.lax.stop_gradient(targets), count)
  limit = ops.as_number("tolerance", tolerance, rows.dtype)
  fit = _solve(problem, num_iterations, limit)
  values, weights, precision, ratio = _evidence(problem, fit)
  present = ~(problem.energy <= 0)  # True for NaN
  classes = jnp.maximum(jnp.sum(present, dtype=rows.dtype), 1.0)

  def mean(x: Array) -> Array:
    return jnp.sum(jnp.where(present, x, 0.0)) / (classes * count)

  # Derivatives of log det and residual, at fixed weights and precisions.
  images = jnp.matmul(rows, basis.right, precision="highest")
  curvature = jnp.where(
    present[None],
    1 / (problem.spectrum[:, None] + ratio[None]),
    0.0,
  )
  curvature = jnp.where(basis.kept, jnp.sum(curvature, 1), 0.0)
  volume = jnp.sum(curvature * jnp.sum(jnp.square(images), 0))
  gaps = targets - jnp.matmul(images, weights, precision="highest")
  misfit = mean(precision * jnp.sum(jnp.square(gaps), 0))
  surrogate = -0.5 * (volume / (classes * count) + misfit)
  return ops.mean_over_devices(
    ops.with_gradient_of(mean(values), surrogate), axis_name
  )


class _Basis(NamedTuple):
  """Singular value decomposition of the features."""

  left: Float[Array, "batch rank"]
  right: Float[Array, "dims rank"]
  values: Float[Array, " rank"]  # 0 where not kept
  kept: Bool[Array, " rank"]


def _basis(rows: Float[Array, "batch dims"]) -> _Basis:
  left, values, right = jnp.linalg.svd(rows, full_matrices=False)
  floor = values[:1] * jnp.finfo(rows.dtype).eps * max(rows.shape)
  kept = values > floor
  return _Basis(left, right.T, jnp.where(kept, values, 0.0), kept)


class _Problem(NamedTuple):
  """Statistics that determine the evidence of all classes."""

  spectrum: Float[Array, " rank"]  # squared singular values
  kept: Bool[Array, " rank"]
  values: Float[Array, " rank"]
  inside: Float[Array, "rank classes"]  # targets along singular vectors
  outside: Float[Array, " classes"]  # energy orthogonal to the features
  energy: Float[Array, " classes"]
  count: Float[Array, ""]


def _problem(basis: _Basis, targets: Array, count: Array) -> _Problem:
  inside = jnp.matmul(basis.left.T, targets, precision="highest")
  inside = jnp.where(basis.kept[:, None], inside, 0.0)
  # The residual itself: a difference of energies would cancel.
  rest = targets - jnp.matmul(basis.left, inside, precision="highest")
  return _Problem(
    jnp.square(basis.values),
    basis.kept,
    basis.values,
    inside,
    jnp.sum(jnp.square(rest), 0),
    jnp.sum(jnp.square(targets), 0),
    count,
  )


class _Fit(NamedTuple):
  """State of the fixed-point iteration of each class."""

  before: Float[Array, " classes"]  # log alpha / beta of the weights
  after: Float[Array, " classes"]  # log alpha / beta after the step
  log_beta: Float[Array, " classes"]
  moving: Bool[Array, " classes"]


def _solve(problem: _Problem, num_iterations: int, tolerance: Array) -> _Fit:
  """Runs the fixed-point iteration for all classes."""
  span = 60.0 if jnp.finfo(problem.spectrum.dtype).bits > 32 else 30.0
  # Outside these bounds the evidence is constant up to rounding.
  middle = jnp.log(ops.nonzero_divisor(jnp.max(problem.spectrum, initial=0.0)))
  low, high = middle - span, middle + span
  rank = jnp.sum(problem.kept, dtype=middle.dtype)

  def advance(state: tuple[Array, _Fit]) -> tuple[Array, _Fit]:
    step, fit = state
    free, fixed, residual, size = _terms(problem, fit.after)
    # alpha = gamma / |m|^2, beta = (n - gamma) / residual
    log_alpha = jnp.log(jnp.sum(fixed, 0)) - jnp.log(size)
    log_beta = jnp.log(problem.count - rank + jnp.sum(free, 0))
    log_beta -= jnp.log(ops.nonzero_divisor(residual))
    after = jnp.clip(log_alpha - log_beta, low, high)
    after = jnp.where(jnp.isnan(after), fit.after, after)
    new = _Fit(
      fit.after,
      after,
      log_beta,
      jnp.abs(jnp.expm1(after - fit.after)) > tolerance,
    )
    return step + 1, jax.tree.map(
      lambda x, y: jnp.where(fit.moving, x, y), new, fit
    )

  start = jnp.clip(jnp.zeros_like(problem.energy), low, high)
  first = _Fit(start, start, start, jnp.ones_like(start, bool))
  return jax.lax.while_loop(
    lambda state: (state[0] < num_iterations) & jnp.any(state[1].moving),
    advance,
    (jnp.zeros((), jnp.int32), first),
  )[1]


def _terms(
  problem: _Problem, log_ratio: Float[Array, " classes"]
) -> tuple[Array, Array, Array, Array]:
  """Returns the terms of the fixed-point step for given ratios alpha / beta.

  Shares of prior and data in each direction, `[rank, classes]`, and, for each
  class, the squared residual and the squared norm of the weights.
  """
  spectrum, kept = problem.spectrum[:, None], problem.kept[:, None]
  ratio = jnp.exp(log_ratio)[None]
  free = jnp.where(kept, ratio / (spectrum + ratio), 0.0)
  fixed = jnp.where(kept, spectrum / (spectrum + ratio), 0.0)
  squares = jnp.square(problem.inside)
  residual = jnp.sum(squares * jnp.square(free), 0) + problem.outside
  return free, fixed, residual, jnp.sum(squares * fixed / (spectrum + ratio), 0)


def _evidence(
  problem: _Problem, fit: _Fit
) -> tuple[
  Float[Array, " classes"],
  Float[Array, "rank classes"],
  Float[Array, " classes"],
  Float[Array, " classes"],
]:
  """Returns log evidence, rotated mean weights, beta and alpha / beta."""
  spectrum, kept = problem.spectrum[:, None], problem.kept[:, None]
  _, _, residual, size = _terms(problem, fit.before)
  ratio, beta = jnp.exp(fit.after), jnp.exp(fit.log_beta)
  free = jnp.where(kept, ratio[None] / (spectrum + ratio[None]), 1.0)
  values = 0.5 * (
    jnp.sum(jnp.log(free), 0)
    + problem.count * (fit.log_beta - math.log(2 * math.pi))
    - beta * (residual + ratio * size)
  )
  weights = jnp.where(
    kept,
    problem.values[:, None]
    / (spectrum + jnp.exp(fit.before)[None])
    * problem.inside,
    0.0,
  )
  return values, weights, beta, ratio
