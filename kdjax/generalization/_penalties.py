"""Penalties on logits and on the losses of several domains."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from kdjax.ops import log_softened_softmax
from kdjax.ops._collectives import total
from kdjax.ops._cross_entropy import check_labels
from kdjax.ops._rows import masked_rows
from kdjax.ops._softmax import compute_dtype
from kdjax.ops._validation import check_choice
from kdjax.ops._validation import validate


@validate
def domain_losses(
  losses: Float[Array, "domains batch"],
  *,
  where: Bool[Array, "domains batch"] | None = None,
  axis_name: str | None = None,
) -> Float[Array, " domains"]:
  r"""Domain losses: the mean over each domain's examples.

  .. math:: \ell_d = \operatorname{mean}_{i \in d} \ell_{di}

  Empirical risk minimisation (ERM) over domains is their mean, which gives
  domains equal weight; DomainBed's ERM is `ops.masked_mean(losses, where)`, the
  mean over all examples. They differ where domains have unequal numbers.

  Args:
    losses: `[domains, batch]`, one value an example. A domain with fewer
      examples is padded.
    where: `[domains, batch]`, which examples count.
    axis_name: the mapped axis that holds the rest of each domain's batch.

  Returns:
    `[domains]`; 0 with gradient 0 for a domain without example.

  Raises:
    ValueError: if the shapes of losses and mask differ.

  Examples:
    >>> domain_losses(jnp.array([[1.0, 3.0], [5.0, 5.0]]))
    Array([2., 5.], dtype=float32)

  References:
    Vapnik, `Principles of risk minimization for learning theory
    <https://proceedings.neurips.cc/paper/1991/hash/ff4d5fbbafdf976cfdc032e3bde78de5-Abstract.html>`_,
    1991; Gulrajani and Lopez-Paz, `In search of lost domain generalization
    <https://arxiv.org/abs/2007.01434>`_, 2021.
  """
  values, mask = masked_rows(losses, where, axes=2)
  sums, counts = total((jnp.sum(values, 1), jnp.sum(mask, 1)), axis_name)
  return sums / jnp.maximum(counts, 1)


@validate
def irm_penalty(
  logits: Float[Array, "*domains batch classes"],
  labels: Int[Array, "*domains batch"],
  *,
  form: str = "halves",
  where: Bool[Array, "*domains batch"] | None = None,
  axis_name: str | None = None,
) -> Float[Array, " *domains"]:
  r"""Invariant risk minimisation (IRMv1) penalty: no better scale per domain.

  .. math::
    g_i = \frac{\partial}{\partial w} H(y_i, \operatorname{softmax}(w z_i))
      \Big|_{w = 1} = \sum_c p_{ic} z_{ic} - z_{i y_i}

  .. math::
    \ell_\text{halves} = \operatorname*{mean}_{i\text{ even}} g_i \cdot
      \operatorname*{mean}_{i\text{ odd}} g_i, \qquad
    \ell_\text{squared} = \bigl(\operatorname*{mean}_i g_i\bigr)^2

  Args:
    logits: `[*domains, batch, classes]`. A class at -inf is masked.
    labels: `[*domains, batch]`, integers.
    form: "halves", as in DomainBed and TLlib, an unbiased estimate of the
      squared gradient, which **may be negative**; it depends on the order of
      the examples, and is 0 for a single one. "squared", the paper's formula
      on the batch, is never negative, and its noise adds to it.
    where: `[*domains, batch]`, which examples count; even and odd are counted
      among them.
    axis_name: the mapped axis that holds the rest of each domain's batch.

  Returns:
    One value a domain, `[*domains]`: a scalar for logits of one domain.
    Published weight of their mean: 1 for the first 500 steps, then 100
    (DomainBed, which starts a new Adam at that step) or 1 (TLlib).

  Raises:
    ValueError: if the shapes of logits and labels do not fit or the form is
      unknown.
    TypeError: if logits are not floating-point or labels no integers.

  Examples:
    >>> logits = jnp.array([[0.0, 2.0], [1.0, 0.0]])
    >>> print(f"{irm_penalty(logits, jnp.array([1, 1])):.4f}")
    -0.1743

  References:
    Arjovsky et al., `Invariant risk minimization
    <https://arxiv.org/abs/1907.02893>`_, 2019, appendix D for the halves.
  """
  check_choice("form", form, ("halves", "squared"))
  keep = jnp.ones(labels.shape, bool) if where is None else where
  logits = jnp.where(keep[..., None], logits, jnp.zeros_like(logits))
  slopes = _scale_gradients(logits, labels)
  if form == "squared":
    parts = [keep, keep]
  else:
    odd = _positions(keep, axis_name) % 2 == 1
    parts = [keep & ~odd, keep & odd]
  first, second = (
    _mean(slopes, part.astype(slopes.dtype), axis_name) for part in parts
  )
  return first * second


def _scale_gradients(
  logits: Float[Array, "*batch classes"], labels: Int[Array, "*batch"]
) -> Float[Array, "*batch"]:
  """Returns each example's gradient of the cross-entropy by a dummy scale."""
  check_labels(labels, logits.shape[-1])
  logits = logits.astype(compute_dtype(logits))
  probabilities = jnp.exp(log_softened_softmax(logits))
  own = jnp.take_along_axis(logits, labels[..., None], axis=-1)
  # The gaps to the label's logit: no offset of the logits eats their digits.
  masked = (logits == -jnp.inf) | (own == -jnp.inf)
  gaps = jnp.where(masked, 0.0, logits - jnp.where(masked, 0.0, own))
  slopes = jnp.sum(probabilities * gaps, -1)
  return jnp.where(own[..., 0] == -jnp.inf, jnp.inf, slopes)


def _positions(
  keep: Bool[Array, "*domains batch"], axis_name: str | None
) -> Int[Array, "*domains batch"]:
  """Returns each kept example's place among those of all devices."""
  position = jnp.cumsum(keep, -1) - 1
  if axis_name is None:
    return position
  counts = jax.lax.all_gather(jnp.sum(keep, -1), axis_name)
  device = jax.lax.axis_index(axis_name)
  before = jnp.arange(counts.shape[0]) < device
  before = jnp.expand_dims(before, range(1, counts.ndim))
  return position + jnp.sum(jnp.where(before, counts, 0), 0)[..., None]


def _mean(
  values: Float[Array, "*domains batch"],
  mask: Float[Array, "*domains batch"],
  axis_name: str | None,
) -> Float[Array, " *domains"]:
  sums = jnp.sum(jnp.where(mask > 0, values, 0.0), -1)
  sums, counts = total((sums, jnp.sum(mask, -1)), axis_name)
  return sums / jnp.maximum(counts, 1)


@validate
def vrex_penalty(
  losses: Float[Array, " domains"],
  *,
  where: Bool[Array, " domains"] | None = None,
  axis_name: str | None = None,
) -> Float[Array, ""]:
  r"""Variance risk extrapolation (V-REx) penalty: equal losses everywhere.

  .. math::
    \operatorname*{mean}_d (\ell_d - \bar \ell)^2, \qquad
    \bar \ell = \operatorname*{mean}_d \ell_d

  Args:
    losses: `[domains]`, each domain's mean loss (:func:`domain_losses`).
    where: `[domains]`, which domains are in the batch.
    axis_name: the mapped axis that holds the other domains, if any.

  Returns:
    A scalar, the variance over the number of domains, not one less, as in all
    published codes. Published weight beside the mean of the losses: 1 for the
    first 500 steps, then 10 (DomainBed, which starts a new Adam at that step)
    or 3 (TLlib).

  Raises:
    ValueError: if `losses` is not a vector.

  Examples:
    >>> vrex_penalty(jnp.array([1.0, 3.0]))
    Array(1., dtype=float32)

  References:
    Krueger et al., `Out-of-distribution generalization via risk extrapolation
    <https://arxiv.org/abs/2003.00688>`_, 2021.
  """
  values, mask = masked_rows(losses, where, axes=2)
  count, losses_sum = total((jnp.sum(mask), jnp.sum(values)), axis_name)
  count = jnp.maximum(count, 1)
  squares = mask * jnp.square(values - losses_sum / count)
  return total(jnp.sum(squares), axis_name) / count


@validate
def sd_penalty(
  logits: Float[Array, "*batch classes"],
) -> Float[Array, "*batch"]:
  r"""Spectral decoupling (SD): small logits, so that no feature starves others.

  .. math:: \ell = \operatorname*{mean}_c z_c^2

  Args:
    logits: `[*batch, classes]`. A class at -inf is masked and not counted.

  Returns:
    One value an example. Published weight: 0.1 times the mean over the batch
    (DomainBed); the paper's lambda / 2 weighs the sum over classes.

  Raises:
    TypeError: if the logits are not floating-point.

  Examples:
    >>> sd_penalty(jnp.array([[1.0, 3.0]]))
    Array([5.], dtype=float32)

  References:
    Pezeshki et al., `Gradient starvation: a learning proclivity in neural
    networks <https://arxiv.org/abs/2011.09468>`_, 2021, equation 25.
  """
  logits = logits.astype(compute_dtype(logits))
  support = logits != -jnp.inf
  squares = jnp.square(jnp.where(support, logits, 0.0))
  count = jnp.maximum(jnp.sum(support, -1, dtype=logits.dtype), 1)
  return jnp.sum(squares, -1) / count
