"""Progressive learning: objectives of several teachers, and of an old one."""

import re
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import collaboration, ops
from kdjax.methods._objective import (
  Metrics,
  Objective,
  as_hyperparameters,
  batch_mean,
  loss_metric,
  stateless,
  widen,
)
from kdjax.methods.collaboration._peers import peer_logits


def dgkd(*, temperature: ArrayLike = 5.0) -> Objective:
  """DGKD: the roles `teacher_0`, `teacher_1` ... teach at once."""

  def select(outputs: Any, student_logits: Array) -> tuple[Array, Array]:
    return student_logits, peer_logits(outputs, "teacher")

  return stateless(
    collaboration.dense_guidance_loss, select, temperature=temperature
  )


def annealing(
  steps: int, *, max_temperature: ArrayLike = 10.0, share: float = 0.75
) -> Objective:
  """Annealing KD: softened logits for a share of the steps, then labels."""
  ops.check_integer("annealing: steps", steps, 1)
  ops.check_positive("annealing: share", share)
  ops.check_range("annealing: share", share, 0.0, 1.0)

  def init(key: Array, specs: Any) -> tuple[Any, Any]:
    del key, specs
    numbers = as_hyperparameters({"max_temperature": max_temperature})
    return {}, {"step": jnp.zeros((), jnp.int32)} | numbers

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
    ours, theirs = (
      widen(ops.get_entry("annealing: outputs", outputs, role).logits)
      for role in ("student", "teacher")
    )
    top = state["max_temperature"]
    passed = state["step"] / (share * steps)
    temperature = jnp.maximum(top - jnp.floor(passed * top), 1.0)
    soft = collaboration.annealing_loss(
      ours, theirs, temperature=temperature, max_temperature=top
    )
    hard = ops.cross_entropy(
      ours, ops.get_entry("annealing: batch", batch, "label")
    )
    values = jnp.where(passed < 1, soft, hard)
    value = batch_mean(values, batch, axis_name, annealing)
    state = state | {"step": state["step"] + 1}
    return value, state, loss_metric(value, batch)

  return Objective(init, apply)


def refilled(
  class_centers: ArrayLike, *, temperature: ArrayLike = 2.0
) -> Objective:
  """ReFilled, stage 2: over the classes that the batch has."""

  def loss(
    student_logits: Array,
    teacher_embeddings: Array,
    labels: Array,
    *,
    class_centers: Array,
    temperature: ArrayLike,
    where: Array,
    axis_name: str | None,
  ) -> Array:
    count = student_logits.shape[-1]
    mask = where.astype(student_logits.dtype)
    members = ops.class_one_hot("refilled", labels, count, mask)
    classes = ops.sum_over_devices(jnp.sum(members, 0), axis_name) > 0
    values = collaboration.refilled_class_loss(
      student_logits,
      teacher_embeddings,
      class_centers,
      classes,
      temperature=temperature,
    )
    return batch_mean(values, {"mask": where}, axis_name, refilled)

  centers = jnp.asarray(class_centers)
  return stateless(loss, class_centers=centers, temperature=temperature)


def amalgamation(
  teacher_classes: Any, *, temperature: ArrayLike = 1.0
) -> Objective:
  """Amalgamation: each teacher classifies among its own classes."""
  classes = tuple(jnp.asarray(x) for x in teacher_classes)

  def select(outputs: Any, student_logits: Array) -> tuple[Array, Any]:
    names = [f"teacher_{i}" for i in range(len(classes))]
    found = [k for k in outputs if re.fullmatch(r"teacher_\d+", k)]
    if len(found) > len(names):
      raise ValueError(
        f"amalgamation: teacher_classes has {len(names)} lists for "
        f"{len(found)} teachers; expected one list a teacher."
      )
    teachers = [
      ops.get_entry("amalgamation: outputs", outputs, name).logits
      for name in names
    ]
    return student_logits, teachers

  def loss(
    student_logits: Array, teacher_logits: Any, *, temperature: ArrayLike
  ) -> Array:
    return collaboration.amalgamation_loss(
      student_logits,
      jax.lax.stop_gradient(teacher_logits),
      classes,
      temperature=temperature,
    )

  return stateless(loss, select, temperature=temperature)
