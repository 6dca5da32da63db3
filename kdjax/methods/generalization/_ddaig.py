"""Deep domain-adversarial image generation (DDAIG)."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import generalization, ops
from kdjax.methods._method import Method, Needs, Pass
from kdjax.methods._modular import modular
from kdjax.methods._row import Search
from kdjax.methods._updates import Turn, alternate
from kdjax.methods.generalization._flat import (
  domain_ids,
  flat,
  one_input,
)
from kdjax.methods.generalization._row_kinds import row


def _ddaig(*, alpha: ArrayLike = 0.5, perturbation: ArrayLike = 0.3) -> Method:
  """Three steps a batch: of a generator, of the student, of a judge.

  The generator moves images by the hyperbolic tangents of its logits, one for
  each entry of an image, times `perturbation` (`kdjax.generalization.ddaig`);
  it learns by `kdjax.generalization.ddaig_generator_loss`. The student learns
  by the `kdjax.generalization.augmented_loss` of the images and, with the share
  `alpha`, of those that the new generator has moved. The judge learns to tell
  the domains of the images apart.

  Dassl sets `alpha` to 0 in the first epochs on two of its data sets. The batch
  statistics of student and judge see the images in all three steps.
  """

  def prepare(
    key: Array,
    batch: Any,
    run: Callable[..., Any],
    *,
    on: str | tuple[str, ...],
  ) -> Any:
    del key
    entry = one_input("ddaig", on)
    images = flat(batch[entry])
    change = run("generator", images, gradient=True).logits
    change = jnp.tanh(change).reshape(images.shape)
    hidden = generalization.ddaig(images, change, weight=perturbation)
    hidden = hidden.reshape(batch[entry].shape)
    return {**batch, "hidden": hidden, "moved": jax.lax.stop_gradient(hidden)}

  losses = {"generator": _generator, "student": _student, "judge": _judge}
  # The generator's gradient comes through "hidden"; its judges get none there.
  held: Any = {"on": "hidden", "gradient": False, "batch_axes": 2}
  return Method(
    modular(nnx.Module, losses, alpha=alpha),
    passes={
      "student_moved": Pass("student", "moved", train=True, batch_axes=2),
      "student_hidden": Pass("student", **held),
      "judge": Pass("judge", train=True, batch_axes=2),
      "judge_hidden": Pass("judge", **held),
    },
    prepare=prepare,
    update=alternate(*(Turn(name, moves=(name,)) for name in losses)),
    needs=Needs(trained=("judge", "generator")),
  )


def _generator(
  module: Any,
  student_hidden_logits: Array,
  judge_hidden_logits: Array,
  labels: Array,
) -> Array:
  del module
  return generalization.ddaig_generator_loss(
    student_hidden_logits, labels, judge_hidden_logits, domain_ids(labels)
  )


def _student(
  module: Any,
  student_logits: Array,
  student_moved_logits: Array,
  labels: Array,
  *,
  alpha: ArrayLike,
) -> Array:
  del module
  return generalization.augmented_loss(
    ops.cross_entropy(student_logits, labels),
    ops.cross_entropy(student_moved_logits, labels),
    alpha=alpha,
  )


def _judge(module: Any, judge_logits: Array, labels: Array) -> Array:
  del module
  return ops.cross_entropy(judge_logits, domain_ids(labels))


ROWS = {
  "ddaig": row(
    "DDAIG",
    "a generator hides the domain and keeps the class; three steps a batch",
    _ddaig,
    cross_entropy=0.0,
    networks=("judge", "generator"),
    tuned="perturbation",
    search=Search(0.3, 0.1, 1.0),
    source="Dassl",
  ),
}
