"""The exact linear probe behind the H-divergence.

A logistic regression gives the direction, an exact search the threshold. Both
work on fixed shapes, so folds, ridges and label permutations are `jax.vmap`
and `jax.lax.map` away.
"""

import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_factor
from jax.scipy.linalg import cho_solve
from jax.scipy.sparse.linalg import cg
from jaxtyping import Array, Bool, Float

# 5 to 25 steps were enough for ridges down to 1e-4. Separable rows need one for
# every unit of their margin, which grows as the ridge vanishes: 80 at 1e-6.
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


# TF32, the default for float32 on a GPU, keeps 10 bits: too few for both.
@jax.default_matmul_precision("highest")
def standardize_domains(
  rows: Float[Array, "rows dims"], is_source: Bool[Array, " rows"]
) -> Float[Array, "rows dims"]:
  """Returns features of mean 0 and variance 1, each domain counting half.

  Args:
    rows: `[rows, dims]`.
    is_source: the domain of each row.

  Returns:
    `[rows, dims]`; a constant feature is 0.
  """
  weights = balanced_weights(is_source, jnp.ones_like(is_source))
  weights = weights.astype(rows.dtype)
  rows = rows - (weights @ rows)[None]
  # Squares of 1e20 or 1e-25 are no float32; the largest entry sets the unit.
  largest = jnp.max(jnp.abs(rows), axis=0)
  rows = rows / jnp.where(largest > 0, largest, 1.0)[None]
  variance = weights @ jnp.square(rows)
  return rows / jnp.sqrt(jnp.where(variance > 0, variance, 1.0))[None]


@jax.default_matmul_precision("highest")
def linear_probe_scores(
  features: Float[Array, "rows dims"],
  is_source: Bool[Array, " rows"],
  training: Bool[Array, "folds rows"],
  ridge: Float[Array, ""],
) -> Float[Array, "folds rows"]:
  """Returns every row's score under the probe fitted on each fold.

  The probe minimizes the class-balanced mean of the logistic loss plus
  ridge / 2 times the squared norm of the slope; the intercept is free.

  Args:
    features: `[rows, dims]`.
    is_source: the domain of each row.
    training: the rows that each fold is fitted on.
    ridge: the weight of the penalty, above 0.

  Returns:
    `[folds, rows]`; a positive score speaks for the source.
  """
  rows, dims = features.shape
  if dims > rows:
    # The ridge is blind to rotations, so n coordinates hold all there is.
    features = jnp.linalg.qr(features.T, mode="r").T
  features = jnp.append(features, jnp.ones_like(features[:, :1]), axis=1)
  penalty = jnp.full(features.shape[1:], ridge).at[-1].set(0.0)

  # One Gram of all rows bounds the Hessian of every fold, up to the few rows
  # held out: the preconditioner that all folds share. The floor on the ridge
  # keeps its Cholesky factor real in float32 and does not move the solution.
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

  Each step is solved by conjugate gradients: 4 n d operations an iteration
  where the Hessian alone would be 2 n d^2. With rho the largest change of a
  score, a step of log(1 + rho) / rho lowers the loss for certain, because the
  third derivative of the logistic loss is at most its second (Sun and
  Tran-Dinh, 2019); it tends to 1, the full Newton step. No line search.
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
    # The last step is not taken: from equal samples the slope stays exactly 0.
    taken = jnp.where(decrement > tolerance, damping, 0.0)
    return slope + taken * step, decrement, steps + 1

  start = (
    jnp.zeros_like(penalty),
    jnp.array(jnp.inf, features.dtype),
    jnp.array(0),
  )
  return jax.lax.while_loop(keep_going, newton, start)[0]


def best_threshold(
  scores: Float[Array, " rows"],
  is_source: Bool[Array, " rows"],
  where: Bool[Array, " rows"],
) -> tuple[Float[Array, ""], Bool[Array, ""]]:
  """Returns the threshold of least balanced error, and the side of the source.

  Of all classifiers `score > threshold` and `score <= threshold`, constant
  ones included, none has a smaller sum of the two error rates on the selected
  rows. That sum is 1 minus the largest gap between the two empirical
  distribution functions (the Kolmogorov-Smirnov statistic).

  Args:
    scores: one number a row.
    is_source: the row's domain.
    where: the rows to look at.

  Returns:
    The threshold, and whether the source lies above it.
  """
  scores = jnp.where(where, scores, jnp.inf)
  order = jnp.argsort(scores)
  scores, is_source, where = scores[order], is_source[order], where[order]
  # Whole numbers, so that equal samples have a gap of exactly 0.
  source = jnp.cumsum(where & is_source)
  target = jnp.cumsum(where & ~is_source)
  gap = source / source[-1] - target / target[-1]
  # A threshold cannot fall between equal scores. The last gap is always 0.
  splits = jnp.append(scores[1:] > scores[:-1], False)
  gap = jnp.where(splits, gap, 0.0)
  best = jnp.argmax(jnp.abs(gap))
  low, high = scores[best], scores[jnp.minimum(best + 1, scores.size - 1)]
  middle = low + (high - low) / 2
  return jnp.where(middle < high, middle, low), gap[best] < 0
