"""Cross-gradient training (CrossGrad)."""

from collections.abc import Callable
from typing import Any

from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import generalization, ops
from kdjax.methods._method import Method, Needs, Pass
from kdjax.methods._objective import stateless
from kdjax.methods._row import Search
from kdjax.methods.generalization._flat import (
  domain_ids,
  flat,
  one_input,
)
from kdjax.methods.generalization._row_kinds import AROUND_ONE, row


def _crossgrad(
  *,
  alpha: ArrayLike = 0.5,
  epsilon: ArrayLike = 1.0,
  scaling: str = "mean",
) -> Method:
  """The `kdjax.generalization.augmented_loss` of a student and of a judge.

  The judge tells domains apart. Each learns from the images, and with the share
  `alpha` from those that `kdjax.generalization.crossgrad` moves by the other's
  loss. Both networks are in evaluation mode for these gradients, and in
  training mode in Dassl.
  """

  def prepare(
    key: Array,
    batch: Any,
    run: Callable[..., Any],
    *,
    on: str | tuple[str, ...],
    axis_name: str | None = None,
  ) -> Any:
    del key
    entry = one_input("crossgrad", on)
    shape = batch[entry].shape
    images, labels, domains, where = map(
      flat,
      (batch[entry], batch["label"], domain_ids(batch["label"]), batch["mask"]),
    )

    def moved(network: str, classes: Array) -> Array:
      def losses(images: Array) -> Array:
        return ops.cross_entropy(run(network, images).logits, classes)

      return generalization.crossgrad(
        losses,
        images,
        epsilon=epsilon,
        scaling=scaling,
        where=where,
        axis_name=axis_name,
      ).reshape(shape)

    entries = {
      "moved": moved("judge", domains),
      "moved_by_label": moved("student", labels),
    }
    return {**batch, **entries}

  return Method(
    stateless(_loss, alpha=alpha),
    passes={
      "student_moved": Pass("student", "moved", train=True, batch_axes=2),
      "judge": Pass("judge", train=True, batch_axes=2),
      "judge_moved": Pass("judge", "moved_by_label", train=True, batch_axes=2),
    },
    prepare=prepare,
    needs=Needs(trained=("judge",)),
  )


def _loss(
  student_logits: Array,
  student_moved_logits: Array,
  judge_logits: Array,
  judge_moved_logits: Array,
  labels: Array,
  *,
  alpha: ArrayLike,
) -> Array:
  domains = domain_ids(labels)
  return generalization.augmented_loss(
    ops.cross_entropy(student_logits, labels),
    ops.cross_entropy(student_moved_logits, labels),
    alpha=alpha,
  ) + generalization.augmented_loss(
    ops.cross_entropy(judge_logits, domains),
    ops.cross_entropy(judge_moved_logits, domains),
    alpha=alpha,
  )


ROWS = {
  "crossgrad": row(
    "CrossGrad",
    "two networks learn from images that the other's loss has moved",
    _crossgrad,
    cross_entropy=0.0,
    networks=("judge",),
    tuned="epsilon",
    search=Search(1.0, **AROUND_ONE),
    source="Dassl",
  ),
}
