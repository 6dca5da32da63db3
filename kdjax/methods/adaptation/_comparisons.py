"""Losses of two domains that take more than a call of one loss."""

from collections.abc import Callable
from typing import Any

from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import adaptation, ops
from kdjax.methods._combine import combine
from kdjax.methods._objective import Objective, stateless


def joint_mmd(
  source_embeddings: Array,
  target_embeddings: Array,
  source_probabilities: Array,
  target_probabilities: Array,
  *,
  estimator: str = "unbiased",
  where_source: Array,
  where_target: Array,
  axis_name: str | None,
) -> Array:
  """JMMD of embeddings and probabilities, with TLlib's kernels."""
  return adaptation.jmmd(
    [source_embeddings, source_probabilities],
    [target_embeddings, target_probabilities],
    estimator=estimator,
    bandwidth_factors=[(0.125, 0.25, 0.5, 1.0, 2.0), None],
    bandwidths=[None, (0.92,)],
    where_source=where_source,
    where_target=where_target,
    axis_name=axis_name,
  )


def adaptive_norms(
  source_embeddings: Array,
  target_embeddings: Array,
  *,
  where_source: Array,
  where_target: Array,
  axis_name: str | None,
) -> Array:
  """AFN's losses of both domains."""
  source, target = (
    ops.masked_mean(adaptation.afn_loss(x), where, axis_name=axis_name)
    for x, where in (
      (source_embeddings, where_source),
      (target_embeddings, where_target),
    )
  )
  return source + target


def hard_norms(
  source_embeddings: Array,
  target_embeddings: Array,
  *,
  where_source: Array,
  where_target: Array,
  axis_name: str | None,
) -> Array:
  """HAFN's losses of both domains."""
  source, target = (
    adaptation.hafn_loss(x, where=where, axis_name=axis_name)
    for x, where in (
      (source_embeddings, where_source),
      (target_embeddings, where_target),
    )
  )
  return source + target


def sliced(
  source_embeddings: Array,
  target_embeddings: Array,
  *,
  key: Array,
  where_source: Array,
  where_target: Array,
  axis_name: str | None,
) -> Array:
  """Sliced Wasserstein, along directions drawn anew at every step."""
  return adaptation.sliced_wasserstein(
    source=source_embeddings,
    target=target_embeddings,
    key=key,
    where_source=where_source,
    where_target=where_target,
    axis_name=axis_name,
  )


def weighted_cross_entropy(
  source_logits: Array, source_labels: Array, source_weights: Array
) -> Array:
  """The cross-entropy of the source, weighted example by example."""
  return source_weights * ops.cross_entropy(source_logits, source_labels)


def no_loss(target_logits: Array) -> Array:
  """No loss at all: only batch statistics move."""
  return 0 * target_logits[:, 0]


def summed(
  *parts: tuple[str, ArrayLike, Callable[..., Any], Any, dict[str, Any]],
) -> Callable[[], Objective]:
  """Makes a method of several losses, with their published weights.

  Args:
    *parts: (name, weight, loss, names of its arguments, hyper-parameters).

  Returns:
    A factory of the objective.
  """

  def factory() -> Objective:
    return combine(
      {
        name: (weight, stateless(loss, select, **options))
        for name, weight, loss, select, options in parts
      }
    )

  return factory
