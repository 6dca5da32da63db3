"""Further views of both domains."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jaxtyping import Array


def domain_views(
  augment: Callable[[Array, Any], Any],
  *,
  name: str = "strong",
  domains: Sequence[str] = ("source", "target"),
  on: str = "image",
  batch_axes: Any = None,
) -> Callable[..., Any]:
  """Prepares a batch: adds another view of each example of some domains.

  Args:
    augment: `(key, inputs) -> inputs`.
    name: the entry that is added to each part.
    domains: the parts of the batch.
    on: the entry that holds the inputs.
    batch_axes: domain -> how many batch axes its part has, if not one.

  Returns:
    `prepare` for `kdjax.training.adapt`.

  References:
    Sohn et al., `FixMatch: simplifying semi-supervised learning with
    consistency and confidence <https://arxiv.org/abs/2001.07685>`_, 2020.
  """
  axes = batch_axes or {}

  def prepare(key: Array, batch: Any, run: Any) -> Any:
    del run
    parts = {}
    for i, domain in enumerate(domains):
      part = batch[domain]
      shape = part[on].shape
      flat = part[on].reshape(-1, *shape[axes.get(domain, 1) :])
      view = augment(jax.random.fold_in(key, i), flat).reshape(shape)
      parts[domain] = {**part, name: view}
    return {**batch, **parts}

  return prepare
