"""Mixtures of domains: Mixup and DomainMix."""

from collections.abc import Callable
from typing import Any

from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import generalization
from kdjax.methods._objective import Objective, stateless
from kdjax.methods.generalization._flat import domain_ids, flat


def mixed() -> Objective:
  """Mixed cross-entropy: with the labels of both images of a mixture.

  The `kdjax.generalization.mixed_loss` of a batch that
  `mixup_batch` or `domainmix_batch` has mixed.

  Returns:
    An objective which includes the task; its weight is 1.

  Raises:
    ValueError: from `apply`, if the batch is not mixed.

  References:
    Zhang et al., `mixup: beyond empirical risk minimization
    <https://arxiv.org/abs/1710.09412>`_, 2018.
  """
  names = "student_logits", "labels", "partner_labels", "mixing_weights"
  return stateless(generalization.mixed_loss, names)


def mixup_batch(
  *, alpha: ArrayLike = 0.2, on: str = "image"
) -> Callable[..., Any]:
  """Mixup's batch: whole domains are mixed in pairs.

  Args:
    alpha: of the Beta distribution of the mixtures; 0.2 in DomainBed.
    on: the entry that holds the images.

  Returns:
    `prepare` for `kdjax.training.generalize`, by
    `kdjax.generalization.mixup`. It adds `"partner_label"` and
    `"mixing_weight"`.

  References:
    Zhang et al., `mixup: beyond empirical risk minimization
    <https://arxiv.org/abs/1710.09412>`_, 2018.
  """

  def prepare(key: Array, batch: Any, run: Any) -> Any:
    del run
    mixtures = generalization.mixup(
      inputs=batch[on],
      labels=batch["label"],
      key=key,
      alpha=alpha,
      where=batch["mask"],
    )
    return {**batch, **_entries(mixtures, on)}

  return prepare


def domainmix_batch(
  *, alpha: ArrayLike = 1.0, on: str = "image"
) -> Callable[..., Any]:
  """DomainMix's batch: images are mixed with images of other domains.

  Args:
    alpha: both parameters of the Beta distribution of the mixtures; 1 in the
      paper.
    on: the entry that holds the images.

  Returns:
    `prepare` for `kdjax.training.generalize`, by
    `kdjax.generalization.domainmix`. It adds `"partner_label"` and
    `"mixing_weight"`.

  References:
    Sun et al., `DomainMix: learning generalizable person re-identification
    without human annotations <https://arxiv.org/abs/2011.11953>`_, 2021.
  """

  def prepare(key: Array, batch: Any, run: Any) -> Any:
    del run
    mixtures = generalization.domainmix(
      inputs=flat(batch[on]),
      labels=flat(batch["label"]),
      domains=flat(domain_ids(batch["mask"])),
      key=key,
      alpha=alpha,
      beta=alpha,
      where=flat(batch["mask"]),
    )
    shape = batch["mask"].shape
    return {
      **batch,
      **{
        name: None if x is None else x.reshape(*shape, *x.shape[1:])
        for name, x in _entries(mixtures, on).items()
      },
    }

  return prepare


def _entries(mixtures: generalization.Mixed, on: str) -> dict[str, Any]:
  return {
    on: mixtures.inputs,
    "label": mixtures.labels,
    "partner_label": mixtures.partner_labels,
    "mixing_weight": mixtures.weights,
    "mask": mixtures.where,
  }
