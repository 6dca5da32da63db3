"""Gradual self-training on generated domains (GOAT)."""

from typing import Any

import jax.numpy as jnp
from jax.typing import ArrayLike

from kdjax import adaptation, transforms
from kdjax.methods._method import Method
from kdjax.methods._row import Search
from kdjax.methods.adaptation._data_rows import rows_of
from kdjax.methods.adaptation._row_kinds import row
from kdjax.methods.adaptation.self_training._gradual_self_training import (
  _gradual_self_training,
)


def _goat(
  num_examples: int,
  *,
  drop: ArrayLike = 0.1,
  num_steps: int = 4,
  epsilon: ArrayLike = 0.05,
) -> Method:
  """By `kdjax.transforms.interpolate_domains`, between the given inputs.

  The data step puts `num_steps` domains of `num_examples` points each in place
  of the target's examples, in their order, with an `"index"`. Each `renew`
  labels the next domain, and the steps until the next one learn from it; after
  the last domain they stay with it. The authors interpolate embeddings of the
  source model: give those as the inputs.
  """
  own = _gradual_self_training(num_examples * num_steps, drop=drop)

  def init(key: Any, specs: Any) -> tuple[Any, Any]:
    params, state = own.init(key, specs)
    kept = jnp.arange(num_examples * num_steps) < 0  # none before a label
    return params, state | {"domain": jnp.zeros((), jnp.int32), "kept": kept}

  def renew(state: Any, outputs: Any) -> Any:
    logits = outputs["target"].logits
    by_domain = logits.reshape(num_steps, num_examples, -1)
    domain = jnp.minimum(state["domain"], num_steps - 1)
    labels, kept, _ = adaptation.confident_pseudo_labels(
      by_domain[domain], drop=state["drop"]
    )
    shape = num_steps, num_examples
    return state | {
      "domain": state["domain"] + 1,
      "labels": state["labels"].reshape(shape).at[domain].set(labels).ravel(),
      "kept": jnp.zeros(shape, bool).at[domain].set(kept).ravel(),
    }

  def data(data: Any, answer: Any, *, on: str = "image") -> Any:
    del answer
    shape = jnp.shape(data["target"][on])[1:]
    pair = [rows_of(data[k], on) for k in ("source", "target")]
    between = transforms.interpolate_domains(
      *pair, num_steps=num_steps, num_pairs=num_examples, epsilon=epsilon
    )
    points = between.points.reshape(num_steps * num_examples, *shape)
    index = jnp.arange(len(points))
    return {**data, "target": {on: points, "index": index}}

  return Method(own._replace(init=init, renew=renew), data=data)


ROWS = {
  "goat": row(
    "GOAT",
    "gradual self-training on domains between the embeddings of two",
    _goat,
    cross_entropy=0.0,
    domains=("target",),
    start="source",
    tuned="drop",
    search=Search(0.1),
    source="authors",
  )
}
