"""Mixtures of domains: Mixup and DomainMix."""

from typing import Any

from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import generalization
from kdjax.methods._method import Method
from kdjax.methods._objective import Objective, stateless
from kdjax.methods._row import Search
from kdjax.methods.generalization._flat import (
  domain_ids,
  flat,
  one_input,
)
from kdjax.methods.generalization._row_kinds import AROUND_ONE, row


def _mixup(*, alpha: ArrayLike = 0.2) -> Method:
  """Whole domains mixed in pairs, by `kdjax.generalization.mixup`.

  The weights of the mixtures are of Beta(alpha, alpha).
  """

  def prepare(
    key: Array, batch: Any, run: Any, *, on: str | tuple[str, ...]
  ) -> Any:
    del run
    entry = one_input("mixup", on)
    mixtures = generalization.mixup(
      inputs=batch[entry],
      labels=batch["label"],
      key=key,
      alpha=alpha,
      where=batch["mask"],
    )
    return {**batch, **_entries(mixtures, entry)}

  return Method(_mixed(), prepare=prepare)


def _domainmix(*, alpha: ArrayLike = 1.0) -> Method:
  """Images mixed with those of other domains, by `generalization.domainmix`.

  The weights of the mixtures are of Beta(alpha, alpha).
  """

  def prepare(
    key: Array, batch: Any, run: Any, *, on: str | tuple[str, ...]
  ) -> Any:
    del run
    entry = one_input("domainmix", on)
    mixtures = generalization.domainmix(
      inputs=flat(batch[entry]),
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
        for name, x in _entries(mixtures, entry).items()
      },
    }

  return Method(_mixed(), prepare=prepare)


def _mixed() -> Objective:
  """The cross-entropy with the labels of both images of a mixture."""
  names = "student_logits", "labels", "partner_labels", "mixing_weights"
  return stateless(generalization.mixed_loss, names)


def _entries(mixtures: generalization.Mixed, on: str) -> dict[str, Any]:
  return {
    on: mixtures.inputs,
    "label": mixtures.labels,
    "partner_label": mixtures.partner_labels,
    "mixing_weight": mixtures.weights,
    "mask": mixtures.where,
  }


ROWS = {
  "mixup": row(
    "Mixup",
    "whole domains are mixed in pairs",
    _mixup,
    cross_entropy=0.0,
    tuned="alpha",
    search=Search(0.2, 0.1, 10.0),
  ),
  "domainmix": row(
    "DomainMix",
    "images are mixed with images of other domains",
    _domainmix,
    cross_entropy=0.0,
    tuned="alpha",
    search=Search(1.0, **AROUND_ONE),
    source="Dassl",
  ),
}
