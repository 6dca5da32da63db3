"""Target shift (Zhang 2013): class weights by kernel mean matching."""

import functools

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from kdjax import ops
from kdjax.reweighting._kernel_mean_matching import kernel_sums, matched_weights


@ops.validate
def target_shift_weights(
  source: Float[Array, "source dims"],
  target: Float[Array, "target dims"],
  source_labels: Int[Array, " source"],
  *,
  num_classes: int,
  gamma: ArrayLike | None = None,
  upper_bound: ArrayLike = 10.0,
  epsilon: ArrayLike | None = None,
  normalize: bool = True,
  where_source: Bool[Array, " source"] | None = None,
  where_target: Bool[Array, " target"] | None = None,
  chunk_size: int | None = None,
  axis_name: str | None = None,
) -> Float[Array, " source"]:
  r"""Target shift by kernel mean matching: weights of source rows.

  .. math::
    \min_\alpha \Bigl\lVert \sum_c \frac{n_c}{n_s} \alpha_c \hat\mu_c
      - \hat\mu_T \Bigr\rVert^2, \quad
    0 \le \alpha_c \le B, \quad
    \Bigl|\sum_c n_c \alpha_c - n_s\Bigr| \le n_s \epsilon, \quad
    w_i = \alpha_{y_i}

  with the kernel means mu of each source class and of the target. p(y) may
  differ between the domains, p(x | y) may not. The program has one unknown for
  each class; the solver and its accuracy are those of `kmm_weights`.

  Args:
    source: `[source, dims]`.
    target: `[target, dims]`; the number of rows may differ.
    source_labels: `[source]`, integers in [0, num_classes).
    num_classes: the number of classes; static.
    gamma: the rate of k = exp(-gamma d^2); None is 1 / dims. skada: 1.
    upper_bound: B; the paper and skada: 10.
    epsilon: None is B / (4 sqrt(n_s)), as in the paper and skada.
    normalize: whether weights are scaled to mean 1. False returns the solution.
    where_source: mask of the source rows; masked rows get weight 0.
    where_target: mask of the target rows.
    chunk_size: the number of rows of both kernel matrices that are in memory at
      a time; a static integer. None keeps the whole matrices.
    axis_name: the mapped axis that holds the rest of both samples. Rows are
      gathered; each device returns the weights of its own rows.

  Returns:
    `[source]`, not negative, without gradient.

  Raises:
    ValueError: if shapes differ, a static hyper-parameter is not above 0, or
      no weights satisfy the constraints.

  Differs from skada: the label kernel is the identity, the limit of skada's
  regularized inverse for classes.

  Examples:
    >>> source = jnp.array([[0.0], [0.0], [9.0], [9.0]])
    >>> target = jnp.array([[0.0], [9.0], [9.0], [9.0]])
    >>> weights = target_shift_weights(
    ...   source, target, jnp.array([0, 0, 1, 1]), num_classes=2
    ... )
    >>> [f"{w:.2f}" for w in weights.tolist()]
    ['0.50', '0.50', '1.50', '1.50']

  References:
    Zhang et al., `Domain adaptation under target and conditional shift
    <https://proceedings.mlr.press/v28/zhang13d.html>`_, 2013.
  """
  ops.check_integer("num_classes", num_classes, 1)
  pair = jax.lax.stop_gradient(
    ops.as_sample_pair(source, target, where_source, where_target, axis_name)
  )
  labels = ops.gather_batch(source_labels, axis_name)
  dtype = pair.source.dtype
  rate = ops.gaussian_rate(gamma, pair.source)
  members = ops.one_hot_labels(
    labels, num_classes, dtype, pair.source_mask, "source_labels"
  )
  sizes = jnp.sum(members, 0)
  count = jnp.sum(sizes)
  n_target = jnp.sum(pair.target_mask)
  between = functools.partial(ops.gaussian_kernel, rate=rate)
  within = kernel_sums(between, pair.source, pair.source, members, chunk_size)
  across = kernel_sums(
    between, pair.source, pair.target, pair.target_mask, chunk_size
  )
  with jax.default_matmul_precision("highest"):
    products = members.T @ within
    pulls = members.T @ across
  # Divided by n_s: entries of order n_s^2 would lose digits in float32.
  safe = jnp.maximum(count, 1)
  limit = ops.as_number("upper_bound", upper_bound, dtype)
  classes = matched_weights(
    products / safe,
    pulls / jnp.maximum(n_target, 1),
    sizes,
    count,
    upper_bound,
    epsilon,
    limit / (4 * jnp.sqrt(safe)),
  )
  classes = jnp.where(jnp.all(pulls <= 0), 1.0, classes)
  weights = jnp.matmul(members, classes, precision="highest")
  if normalize:
    weights = ops.weights_of_mean_one(weights, jnp.sum(members, 1))
  return ops.local_rows(weights, source.shape[0], axis_name)
