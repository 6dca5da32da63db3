"""Style-agnostic networks (SagNet)."""

from typing import Any

import jax
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import generalization, ops
from kdjax.methods._method import Method
from kdjax.methods._modular import modular
from kdjax.methods._row import Search
from kdjax.methods._updates import Turn, alternate
from kdjax.methods.generalization._flat import flat
from kdjax.methods.generalization._row_kinds import row


def _sagnet(*, weight: ArrayLike = 0.1) -> Method:
  """Three steps a batch: by content, of the judge of styles, against it.

  The student learns from embeddings of other styles; a second classifier, the
  part of the method, from embeddings of other contents; and the student, with
  `weight`, to give that one no hint
  (`kdjax.generalization.sagnet_adversarial_loss`).

  The third step is of the whole student, whose classifier has a gradient of
  zero; in DomainBed the classifier has an Adam of its own, which rests then.
  """

  def build(embedding: Any, logits: Any, rngs: nnx.Rngs) -> nnx.Module:
    return nnx.Linear(embedding.shape[-1], logits.shape[-1], rngs=rngs)

  losses = {"content": _content, "style": _style, "adversary": _adversary}
  return Method(
    modular(build, losses, weight=weight),
    update=alternate(
      Turn("content", moves=("student",)),
      Turn("style", moves=("objective",)),
      Turn("adversary", moves=("student",)),
    ),
  )


def _content(
  style: Any,
  student_embedding: Array,
  student_classifier: Any,
  labels: Array,
  where: Array,
  *,
  key: Array,
  axis_name: str | None,
) -> Array:
  del style
  kernel, bias = student_classifier
  logits = _swapped(student_embedding, key, "style", where) @ kernel
  losses = ops.cross_entropy(logits + bias[None], flat(labels))
  return ops.masked_mean(losses, flat(where), axis_name=axis_name)


def _style(
  style: Any,
  student_embedding: Array,
  labels: Array,
  where: Array,
  *,
  key: Array,
  axis_name: str | None,
) -> Array:
  key = jax.random.fold_in(key, 1)
  logits = style(_swapped(student_embedding, key, "content", where))
  losses = ops.cross_entropy(logits, flat(labels))
  return ops.masked_mean(losses, flat(where), axis_name=axis_name)


def _adversary(
  style: Any,
  student_embedding: Array,
  where: Array,
  *,
  weight: Array,
  key: Array,
  axis_name: str | None,
) -> Array:
  key = jax.random.fold_in(key, 2)
  logits = style(_swapped(student_embedding, key, "content", where))
  losses = generalization.sagnet_adversarial_loss(logits)
  return weight * ops.masked_mean(losses, flat(where), axis_name=axis_name)


def _swapped(embedding: Array, key: Array, part: str, where: Array) -> Array:
  return generalization.sagnet_randomize(
    features=flat(embedding), key=key, part=part, where=flat(where)
  )


ROWS = {
  "sagnet": row(
    "SagNet",
    "content tells the class, style does not; three steps a batch",
    _sagnet,
    weight=0.1,
    cross_entropy=0.0,
    search=Search(0.1, 0.01, 10.0),
  ),
}
