"""Cross-gradient training (CrossGrad)."""

from collections.abc import Callable
from typing import Any

from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import generalization, ops
from kdjax.methods._method import Pass
from kdjax.methods._objective import Objective, stateless
from kdjax.methods.generalization._flat import domain_ids, flat


def crossgrad(*, alpha: ArrayLike = 0.5) -> Objective:
  """Cross-gradient training (CrossGrad) of a student and of a judge of domains.

  The `kdjax.generalization.augmented_loss` of both: each learns from the
  images, and from those that the other's loss has moved
  (`crossgrad_batch`).

  Args:
    alpha: the share of the moved images, kept in the state.

  Returns:
    An objective which includes the task, of the roles of
    `CROSSGRAD_PASSES`; its weight is 1.

  References:
    Shankar et al., `Generalizing across domains via cross-gradient training
    <https://arxiv.org/abs/1804.10745>`_, 2018.
  """

  def loss(
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

  return stateless(loss, alpha=alpha)


CROSSGRAD_PASSES = {
  "student_moved": Pass("student", "moved", train=True, batch_axes=2),
  "judge": Pass("judge", "image", train=True, batch_axes=2),
  "judge_moved": Pass("judge", "moved_by_label", train=True, batch_axes=2),
}


def crossgrad_batch(
  *, epsilon: ArrayLike = 1.0, on: str = "image"
) -> Callable[..., Any]:
  """CrossGrad's batch: images that the other network's loss has moved.

  Args:
    epsilon: the length of the step; each image has its own gradient.
    on: the entry that holds the images.

  Returns:
    `prepare` for `kdjax.training.generalize` with `others={"judge":
    network}`, by `kdjax.generalization.crossgrad`. It adds `"moved"`,
    which the student sees, and `"moved_by_label"`, which the judge sees.

  References:
    Shankar et al., `Generalizing across domains via cross-gradient training
    <https://arxiv.org/abs/1804.10745>`_, 2018.
  """

  def prepare(key: Array, batch: Any, run: Callable[..., Any]) -> Any:
    del key
    shape = batch[on].shape
    images, labels, domains = map(
      flat, (batch[on], batch["label"], domain_ids(batch["label"]))
    )

    def moved(network: str, classes: Array) -> Array:
      def losses(images: Array) -> Array:
        return ops.cross_entropy(run(network, images).logits, classes)

      # Each image's own gradient: the mean's would move by next to nothing.
      return generalization.crossgrad(
        losses, images, epsilon=epsilon, scaling="sum"
      ).reshape(shape)

    entries = {
      "moved": moved("judge", domains),
      "moved_by_label": moved("student", labels),
    }
    return {**batch, **entries}

  return prepare
