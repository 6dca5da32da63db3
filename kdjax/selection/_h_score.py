"""H-score and regularized H-score."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from kdjax import ops
from kdjax.selection._class_groups import centered, grouped


@ops.validate
def h_score(
  features: Float[Array, "batch dims"],
  labels: Int[Array, " batch"],
  *,
  covariance: str = "empirical",
  num_classes: int | None = None,
  where: Bool[Array, " batch"] | None = None,
  axis_name: str | None = None,
) -> Float[Array, ""]:
  r"""H-score: variance between classes relative to the total variance.

  .. math::
    H = \operatorname{tr}\bigl(\operatorname{cov}(f)^{+}
      \operatorname{cov}(\mathbb E[f \mid y])\bigr), \qquad
    H_a = (1 - a) \operatorname{tr}\bigl(\operatorname{cov}_a(f)^{-1}
      \operatorname{cov}(\mathbb E[f \mid y])\bigr)

  a transferability score. The shrunk covariance is cov_a = (1 - a) cov + a
  tr(cov) / dims I with the share a of Ledoit and Wolf. Higher is better. The
  plain score H is between 0 and the number of classes minus 1, and reaches that
  maximum if there are more dims than examples: then use the regularized score
  H_a. H_a is 0 for a = 1, that is for features like noise of equal variances.

  Args:
    features: `[batch, dims]`, of target examples.
    labels: `[batch]`.
    covariance: "empirical", or "ledoit-wolf" for the regularized H-score.
    num_classes: the number of classes, which saves work under jit. None: the
      largest label plus 1; for traced labels, the number of examples. The score
      does not depend on it.
    where: `[batch]`, mask of the examples.
    axis_name: the mapped axis that holds the rest of the examples, which are
      gathered.

  Returns:
    A scalar; 0 with gradient 0 if all examples are masked, or all features are
    equal.

  Raises:
    ValueError: if the batches differ or the covariance is unknown.
    TypeError: if dtypes are wrong.

  The score is computed from singular vectors of the features; no covariance is
  formed or inverted. Directions with singular values below the rounding error
  are left out. TLlib's pseudo-inverse keeps them (cutoff 1e-15) and is unstable
  there. As in TLlib, the shrunk covariance is over n and that of the class
  means over n - 1. First derivatives are exact for a fixed share a; second
  derivatives are not.

  Examples:
    >>> features = jnp.array([[0.0], [1.0], [4.0], [5.0]])
    >>> labels = jnp.array([0, 0, 1, 1])
    >>> print(f"{h_score(features, labels):.4f}")  # 4 / 4.25
    0.9412

  References:
    Bao et al., `An information-theoretic approach to transferability in task
    transfer learning <https://doi.org/10.1109/ICIP.2019.8803726>`_, 2019;
    Ibrahim et al., `Newer is not always better: rethinking transferability
    metrics, their peculiarities, stability and performance
    <https://arxiv.org/abs/2110.06893>`_, 2022.
  """
  ops.check_choice("covariance", covariance, ("empirical", "ledoit-wolf"))
  rows, mask, members = grouped(
    "h_score", features, labels, num_classes, where, axis_name
  )
  count = jnp.maximum(jnp.sum(mask), 1.0)
  rows = centered(rows, mask, count)
  fixed = jax.lax.stop_gradient(rows)
  # The score does not depend on the scale; squares and fourth powers do.
  size = ops.nonzero_divisor(jnp.sqrt(jnp.sum(jnp.square(fixed)) / count))
  rows, fixed = rows / size, fixed / size
  left, values, right = jnp.linalg.svd(fixed, full_matrices=False)
  floor = values[:1] * jnp.finfo(rows.dtype).eps * max(rows.shape)
  kept = values > floor
  spectrum = jnp.where(kept, jnp.square(values), 0.0)
  degrees = jnp.maximum(count - 1, 1.0)
  if covariance == "empirical":
    share, floor, scale = jnp.zeros(()), jnp.zeros(()), degrees
  else:
    share, floor = _ledoit_wolf(fixed, spectrum, count)
    scale = count
  share, floor = (x.astype(rows.dtype) for x in (share, floor))
  # The score in the eigenvectors of the covariance.
  eigenvalues = (1 - share) * spectrum / scale + floor
  inverse = jnp.where(kept, 1 / ops.nonzero_divisor(eigenvalues), 0.0)
  factor = (1 - share) / degrees
  sizes = ops.nonzero_divisor(jnp.sum(members, 0))

  def class_sums(rows: Array) -> Array:
    sums = jnp.matmul(members.T, rows, precision="highest")
    return sums / jnp.sqrt(sizes)[:, None]

  own = class_sums(left)
  value = factor * jnp.sum(spectrum * inverse * jnp.sum(jnp.square(own), 0))
  # d tr(A^-1 B) = tr(A^-1 dB) - tr(A^-1 B A^-1 dA)
  images = jnp.matmul(rows, right.T, precision="highest")
  between = own * jnp.where(kept, values * inverse, 0.0)[None]
  outer = jnp.matmul(between.T, between, precision="highest")
  pulled = jnp.matmul(images, outer, precision="highest")
  surrogate = factor * (
    jnp.sum(inverse * jnp.sum(jnp.square(class_sums(images)), 0))
    - (1 - share) / scale * jnp.sum(pulled * images)
    - jnp.trace(outer) * share * jnp.mean(jnp.sum(jnp.square(rows), 0)) / count
  )
  return ops.mean_over_devices(
    ops.with_gradient_of(value, surrogate), axis_name
  )


def _ledoit_wolf(
  rows: Float[Array, "batch dims"],
  spectrum: Float[Array, " rank"],
  count: Float[Array, ""],
) -> tuple[Float[Array, ""], Float[Array, ""]]:
  """Returns Ledoit and Wolf's share a, and a times the mean eigenvalue.

  delta is the squared distance between the covariance and a multiple of the
  identity, beta the variance of the covariance.
  """
  dims = rows.shape[1]
  eigenvalues = spectrum / count
  mean = jnp.sum(eigenvalues) / dims
  # With fewer rows than dims the spectrum has no entries for eigenvalues of 0.
  rest = dims - eigenvalues.size
  delta = jnp.sum(jnp.square(eigenvalues - mean)) + rest * jnp.square(mean)
  fourth = jnp.sum(jnp.square(jnp.sum(jnp.square(rows), 1))) / count
  beta = (fourth - jnp.sum(jnp.square(eigenvalues))) / count
  beta = jnp.clip(beta, 0.0, delta)
  share = beta / ops.nonzero_divisor(delta)
  return share, share * mean
