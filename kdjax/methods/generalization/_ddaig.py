"""Deep domain-adversarial image generation (DDAIG)."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import generalization, ops
from kdjax.methods._method import Pass
from kdjax.methods._objective import Objective, stateless
from kdjax.methods.generalization._flat import domain_ids, flat


def ddaig(*, alpha: ArrayLike = 0.5) -> Objective:
  """Image generation (DDAIG): a generator hides the domain, keeps the class.

  The generator learns by `kdjax.generalization.ddaig_generator_loss`,
  the student by `kdjax.generalization.augmented_loss` of the images and
  of those that `ddaig_batch` has moved, the judge to tell domains apart.

  Args:
    alpha: the share of the moved images, kept in the state. 0.5 in Dassl,
      after some epochs at 0 on two of its data sets.

  Returns:
    An objective which includes the task, of the roles of `DDAIG_PASSES`;
    its weight is 1.

  References:
    Zhou et al., `Deep domain-adversarial image generation for domain
    generalization <https://arxiv.org/abs/2003.06054>`_, 2020.
  """

  def loss(
    student_logits: Array,
    student_moved_logits: Array,
    student_hidden_logits: Array,
    judge_logits: Array,
    judge_hidden_logits: Array,
    labels: Array,
    *,
    alpha: ArrayLike,
  ) -> Array:
    domains = domain_ids(labels)
    generator = generalization.ddaig_generator_loss(
      student_hidden_logits, labels, judge_hidden_logits, domains
    )
    student = generalization.augmented_loss(
      ops.cross_entropy(student_logits, labels),
      ops.cross_entropy(student_moved_logits, labels),
      alpha=alpha,
    )
    return generator + student + ops.cross_entropy(judge_logits, domains)

  return stateless(loss, alpha=alpha)


# The generator's gradient comes through "hidden"; its judges get none there.
_HELD = {"on": "hidden", "gradient": False, "batch_axes": 2}
DDAIG_PASSES = {
  "student_moved": Pass("student", "moved", train=True, batch_axes=2),
  "student_hidden": Pass("student", **_HELD),
  "judge": Pass("judge", "image", train=True, batch_axes=2),
  "judge_hidden": Pass("judge", **_HELD),
}


def ddaig_batch(
  *, perturbation: ArrayLike = 0.3, on: str = "image"
) -> Callable[..., Any]:
  """DDAIG's batch: images that a generator has moved.

  Args:
    perturbation: its weight; 0.3 in Dassl.
    on: the entry that holds the images.

  Returns:
    `prepare` for `kdjax.training.generalize` with `others={"judge":
    network, "generator": network}`. The hyperbolic tangents of the generator's
    logits, one for each entry of an image, are the perturbation of
    `kdjax.generalization.ddaig`. It adds `"hidden"`, through which the
    generator learns, and `"moved"`, the same without gradient.

  References:
    Zhou et al., `Deep domain-adversarial image generation for domain
    generalization <https://arxiv.org/abs/2003.06054>`_, 2020.
  """

  def prepare(key: Array, batch: Any, run: Callable[..., Any]) -> Any:
    del key
    images = flat(batch[on])
    change = run("generator", images, gradient=True).logits
    change = jnp.tanh(change).reshape(images.shape)
    hidden = generalization.ddaig(images, change, weight=perturbation)
    hidden = hidden.reshape(batch[on].shape)
    return {**batch, "hidden": hidden, "moved": jax.lax.stop_gradient(hidden)}

  return prepare
