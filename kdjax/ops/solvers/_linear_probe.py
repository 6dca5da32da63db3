"""The exact linear probe of the H-divergence.

A logistic regression finds the direction and an exact search the threshold.
Both have static shapes, so `jax.vmap` and `jax.lax.map` run over folds, ridges
and permutations of labels.
"""

import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_factor, cho_solve
from jax.scipy.sparse.linalg import cg
from jaxtyping import Array, Bool, Float

from kdjax.ops.devices._export import is_symbolic
from kdjax.ops.validation._validation import validate

# 5 to 25 steps suffice for ridges down to 1e-4. Separable rows need one step
# for each unit of their margin, which grows as the ridge falls: 80 at 1e-6.
_MAX_STEPS = 1000
_MAX_CG_STEPS = 200


def balanced_weights(
  is_source: Bool[Array, " rows"], where: Bool[Array, " rows"]
) -> Float[Array, " rows"]:
  """Returns weights that sum to 1/2 over each domain's selected rows."""
  source, target = where & is_source, where & ~is_source
  return jnp.where(
    source,
    0.5 / jnp.maximum(jnp.sum(source), 1),
    jnp.where(target, 0.5 / jnp.maximum(jnp.sum(target), 1), 0.0),
  )


# The default precision of float32 products on a GPU, TF32, is too low.
@jax.default_matmul_precision("highest")
def standardize_domains(
  rows: Float[Array, "rows dims"], is_source: Bool[Array, " rows"]
) -> Float[Array, "rows dims"]:
  """Returns features of mean 0 and variance 1, with equal weights of domains.

  Args:
    rows: `[rows, dims]`.
    is_source: True for source rows, False for target rows.

  Returns:
    `[rows, dims]`; a constant feature is 0.
  """
  weights = balanced_weights(is_source, jnp.ones_like(is_source))
  weights = weights.astype(rows.dtype)
  rows = rows - (weights @ rows)[None]
  # Divide by the largest entry first: squares of 1e20 and 1e-25 are infinite
  # and 0 in float32.
  largest = jnp.max(jnp.abs(rows), axis=0)
  rows = rows / jnp.where(largest > 0, largest, 1.0)[None]
  variance = weights @ jnp.square(rows)
  return rows / jnp.sqrt(jnp.where(variance > 0, variance, 1.0))[None]


@validate
@jax.default_matmul_precision("highest")
def linear_probe_scores(
  features: Float[Array, "rows dims"],
  is_source: Bool[Array, " rows"],
  training: Bool[Array, "folds rows"],
  ridge: Float[Array, ""],
) -> Float[Array, "folds rows"]:
  """Returns the scores of all rows by the probes of all folds.

  A probe minimizes the class-balanced mean of the logistic loss plus ridge / 2
  times the squared norm of the weights; the intercept is not penalized.

  Args:
    features: `[rows, dims]`.
    is_source: True for source rows, False for target rows.
    training: True for the rows on which the probe of a fold is fitted.
    ridge: the weight of the penalty, above 0.

  Returns:
    `[folds, rows]`; a positive score predicts the source.
  """
  rows, dims = features.shape
  if not is_symbolic(rows) and dims > rows:
    # The penalty is invariant to rotations: n coordinates represent n rows.
    features = jnp.linalg.qr(features.T, mode="r").T
  features = jnp.append(features, jnp.ones_like(features[:, :1]), axis=1)
  penalty = jnp.full(features.shape[1:], ridge).at[-1].set(0.0)

  # All folds share a preconditioner: the Gram matrix of all rows bounds their
  # Hessians up to the rows held out. The smallest ridge keeps the Cholesky
  # factor finite in float32 and does not change the solution.
  dtype = features.dtype
  size = features.shape[1]
  weights = balanced_weights(is_source, jnp.ones_like(is_source)).astype(dtype)
  floor = size * jnp.finfo(dtype).eps
  bound = features.T @ (weights[:, None] * features) / 4
  bound += jnp.diag(jnp.maximum(penalty, floor))
  inverse = cho_solve(cho_factor(bound), jnp.eye(size, dtype=dtype))

  def scores(where: Bool[Array, " rows"]) -> Float[Array, " rows"]:
    weights = balanced_weights(is_source, where).astype(dtype)
    return features @ _fit(features, is_source, weights, penalty, inverse)

  return jax.vmap(scores)(training)


def _fit(
  features: Float[Array, "rows dims"],
  is_source: Bool[Array, " rows"],
  weights: Float[Array, " rows"],
  penalty: Float[Array, " dims"],
  inverse: Float[Array, "dims dims"],
) -> Float[Array, " dims"]:
  """Minimizes the penalized logistic loss by damped Newton steps.

  Conjugate gradients solve for each step: 4 n d operations an iteration, where
  the Hessian alone would cost 2 n d^2. With the largest change rho of a score,
  a step of log(1 + rho) / rho always lowers the loss, because the third
  derivative of the logistic loss is at most its second derivative (Sun and
  Tran-Dinh, 2019). The step tends to 1, the full Newton step, and needs no line
  search.
  """
  tolerance = jnp.finfo(features.dtype).eps / 10

  def keep_going(carry: tuple[Array, Array, Array]) -> Array:
    _, decrement, steps = carry
    return (decrement > tolerance) & (steps < _MAX_STEPS)

  def newton(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
    slope, _, steps = carry
    probability = jax.nn.sigmoid(features @ slope)
    gradient = (weights * (probability - is_source)) @ features
    gradient += penalty * slope
    curvature = weights * probability * (1 - probability)

    def hessian(vector: Float[Array, " dims"]) -> Float[Array, " dims"]:
      return (curvature * (features @ vector)) @ features + penalty * vector

    step, _ = cg(
      hessian,
      -gradient,
      tol=0.1,
      maxiter=_MAX_CG_STEPS,
      M=lambda vector: inverse @ vector,
    )
    decrement = -gradient @ step
    change = jnp.max(jnp.abs(features @ step))
    tiny = change < 1e-3
    change = jnp.where(tiny, 1.0, change)
    damping = jnp.where(tiny, 1.0, jnp.log1p(change) / change)
    # Skip the last step, so that the slope of equal samples stays exactly 0.
    taken = jnp.where(decrement > tolerance, damping, 0.0)
    return slope + taken * step, decrement, steps + 1

  start = (
    jnp.zeros_like(penalty),
    jnp.array(jnp.inf, features.dtype),
    jnp.array(0),
  )
  return jax.lax.while_loop(keep_going, newton, start)[0]


@validate
def best_threshold(
  scores: Float[Array, " rows"],
  is_source: Bool[Array, " rows"],
  where: Bool[Array, " rows"],
) -> tuple[Float[Array, ""], Bool[Array, ""]]:
  """Returns the threshold with the smallest balanced error, and its direction.

  No classifier `score > threshold` or `score <= threshold`, constant ones
  included, has a smaller sum of the two domains' error rates on the used rows.
  The sum is 1 minus the largest difference between the empirical distribution
  functions (the Kolmogorov-Smirnov statistic).

  Args:
    scores: one number a row.
    is_source: True for source rows, False for target rows.
    where: True for the rows to use.

  Returns:
    The threshold, and whether scores above it predict the source.
  """
  scores = jnp.where(where, scores, jnp.inf)
  order = jnp.argsort(scores)
  scores, is_source, where = scores[order], is_source[order], where[order]
  # Integers, so that the difference of equal samples is exactly 0.
  source = jnp.cumsum(where & is_source)
  target = jnp.cumsum(where & ~is_source)
  gap = source / source[-1] - target / target[-1]
  # No threshold separates equal scores. The last difference is always 0.
  splits = jnp.append(scores[1:] > scores[:-1], False)
  gap = jnp.where(splits, gap, 0.0)
  best = jnp.argmax(jnp.abs(gap))
  low, high = scores[best], scores[jnp.minimum(best + 1, scores.size - 1)]
  middle = low + (high - low) / 2
  return jnp.where(middle < high, middle, low), gap[best] < 0
