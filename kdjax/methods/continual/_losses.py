"""Continual learning: objectives of a past network and of replayed examples.

Replayed examples are parts of the batch, `"replay"` and `"second_replay"`, with
a mask each. A class of an earlier task is marked in the state, so that the next
task does not compile again.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import continual, ops
from kdjax.methods._objective import (
  Metrics,
  Objective,
  combine,
  loss_metric,
  stateless,
)
from kdjax.methods._stages import select_stages

STORED = ("replay_logits", "replay_stored_logits")


def er() -> Objective:
  """Experience replay (ER): the cross-entropy of replayed examples."""
  return stateless(ops.cross_entropy, ("replay_logits", "replay_labels"))


def der_plus_plus(
  *, weight: ArrayLike = 0.2, label_weight: ArrayLike = 1.0
) -> Objective:
  """DER++: stored logits of one draw, and labels of a second one."""
  labels = ("second_replay_logits", "second_replay_labels")
  return combine(
    {
      "logits": (weight, stateless(continual.der_loss, STORED)),
      "labels": (label_weight, stateless(ops.cross_entropy, labels)),
    }
  )


def lwf(
  *, past_classes: ArrayLike = 1.0, temperature: ArrayLike = 2.0
) -> Objective:
  """LwF over the classes of earlier tasks, by default over all."""

  def loss(
    student_logits: Array,
    past_logits: Array,
    *,
    past_classes: Array,
    temperature: ArrayLike,
  ) -> Array:
    known = _mask(past_classes, student_logits)
    return continual.lwf_loss(
      student_logits, past_logits, known, temperature=temperature
    )

  marks = _marks(past_classes)
  return stateless(loss, past_classes=marks, temperature=temperature)


def icarl(*, past_classes: ArrayLike = 0.0) -> Objective:
  """The loss of iCaRL; without past classes as in the first task."""

  def loss(
    student_logits: Array,
    past_logits: Array,
    labels: Array,
    *,
    past_classes: Array,
  ) -> Array:
    known = _mask(past_classes, student_logits)
    return continual.icarl_loss(student_logits, past_logits, labels, known)

  return stateless(loss, past_classes=_marks(past_classes))


def podnet(
  *, weight: ArrayLike = 3.0, embedding_weight: ArrayLike = 1.0
) -> Objective:
  """PODNet: maps of all stages, and embeddings."""
  spatial = stateless(continual.pod_loss, _stages)
  flat = stateless(
    continual.lucir_loss, ("student_embeddings", "past_embeddings")
  )
  return combine(
    {"spatial": (weight, spatial), "flat": (embedding_weight, flat)}
  )


def _stages(student: Any, past: Any) -> tuple[list[Array], list[Array]]:
  return select_stages(student, past)


def parameter_importance(importance: Any = None) -> Objective:
  """EWC's penalty and SI's: important parameters stay in place.

  The importance is in the state, so that it may be replaced after each task;
  None starts with 0.
  """

  def init(key: Array, specs: Any) -> tuple[Any, Any]:
    del key
    params = _params(specs, "student")
    if importance is None:
      zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), params)
      return {}, {"importance": zeros}
    return {}, {"importance": jax.tree.map(jnp.asarray, importance)}

  def apply(
    params: Any,
    state: Any,
    outputs: Any,
    batch: Any,
    key: Array,
    *,
    axis_name: str | None = None,
  ) -> tuple[Array, Any, Metrics]:
    del params, key, axis_name  # parameters are the same on all devices
    value = continual.ewc_penalty(
      _params(outputs, "student"),
      _params(outputs, "past"),
      state["importance"],
    )
    return value, state, loss_metric(value, batch)

  return Objective(init, apply)


def _params(outputs: Any, role: str) -> Any:
  name = "parameter_importance: outputs"
  params = ops.get_entry(name, outputs, role).params
  if params is None:
    raise ValueError(
      f"{name}[{role!r}] has no params; expected those that a learner shows."
    )
  return params


def _marks(classes: ArrayLike) -> Array:
  """A mask of classes as numbers, which a state may hold."""
  return jnp.asarray(classes, float)


def _mask(classes: Array, logits: Array) -> Array:
  return jnp.broadcast_to(classes > 0.5, logits.shape[-1:])
