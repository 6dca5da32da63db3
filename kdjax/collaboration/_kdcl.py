"""Online distillation via collaborative learning (KDCL): its teachers."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from kdjax import ops


@ops.validate
def kdcl_targets(
  logits: Float[Array, "peers batch classes"],
  labels: Int[Array, " batch"],
  *,
  method: str = "min_logit",
) -> Float[Array, "batch classes"]:
  r"""Teacher logits of KDCL: a teacher made of the peers, for each example.

  .. math::
    \text{naive: } z_k, \; k = \arg\min_k H(y, z_k) \qquad
    \text{min logit: } \min_k (z_{kc} - z_{ky}) \qquad
    \text{linear: } \sum_k \alpha_k z_k, \;
      \alpha = \arg\min_{\alpha \in \Delta} H\Bigl(y, \sum_k \alpha_k z_k\Bigr)

  Args:
    logits: `[peers, batch, classes]`.
    labels: `[batch]`.
    method: "naive" takes the peer with the smallest cross-entropy, "min_logit"
      the smallest logit of each class relative to that of the label, "linear"
      the best convex combination of the peers' logits.

  Returns:
    `[batch, classes]`, without gradient. Each peer learns from it by
    `distillation.soft_target_loss`.

  Raises:
    ValueError: if shapes do not fit, or the method is unknown.
    TypeError: if an array has a wrong dtype.

  The authors published no code. The paper's fourth teacher, KDCL-General, has
  one set of weights for all examples: `kdcl_general_weights`. The convex
  problem of "linear" is solved by an interior-point method for each example.

  Examples:
    >>> logits = jnp.array([[[2.0, 0.0, 1.0]], [[3.0, 2.0, 0.0]]])
    >>> print(kdcl_targets(logits, jnp.array([0])))
    [[ 0. -2. -3.]]

  References:
    Guo et al., `Online knowledge distillation via collaborative learning
    <https://openaccess.thecvf.com/content_CVPR_2020/html/Guo_Online_Knowledge_Distillation_via_Collaborative_Learning_CVPR_2020_paper.html>`_,
    2020.
  """
  ops.check_choice(
    "kdcl_targets: method", method, ("naive", "min_logit", "linear")
  )
  classes = logits.shape[-1]
  known = ops.check_labels(labels, classes)
  logits = jnp.asarray(logits, ops.compute_dtype(logits))
  logits = jax.lax.stop_gradient(logits)
  if method == "naive":
    rows = jnp.broadcast_to(known[None], logits.shape[:2])
    best = jnp.argmin(ops.cross_entropy(logits, rows), 0)
    result = jnp.take_along_axis(logits, best[None, :, None], 0)[0]
  else:
    own = jnp.take_along_axis(logits, known[None, :, None], -1)
    # A label at -inf has no finite difference: it stays the row's least class.
    own = jnp.where(own == -jnp.inf, 0.0, own)
    gaps = logits - own
    if method == "min_logit":
      result = ops.smallest(gaps, 0)
    else:
      weights = jax.vmap(_simplex_weights, 1)(gaps)
      used = weights.T[..., None]
      finite = jnp.where(logits == -jnp.inf, 0.0, logits)
      result = jnp.sum(used * finite, 0)
      lost = jnp.any((logits == -jnp.inf) & (used > 0), 0)
      result = jnp.where(lost, -jnp.inf, result)
  return ops.mask_unknown_labels(result, labels[:, None], classes)


def _simplex_weights(gaps: Array) -> Array:
  """Minimizes log sum exp(w'gaps) over the simplex, `[peers, classes]`.

  Newton steps on the problem with a logarithmic barrier, whose weight falls.
  """
  peers = gaps.shape[0]
  dtype = gaps.dtype
  gaps = jnp.where(gaps == -jnp.inf, 0.0, gaps)
  last = 1e-13 if dtype == jnp.float64 else 1e-6
  stages, steps = (26, 4) if dtype == jnp.float64 else (12, 4)
  ratio = last ** (1 / (stages - 1))
  lengths = 0.5 ** jnp.arange(12, dtype=dtype)

  def objective(weights: Array, barrier: Array) -> Array:
    value = jax.nn.logsumexp(weights @ gaps)
    return value - barrier * jnp.sum(jnp.log(weights))

  def step(i: Array, weights: Array) -> Array:
    barrier = ratio ** (i // steps).astype(dtype)
    p = jax.nn.softmax(weights @ gaps)
    mean = gaps @ p
    centered = (gaps - mean[:, None]) * weights[:, None]
    # In units of the weights, the barrier's part is a multiple of 1.
    matrix = jnp.matmul(centered * p[None], centered.T, precision="highest")
    matrix += barrier * jnp.eye(peers, dtype=dtype)
    slope = weights * mean - barrier
    sides = jnp.linalg.solve(matrix, jnp.stack([slope, weights], 1))
    price = (weights @ sides[:, 0]) / (weights @ sides[:, 1])
    move = weights * (price * sides[:, 1] - sides[:, 0])
    tried = weights[None] + lengths[:, None] * move[None]
    inside = jnp.all(tried > 0, 1)
    values = jax.vmap(objective, (0, None))(
      jnp.where(inside[:, None], tried, weights[None]), barrier
    )
    values = jnp.where(inside & jnp.isfinite(values), values, jnp.inf)
    best = jnp.argmin(values)
    better = values[best] <= objective(weights, barrier)
    chosen = jnp.where(better, tried[best], weights)
    return chosen / jnp.sum(chosen)

  start = jnp.full(peers, 1 / peers, dtype)
  return jax.lax.fori_loop(0, stages * steps, step, start)


@ops.validate
def kdcl_general_weights(
  logits: Float[Array, "peers batch classes"],
  labels: Int[Array, " batch"],
  *,
  where: Bool[Array, " batch"] | None = None,
  axis_name: str | None = None,
) -> Float[Array, " peers"]:
  r"""Weights of KDCL-General: those of the smallest expected squared error.

  .. math::
    w_k = \frac{\sum_j C^{-1}_{kj}}{\sum_{ij} C^{-1}_{ij}}, \quad
    C_{ij} = \operatorname*{mean}_x (p_i(x) - y) \cdot (p_j(x) - y)

  Args:
    logits: `[peers, batch, classes]`, on validation examples.
    labels: `[batch]`.
    where: `[batch]`, True for the examples to use.
    axis_name: the mapped axis that holds the rest of the examples.

  Returns:
    `[peers]`, weights that sum to 1 and may be negative; no gradient. The
    teacher's logits are the sum of the peers' logits with these weights, which
    the authors compute anew after each epoch. Without examples all weights are
    equal.

  Raises:
    ValueError: if shapes do not fit.
    TypeError: if an array has a wrong dtype.

  Peers that answer almost alike make C singular: 1e-6 of its mean diagonal is
  added.

  Examples:
    >>> logits = jnp.array([[[9.0, 0.0]], [[0.0, 9.0]]])
    >>> weights = kdcl_general_weights(logits, jnp.array([0]))
    >>> print(f"{weights[0]:.2f}")  # the first peer is right
    1.00

  References:
    Guo et al., `Online knowledge distillation via collaborative learning
    <https://openaccess.thecvf.com/content_CVPR_2020/html/Guo_Online_Knowledge_Distillation_via_Collaborative_Learning_CVPR_2020_paper.html>`_,
    2020, section 3.4.
  """
  classes = logits.shape[-1]
  known = ops.check_labels(labels, classes)
  probabilities = ops.softened_softmax(jax.lax.stop_gradient(logits))
  one_hot = jax.nn.one_hot(known, classes, dtype=probabilities.dtype)
  errors = jnp.swapaxes(probabilities - one_hot[None], 0, 1)
  inside = (labels >= 0) & (labels < classes)
  errors = jnp.where(inside[:, None, None], errors, jnp.nan)
  errors, mask = ops.masked_rows(errors, where)
  sums: Any = jnp.einsum("bic,bjc->ij", errors, errors, precision="highest")
  sums, count = ops.sum_over_devices((sums, jnp.sum(mask)), axis_name)
  matrix = sums / jnp.maximum(count, 1)
  size = jnp.trace(matrix) / matrix.shape[0]
  ridge = jnp.where(size > 0, 1e-6 * size, 1.0)
  identity = jnp.eye(matrix.shape[0], dtype=matrix.dtype)
  ones = jnp.ones(matrix.shape[0], matrix.dtype)
  weights = jnp.linalg.solve(matrix + ridge * identity, ones)
  return weights / jnp.sum(weights)
