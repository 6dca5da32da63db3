"""LogME: the evidence of labels under a linear model of the features."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from kdjax.finetuning._rows import class_members
from kdjax.finetuning._rows import everywhere
from kdjax.finetuning._rows import nonzero
from kdjax.finetuning._rows import whole_rows
from kdjax.finetuning._rows import with_gradient_of
from kdjax.ops import gather_batch
from kdjax.ops._validation import validate

_STEPS = 1000


@validate
def logme(
  features: Float[Array, "batch dims"],
  labels: Int[Array, " batch"]
  | Float[Array, " batch"]
  | Float[Array, "batch targets"],
  *,
  num_classes: int | None = None,
  where: Bool[Array, " batch"] | None = None,
  axis_name: str | None = None,
) -> Float[Array, ""]:
  r"""Logarithm of maximum evidence (LogME), a transferability score.

  .. math::
    \operatorname{LogME} = \operatorname*{mean}_c \frac1n \max_{\alpha, \beta}
      \log p(y_c \mid F; \alpha, \beta), \qquad
    w \sim \mathcal N(0, \alpha^{-1} I), \quad
    y_c \mid w \sim \mathcal N(F w, \beta^{-1} I)

  for the indicators y_c of the classes, or for the targets of a regression.
  Both variances are integrated over or maximised, so that nothing is fitted
  and nothing overfits. Higher is better.

  Args:
    features: `[batch, dims]` of target examples.
    labels: integers `[batch]`, or floats `[batch]` or `[batch, targets]`.
    num_classes: how many classes there are, which saves work under jit.
      Otherwise the largest label tells, or, for traced labels, there is room
      for as many classes as examples; the score is the same.
    where: `[batch]`, which examples count.
    axis_name: the mapped axis that holds the rest of the examples, which are
      gathered.

  Returns:
    A scalar, of any sign; 0 with gradient 0 if nothing counts. Classes without
    examples do not take part; in TLlib they make the score NaN.

  Raises:
    ValueError: if the batches differ.
    TypeError: if dtypes are wrong.

  The published fixed-point iteration of alpha and beta, from alpha / beta = 1,
  is here run until it stands still; the published code stops after 11 steps
  or as alpha / beta moves by less than 1 %, and so differs in the third or
  fourth digit. Singular values of F, not eigenvalues of F'F as in TLlib, keep
  the digits, for more dims than examples too. The evidence is stationary in
  what is solved for, which therefore gets no gradient; first derivatives by
  the features are exact all the same, second derivatives are not.

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
  rows, mask = whole_rows(features, where, axis_name)
  if jnp.issubdtype(labels.dtype, jnp.integer):
    labels = gather_batch(labels, axis_name)
    targets = class_members("logme", labels, num_classes, mask)
  else:
    columns = labels.reshape(labels.shape[0], -1)
    targets, _ = whole_rows(columns, where, axis_name)
    targets = targets.astype(jnp.promote_types(targets.dtype, rows.dtype))
    rows, mask = rows.astype(targets.dtype), mask.astype(targets.dtype)
  count = jnp.maximum(jnp.sum(mask), 1.0)
  basis = _basis(jax.lax.stop_gradient(rows))
  problem = _problem(basis, jax.lax.stop_gradient(targets), count)
  ratio = _solve(problem)
  values, weights, precision = _evidence(problem, ratio)
  present = problem.energy > 0
  classes = jnp.maximum(jnp.sum(present, dtype=rows.dtype), 1.0)

  def mean(x: Array) -> Array:
    return jnp.sum(jnp.where(present, x, 0.0)) / (classes * count)

  # d log det and d residual, at weights and precisions that stand still.
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
  return everywhere(with_gradient_of(mean(values), surrogate), axis_name)


class _Basis(NamedTuple):
  """A singular value decomposition of the features."""

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
  """What the evidence of all classes depends on."""

  spectrum: Float[Array, " rank"]  # squared singular values
  kept: Bool[Array, " rank"]
  values: Float[Array, " rank"]
  inside: Float[Array, "rank classes"]  # targets along singular vectors
  outside: Float[Array, " classes"]  # energy that no features reach
  energy: Float[Array, " classes"]
  count: Float[Array, ""]


def _problem(basis: _Basis, targets: Array, count: Array) -> _Problem:
  inside = jnp.matmul(basis.left.T, targets, precision="highest")
  inside = jnp.where(basis.kept[:, None], inside, 0.0)
  # Not by subtraction of energies, which would cancel.
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


def _solve(problem: _Problem) -> Float[Array, " classes"]:
  """Returns alpha / beta where the fixed-point iteration stands still."""
  dtype = problem.spectrum.dtype
  spectrum, kept = problem.spectrum[:, None], problem.kept[:, None]
  squares = jnp.square(problem.inside)
  rank = jnp.sum(problem.kept, dtype=dtype)
  # Beyond, nothing changes: all directions are free, or none.
  span = 60.0 if jnp.finfo(dtype).bits > 32 else 30.0
  middle = jnp.log(nonzero(jnp.max(problem.spectrum, initial=0.0)))
  low, high = middle - span, middle + span
  close = math.sqrt(jnp.finfo(dtype).eps)

  def update(log_ratio: Array) -> Array:
    ratio = jnp.exp(log_ratio)[None]
    free = jnp.where(kept, ratio / (spectrum + ratio), 0.0)
    fixed = jnp.where(kept, spectrum / (spectrum + ratio), 0.0)
    residual = jnp.sum(squares * jnp.square(free), 0) + problem.outside
    size = jnp.sum(squares * fixed / (spectrum + ratio), 0)
    # alpha = gamma / |m|^2, beta = (n - gamma) / residual
    alpha = jnp.log(jnp.sum(fixed, 0)) - jnp.log(size)
    beta = jnp.log(problem.count - rank + jnp.sum(free, 0)) - jnp.log(residual)
    new = jnp.clip(alpha - beta, low, high)
    return jnp.where(jnp.isnan(new), log_ratio, new)

  def unsettled(state: tuple[Array, Array, Array]) -> Array:
    step, old, new = state
    return (step < _STEPS) & (jnp.max(jnp.abs(new - old)) > close)

  def advance(
    state: tuple[Array, Array, Array],
  ) -> tuple[Array, Array, Array]:
    step, _, log_ratio = state
    return step + 1, log_ratio, update(log_ratio)

  start = jnp.clip(jnp.zeros_like(problem.energy), low, high)
  first = jnp.zeros((), jnp.int32), start, update(start)
  return jnp.exp(jax.lax.while_loop(unsettled, advance, first)[-1])


def _evidence(
  problem: _Problem, ratio: Array
) -> tuple[
  Float[Array, " classes"],
  Float[Array, "rank classes"],
  Float[Array, " classes"],
]:
  """Returns log evidence, mean weights (rotated) and beta of each class.

  With alpha = ratio beta, the best beta is n / (residual + ratio |m|^2).
  """
  spectrum, kept = problem.spectrum[:, None], problem.kept[:, None]
  ratio = ratio[None]
  free = jnp.where(kept, ratio / (spectrum + ratio), 1.0)
  loss = jnp.sum(jnp.square(problem.inside) * free, 0) + problem.outside
  beta = problem.count / nonzero(loss)
  values = 0.5 * jnp.sum(jnp.log(free), 0) + 0.5 * problem.count * (
    jnp.log(beta) - 1 - math.log(2 * math.pi)
  )
  weights = jnp.where(
    kept, problem.values[:, None] / (spectrum + ratio) * problem.inside, 0.0
  )
  return values, weights, beta
