"""Fishr: invariant variances of the gradients across domains."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from kdjax import ops


@ops.exportable
class FishrState(NamedTuple):
  """Moving averages of the variances of the gradients.

  Attributes:
    weight: `[domains, classes, dims]`, for the weights of the classifier.
    bias: `[domains, classes]`, for its bias; None without a bias.

  References:
    Rame, Dancette and Cord, `Fishr <https://arxiv.org/abs/2109.02934>`_, 2022.
  """

  weight: Float[Array, "domains classes dims"]
  bias: Float[Array, "domains classes"] | None


@ops.exportable
class Fishr(NamedTuple):
  """The result of `fishr_penalty`.

  Attributes:
    penalty: a scalar.
    state: the new moving averages, without gradient.

  References:
    Rame, Dancette and Cord, `Fishr <https://arxiv.org/abs/2109.02934>`_, 2022.
  """

  penalty: Float[Array, ""]
  state: FishrState


def fishr_init(
  num_domains: int, num_classes: int, width: int, *, bias: bool = True
) -> FishrState:
  """Fishr's initial state: moving averages of 0, as published.

  Args:
    num_domains: how many domains a batch has.
    num_classes: how many logits the classifier has.
    width: the number of features that enter the classifier.
    bias: whether the classifier has a bias.

  Returns:
    A `FishrState` of float32 zeros.

  Raises:
    ValueError: if a number is below 1.
    TypeError: if a number is not an integer.

  Examples:
    >>> fishr_init(3, 10, 64).weight.shape
    (3, 10, 64)

  References:
    Rame, Dancette and Cord, `Fishr <https://arxiv.org/abs/2109.02934>`_, 2022.
  """
  for name, value in (
    ("num_domains", num_domains),
    ("num_classes", num_classes),
    ("width", width),
  ):
    ops.check_integer(f"fishr_init: {name}", value, 1)
  weight = jnp.zeros((num_domains, num_classes, width))
  return FishrState(weight, weight[:, :, 0] if bias else None)


@ops.validate
def fishr_penalty(
  features: Float[Array, "domains batch dims"],
  logits: Float[Array, "domains batch classes"],
  labels: Int[Array, "domains batch"],
  state: FishrState | None = None,
  *,
  decay: ArrayLike = 0.95,
  bias: bool = True,
  where: Bool[Array, "domains batch"] | None = None,
  axis_name: str | None = None,
) -> Fishr:
  r"""Fishr: penalizes differences of the domains' gradient variances.

  For a linear classifier z = W f + b and r = softmax(z) - onehot(y), the
  cross-entropy of example i has the gradient g_i:

  .. math::
    g_i = (r_i f_i^\top,\; r_i), \qquad
    v_d = \operatorname*{Var}_{i \in d} g_i, \qquad
    \ell = \operatorname*{mean}_d \operatorname*{mean}_k
      (\tilde v_d - \bar{\tilde v})_k^2

  Variances divide by n. The moving average is
  \tilde v_d = v_d + decay / (1 - decay) m_d with the state
  m_d <- decay m_d + (1 - decay) v_d, so the scale of the penalty's gradient
  does not depend on the decay. Four matrix products per domain give the
  variances; the gradients of single examples, `[batch, classes, dims]`, are
  never stored.

  Args:
    features: `[domains, batch, dims]`, the inputs of the linear classifier.
    logits: `[domains, batch, classes]`, its outputs.
    labels: `[domains, batch]`, integers.
    state: the state of the previous step, at first `fishr_init`; None for 0.
    decay: the decay of the moving average, in [0, 1). May be traced.
    bias: whether the classifier has a bias; its gradients are then included.
    where: `[domains, batch]`, True for the examples to use. A domain without
      such examples keeps its state and is not in the means over domains.
    axis_name: the mapped axis that holds the rest of each domain's batch.

  Returns:
    A `Fishr`: the penalty, with gradients for features and logits, and the new
    state. Published weight: 0 for the first 1500 steps, then 1000 with a newly
    initialized Adam (DomainBed).

  Raises:
    ValueError: if shapes do not fit or a static `decay` is not in [0, 1).

  DomainBed computes the gradients of single examples by BackPACK, also for a
  classifier with hidden layers. Here the classifier must be linear, which is
  DomainBed's default.

  Examples:
    >>> features = jnp.array([[[1.0], [3.0]], [[2.0], [2.0]]])
    >>> logits = jnp.zeros((2, 2, 2))
    >>> penalty, state = fishr_penalty(
    ...   features, logits, jnp.zeros((2, 2), int), decay=0.5
    ... )
    >>> print(penalty, state.weight[0].ravel())
    0.0078125 [0.125 0.125]

  References:
    Rame, Dancette and Cord, `Fishr: invariant gradient variances for
    out-of-distribution generalization <https://arxiv.org/abs/2109.02934>`_,
    2022.
  """
  ops.check_range("decay", decay, 0.0, 1.0 - 1e-7)
  domains, classes = features.shape[0], logits.shape[-1]
  features, mask = ops.masked_rows(features, where, axes=2)
  logits, _ = ops.masked_rows(logits, where, axes=2)
  onehot = ops.one_hot_labels(labels, classes, logits.dtype, mask)
  residuals = mask[:, :, None] * (ops.softened_softmax(logits) - onehot)
  counts = ops.sum_over_devices(jnp.sum(mask, 1), axis_name)
  variances = _gradient_variances(residuals, features, mask, counts, axis_name)
  if not bias:
    variances = FishrState(variances.weight, None)
  if state is None:
    state = jax.tree.map(jnp.zeros_like, variances)
  elif jax.tree.map(jnp.shape, state) != jax.tree.map(jnp.shape, variances):
    raise ValueError(
      f"fishr_penalty: state has shapes {jax.tree.map(jnp.shape, state)}; "
      f"expected {jax.tree.map(jnp.shape, variances)}. Make it by fishr_init "
      "with the domains, classes and features of the batch."
    )
  rate = ops.as_number("decay", decay, features.dtype)
  present = counts > 0

  def averaged(old: Array, new: Array) -> tuple[Array, Array]:
    """Returns the average in the penalty, and the new state."""
    keep = jnp.expand_dims(present, range(1, new.ndim))
    old = jax.lax.stop_gradient(old.astype(new.dtype))
    mixed = rate * old + (1 - rate) * jax.lax.stop_gradient(new)
    average = new + rate / (1 - rate) * old
    return jnp.where(keep, average, 0.0), jnp.where(keep, mixed, old)

  pairs = [
    averaged(old, new)
    for old, new in zip(
      jax.tree.leaves(state), jax.tree.leaves(variances), strict=True
    )
  ]
  flat = jnp.concatenate([x.reshape(domains, -1) for x, _ in pairs], 1)
  count = jnp.maximum(jnp.sum(present, dtype=flat.dtype), 1)
  gaps = flat - (jnp.sum(flat, 0) / count)[None]
  squares = jnp.where(present[:, None], jnp.square(gaps), 0.0)
  penalty = jnp.sum(jnp.mean(squares, 1)) / count
  return Fishr(
    penalty,
    jax.tree.unflatten(jax.tree.structure(variances), [x for _, x in pairs]),
  )


def _gradient_variances(
  residuals: Float[Array, "domains batch classes"],
  features: Float[Array, "domains batch dims"],
  mask: Float[Array, "domains batch"],
  counts: Float[Array, " domains"],
  axis_name: str | None,
) -> FishrState:
  """Returns the variances of r f and of r over each domain's examples.

  With the means r0 and f0, r = r0 + r' and f = f0 + f', the difference
  r f - r0 f0 is r0 f' + f0 r' + r' f': all terms are small. E[x^2] - E[x]^2
  would lose the digits of a variance that is small next to the mean.
  """
  counts = jnp.maximum(counts, 1)[:, None]
  mean_r, mean_f = (
    x / counts
    for x in ops.sum_over_devices(
      (jnp.sum(residuals, 1), jnp.sum(features, 1)), axis_name
    )
  )
  r = mask[:, :, None] * (residuals - mean_r[:, None])
  f = mask[:, :, None] * (features - mean_f[:, None])
  r2, f2 = jnp.square(r), jnp.square(f)
  products = jnp.einsum(
    "dnc,dnf->dcf",
    jnp.concatenate([r, r2], 2),
    jnp.concatenate([f, f2], 2),
    precision=jax.lax.Precision.HIGHEST,
  )
  products, var_r, var_f = (
    x / jnp.expand_dims(counts, range(2, x.ndim))
    for x in ops.sum_over_devices(
      (products, jnp.sum(r2, 1), jnp.sum(f2, 1)), axis_name
    )
  )
  classes, dims = r.shape[-1], f.shape[-1]
  rf, rf2 = products[:, :classes, :dims], products[:, :classes, dims:]
  r2f, r2f2 = products[:, classes:, :dims], products[:, classes:, dims:]
  mean_r, mean_f = mean_r[:, :, None], mean_f[:, None]
  weight = (
    jnp.square(mean_r) * var_f[:, None]
    + jnp.square(mean_f) * var_r[:, :, None]
    + r2f2
    - jnp.square(rf)
    + 2 * (mean_r * mean_f * rf + mean_r * rf2 + mean_f * r2f)
  )
  return FishrState(weight, var_r)
