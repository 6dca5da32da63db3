"""TransRate."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from kdjax import ops
from kdjax.selection._class_groups import centered, grouped


@ops.validate
def transrate(
  features: Float[Array, "batch dims"],
  labels: Int[Array, " batch"],
  *,
  epsilon: ArrayLike = 1e-4,
  weighting: str = "uniform",
  num_classes: int | None = None,
  where: Bool[Array, " batch"] | None = None,
  axis_name: str | None = None,
) -> Float[Array, ""]:
  r"""TransRate, a transferability score: difference of coding rates.

  .. math::
    \operatorname{TrR} = R(F) - \sum_c w_c R(F_c), \qquad
    R(F) = \frac12 \log \det \Bigl(I + \frac{F^\top F}{n \epsilon}\Bigr)

  with the features F and the features of a class F_c, both minus the mean of F.
  It estimates the mutual information of features and labels. Higher is better.

  Args:
    features: `[batch, dims]`, of target examples. The score depends on their
      scale.
    labels: `[batch]`.
    epsilon: > 0, the distortion. May be traced.
    weighting: "uniform", w = 1 / classes, as in the authors' listing and TLlib;
      "frequency", w = n_c / n, as in the formula of the paper. They are equal
      for classes of equal size.
    num_classes: the number of classes, whose rates are computed one after the
      other. None: the largest label plus 1; for traced labels, the number of
      examples, which is slower.
    where: `[batch]`, mask of the examples.
    axis_name: the mapped axis that holds the rest of the examples, which are
      gathered.

  Returns:
    A scalar; 0 with gradient 0 if all examples are masked. Classes without
    examples are left out.

  Raises:
    ValueError: if the batches differ, a static epsilon is not above 0, or the
      weighting is unknown.
    TypeError: if dtypes are wrong.

  First derivatives by the features are exact, second derivatives are
  not. epsilon gets no gradient.

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
  ops.check_positive("epsilon", epsilon)
  ops.check_choice("weighting", weighting, ("uniform", "frequency"))
  rows, mask, members = grouped(
    "transrate", features, labels, num_classes, where, axis_name
  )
  count = jnp.maximum(jnp.sum(mask), 1.0)
  rows = centered(rows, mask, count)
  distortion = ops.as_number("epsilon", epsilon, rows.dtype)
  whole = _coding_rate(rows, count, distortion)

  def class_rate(member: Float[Array, " batch"]) -> Float[Array, ""]:
    own = member[:, None] * rows
    return _coding_rate(own, jnp.maximum(jnp.sum(member), 1.0), distortion)

  sizes = jnp.sum(members, 0)
  rates = jax.lax.map(class_rate, members.T)
  weights = sizes if weighting == "frequency" else sizes != 0
  weights = weights.astype(rows.dtype)
  value = whole - jnp.sum(weights * rates) / ops.nonzero_divisor(
    jnp.sum(weights)
  )
  return ops.mean_over_devices(value, axis_name)


def _coding_rate(
  rows: Float[Array, "batch dims"], count: Array, epsilon: Array
) -> Float[Array, ""]:
  """Returns half the log-determinant, from the smaller Gram matrix."""
  batch, dims = rows.shape
  x = rows if ops.is_symbolic(batch) or dims <= batch else rows.T
  fixed = jax.lax.stop_gradient(x)
  gram = jnp.matmul(fixed.T, fixed, precision="highest")
  spectrum, vectors = jnp.linalg.eigh(gram)
  floor = spectrum[-1:] * jnp.finfo(x.dtype).eps * jax.core.max_dim(*x.shape)
  spectrum = jnp.where(spectrum <= floor, 0.0, spectrum)
  rate = jax.lax.stop_gradient(1 / (count * epsilon))
  slopes = rate / (1 + rate * spectrum)
  images = jnp.matmul(x, vectors, precision="highest")
  surrogate = jnp.sum(slopes * jnp.sum(jnp.square(images), 0))
  value = jnp.sum(jnp.log1p(rate * spectrum))
  return 0.5 * ops.with_gradient_of(value, surrogate)
