"""Source hypothesis transfer (SHOT)."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import adaptation, ops
from kdjax.methods._binding import resolve
from kdjax.methods._objective import Metrics, Objective, loss_metric, widen


def shot(num_examples: int, *, weight: ArrayLike = 0.3) -> Objective:
  r"""Source hypothesis transfer (SHOT): no source, and a classifier that stays.

  .. math::
    \ell = \ell_\mathrm{IM} + w\, H(\hat y, p)

  of `kdjax.adaptation.information_maximization_loss` and the
  cross-entropy with pseudo-labels of all target examples, its state. They come
  from `kdjax.adaptation.centroid_pseudo_labels` whenever the caller asks
  for `renew(state, {"target": outputs})`, before each epoch in the paper. The
  student starts as the network trained on the source; its classifier gets no
  gradient.

  Args:
    num_examples: of the target; an `"index"` in the target's batch is below it.
    weight: w, of the pseudo-labels, kept in the state.

  Returns:
    An objective of the role `"target"`, without the source; w is published
    with 0.3.

  Raises:
    ValueError: from `apply`, if the student returns no embedding or no
      classifier, or the batch has no index.

  Examples:
    >>> objective = shot(100)
    >>> _, state = objective.init(jax.random.key(0), {})
    >>> state["labels"].shape
    (100,)

  References:
    Liang et al., `Do we really need to access the source data? Source
    hypothesis transfer for unsupervised domain adaptation
    <https://arxiv.org/abs/2002.08546>`_, 2020.
  """

  def init(key: Array, specs: Any) -> tuple[Any, Any]:
    del key, specs
    labels = jnp.zeros(num_examples, jnp.int32)
    return {}, {"labels": labels, "weight": jnp.asarray(weight, float)}

  def apply(
    params: Any,
    state: Any,
    outputs: Any,
    batch: Any,
    key: Array,
    *,
    axis_name: str | None = None,
  ) -> tuple[Array, Any, Metrics]:
    del params, key

    def read(name: str) -> Any:
      return resolve("shot", f"target_{name}", outputs, batch)

    kernel, bias = jax.lax.stop_gradient(read("classifier"))
    mask = read("mask")
    logits = widen(read("embedding")) @ kernel + bias[None]
    known = adaptation.information_maximization_loss(
      logits, where=mask, axis_name=axis_name
    )
    pseudo = ops.cross_entropy(logits, state["labels"][read("index")])
    pseudo = ops.masked_mean(pseudo, mask, axis_name=axis_name)
    loss = known + state["weight"] * pseudo
    return loss, state, loss_metric(loss, {"mask": mask})

  def renew(state: Any, outputs: Any) -> Any:
    target = outputs["target"]
    labels = adaptation.centroid_pseudo_labels(
      widen(target.embedding), widen(target.logits)
    )
    return state | {"labels": labels}

  return Objective(init, apply, renew=renew)
