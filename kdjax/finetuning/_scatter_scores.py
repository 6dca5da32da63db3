"""Transferability seen from how classes scatter: H-score and TransRate."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from kdjax.finetuning._classes import class_members
from kdjax.ops import gather_batch
from kdjax.ops._collectives import agreed
from kdjax.ops._gradients import with_gradient_of
from kdjax.ops._rows import nonzero
from kdjax.ops._rows import whole_rows
from kdjax.ops._validation import as_number
from kdjax.ops._validation import check_choice
from kdjax.ops._validation import check_positive
from kdjax.ops._validation import validate


@validate
def h_score(
  features: Float[Array, "batch dims"],
  labels: Int[Array, " batch"],
  *,
  covariance: str = "empirical",
  num_classes: int | None = None,
  where: Bool[Array, " batch"] | None = None,
  axis_name: str | None = None,
) -> Float[Array, ""]:
  r"""H-score, a transferability score: variance between classes over all.

  .. math::
    H = \operatorname{tr}\bigl(\operatorname{cov}(f)^{+}
      \operatorname{cov}(\mathbb E[f \mid y])\bigr), \qquad
    H_a = (1 - a) \operatorname{tr}\bigl(\operatorname{cov}_a(f)^{-1}
      \operatorname{cov}(\mathbb E[f \mid y])\bigr)

  with the shrunk covariance cov_a = (1 - a) cov + a tr(cov) / dims I, whose
  share a is Ledoit and Wolf's. Higher is better; the plain score lies between
  0 and the number of classes less 1, which it attains as soon as there are
  more dims than examples: then the shrunk one is the one to ask. That one is 0
  where a is 1, for features that look like noise of equal variances.

  Args:
    features: `[batch, dims]` of target examples.
    labels: `[batch]`.
    covariance: "empirical", or "ledoit-wolf" for the regularized H-score.
    num_classes: how many classes there are, which saves work under jit.
      Otherwise the largest label tells, or, for traced labels, there is room
      for as many classes as examples; the score is the same.
    where: `[batch]`, which examples count.
    axis_name: the mapped axis that holds the rest of the examples, which are
      gathered.

  Returns:
    A scalar; 0 with gradient 0 if nothing counts, or all features are equal.

  Raises:
    ValueError: if the batches differ or the covariance is unknown.
    TypeError: if dtypes are wrong.

  Computed from singular vectors of the features: no covariance is formed or
  inverted. Directions that rounding alone has filled are left out; TLlib's
  pseudo-inverse keeps them (cutoff 1e-15) and is then unstable. As in TLlib,
  the shrunk covariance is over n, that of the class means over n - 1. First
  derivatives are exact at a fixed share a, second derivatives are not.

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
  check_choice("covariance", covariance, ("empirical", "ledoit-wolf"))
  rows, mask, members = _grouped(
    "h_score", features, labels, num_classes, where, axis_name
  )
  count = jnp.maximum(jnp.sum(mask), 1.0)
  rows = _centred(rows, mask, count)
  fixed = jax.lax.stop_gradient(rows)
  # The score has no scale; squares and fourth powers have.
  size = nonzero(jnp.sqrt(jnp.sum(jnp.square(fixed)) / count))
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
  # 1 / eigenvalues of the covariance, and the score in its eigenvectors.
  eigenvalues = (1 - share) * spectrum / scale + floor
  inverse = jnp.where(kept, 1 / nonzero(eigenvalues), 0.0)
  factor = (1 - share) / degrees
  sizes = nonzero(jnp.sum(members, 0))

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
  return agreed(with_gradient_of(value, surrogate), axis_name)


def _ledoit_wolf(
  rows: Float[Array, "batch dims"],
  spectrum: Float[Array, " rank"],
  count: Float[Array, ""],
) -> tuple[Float[Array, ""], Float[Array, ""]]:
  """Returns Ledoit and Wolf's share, and share times mean eigenvalue.

  All means are over dims: of the covariance's squared distance from the
  identity's multiple (delta), and of its variance (beta).
  """
  dims = rows.shape[1]
  eigenvalues = spectrum / count
  mean = jnp.sum(eigenvalues) / dims
  # Eigenvalues that are 0 have no entry if there are fewer rows than dims.
  rest = dims - eigenvalues.size
  delta = jnp.sum(jnp.square(eigenvalues - mean)) + rest * jnp.square(mean)
  fourth = jnp.sum(jnp.square(jnp.sum(jnp.square(rows), 1))) / count
  beta = (fourth - jnp.sum(jnp.square(eigenvalues))) / count
  beta = jnp.clip(beta, 0.0, delta)
  share = beta / nonzero(delta)
  return share, share * mean


@validate
def transrate(
  features: Float[Array, "batch dims"],
  labels: Int[Array, " batch"],
  *,
  eps: ArrayLike = 1e-4,
  weighting: str = "uniform",
  num_classes: int | None = None,
  where: Bool[Array, " batch"] | None = None,
  axis_name: str | None = None,
) -> Float[Array, ""]:
  r"""TransRate, a transferability score: the coding rate of the labels.

  .. math::
    \operatorname{TrR} = R(F) - \sum_c w_c R(F_c), \qquad
    R(F) = \frac12 \log \det \Bigl(I + \frac{F^\top F}{n \epsilon}\Bigr)

  with the features F, less their mean, and those of a class, F_c, less the
  same mean: an estimate of the mutual information of features and labels.
  Higher is better.

  Args:
    features: `[batch, dims]` of target examples. The score depends on their
      scale.
    labels: `[batch]`.
    eps: epsilon > 0, the distortion. May be traced.
    weighting: "uniform", w = 1 / classes, as in the authors' listing and
      TLlib; "frequency", w = n_c / n, as in the formula of the paper. They are
      alike for classes of equal size.
    num_classes: how many classes there are; their rates are computed one after
      the other. Otherwise the largest label tells, or, for traced labels,
      there is room for as many classes as examples, which costs time.
    where: `[batch]`, which examples count.
    axis_name: the mapped axis that holds the rest of the examples, which are
      gathered.

  Returns:
    A scalar; 0 with gradient 0 if nothing counts. Classes without examples do
    not take part.

  Raises:
    ValueError: if the batches differ, a static eps is not above 0, or the
      weighting is unknown.
    TypeError: if dtypes are wrong.

  First derivatives by the features are exact, second derivatives are not; eps
  gets no gradient.

  Examples:
    >>> features = jnp.concatenate([jnp.eye(3), jnp.eye(3)])
    >>> apart = transrate(features, jnp.array([0, 1, 2, 0, 1, 2]))
    >>> mixed = transrate(features, jnp.array([0, 1, 2, 1, 2, 0]))
    >>> print(f"{apart:.2f} {mixed:.2f}")
    3.71 0.14

  References:
    Huang et al., `Frustratingly easy transferability estimation
    <https://arxiv.org/abs/2106.09362>`_, 2022.
  """
  check_positive("eps", eps)
  check_choice("weighting", weighting, ("uniform", "frequency"))
  rows, mask, members = _grouped(
    "transrate", features, labels, num_classes, where, axis_name
  )
  count = jnp.maximum(jnp.sum(mask), 1.0)
  rows = _centred(rows, mask, count)
  distortion = as_number("eps", eps, rows.dtype)
  whole = _coding_rate(rows, count, distortion)

  def class_rate(member: Float[Array, " batch"]) -> Float[Array, ""]:
    own = member[:, None] * rows
    return _coding_rate(own, jnp.maximum(jnp.sum(member), 1.0), distortion)

  sizes = jnp.sum(members, 0)
  rates = jax.lax.map(class_rate, members.T)
  weights = sizes if weighting == "frequency" else sizes > 0
  weights = weights.astype(rows.dtype)
  value = whole - jnp.sum(weights * rates) / nonzero(jnp.sum(weights))
  return agreed(value, axis_name)


def _coding_rate(
  rows: Float[Array, "batch dims"], count: Array, eps: Array
) -> Float[Array, ""]:
  """Returns half the log-determinant, by the smaller Gram matrix."""
  x = rows if rows.shape[1] <= rows.shape[0] else rows.T
  fixed = jax.lax.stop_gradient(x)
  gram = jnp.matmul(fixed.T, fixed, precision="highest")
  spectrum, vectors = jnp.linalg.eigh(gram)
  floor = spectrum[-1:] * jnp.finfo(x.dtype).eps * max(x.shape)
  spectrum = jnp.where(spectrum > floor, spectrum, 0.0)
  rate = jax.lax.stop_gradient(1 / (count * eps))
  slopes = rate / (1 + rate * spectrum)
  images = jnp.matmul(x, vectors, precision="highest")
  surrogate = jnp.sum(slopes * jnp.sum(jnp.square(images), 0))
  value = jnp.sum(jnp.log1p(rate * spectrum))
  return 0.5 * with_gradient_of(value, surrogate)


def _grouped(
  function: str,
  features: Array,
  labels: Array,
  num_classes: int | None,
  where: Array | None,
  axis_name: str | None,
) -> tuple[
  Float[Array, "whole dims"],
  Float[Array, " whole"],
  Float[Array, "whole classes"],
]:
  """Returns all rows, their mask, and who belongs to which class."""
  rows, mask = whole_rows(features, where, axis_name)
  labels = gather_batch(labels, axis_name)
  return rows, mask, class_members(function, labels, num_classes, mask)


def _centred(rows: Array, mask: Array, count: Array) -> Array:
  """Returns the rows less their mean, 0 where masked."""
  mean = jnp.sum(rows, 0) / count
  return mask[:, None] * (rows - mean[None])
