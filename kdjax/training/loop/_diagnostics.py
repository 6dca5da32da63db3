"""Whether labels and teacher pull the same way, for any learner."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from kdjax import methods, metrics, ops
from kdjax.training.learners._learner import Learner
from kdjax.training.steps._state import TrainState
from kdjax.training.steps._steps import with_average


def gradient_cosine_of(
  learner: Learner, batch: Any
) -> Callable[..., Array] | None:
  """Cosine between the gradient of the labels and that of the loss.

  The gradients are those of the student's parameters. Of a `combine` with a
  part `"ce"`, as most published methods have, the loss is all but that part;
  else it is the whole loss.

  Args:
    learner: whose loss it is.
    batch: of the learner, for its entries.

  Returns:
    `cosine(state, frozen, batch, key)`, or None for a learner without a
    teacher, or a batch without integer labels.
  """
  passes = learner.loss_fn.passes
  label = batch.get("label") if isinstance(batch, Mapping) else None
  if not {"student", "teacher"} <= set(passes) or label is None:
    return None
  if not jnp.issubdtype(label.dtype, jnp.integer):
    return None
  labels = methods.stateless(ops.cross_entropy, ("student_logits", "labels"))
  of_labels = dataclasses.replace(learner.loss_fn, objective=labels)

  def cosine(state: TrainState, frozen: Any, batch: Any, key: Array) -> Array:
    key = jax.random.fold_in(key, state.step)
    frozen = with_average(state, frozen)

    def gradient(loss_fn: Any, own: tuple[Any, Any]) -> Any:
      params = state.params | {"objective": own[0]}
      moved = state.state | {"objective": own[1]}

      def loss(student: Any) -> Array:
        both = params | {"student": student}
        return jnp.sum(loss_fn(both, moved, frozen, batch, key)[0])

      return jax.grad(loss)(state.params["student"])

    whole = state.params["objective"], _without_labels(state.state["objective"])
    return metrics.gradient_cosine(
      gradient(of_labels, ({}, {})), gradient(learner.loss_fn, whole)
    )

  return cosine


def _without_labels(state: Any) -> Any:
  """The state of an objective whose part `"ce"` has the weight 0."""
  weights = state.get("weights") if isinstance(state, Mapping) else None
  if not isinstance(weights, Mapping) or "ce" not in weights:
    return state
  return {**state, "weights": {**weights, "ce": jnp.zeros_like(weights["ce"])}}
