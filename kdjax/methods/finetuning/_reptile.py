"""Reptile: weights that are near to those of all tasks."""

from typing import Any

import optax
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax.methods._method import Method
from kdjax.methods._updates import gradient_update
from kdjax.methods.finetuning._episodes import PASSES, over_devices, task_loss
from kdjax.methods.finetuning._meta import reptile_gradient
from kdjax.methods.finetuning._row_kinds import episodic


def _reptile(
  *, inner_learning_rate: ArrayLike = 0.001, inner_steps: int = 8
) -> Method:
  """The way back from where Adam leads on the support of each task.

  Epsilon is the rate of the learner's optimizer, such as `optax.sgd(1.0)`. A
  batch has the parts of MAML, and the queries are only measured. Each step sees
  the whole support of a task, and each task starts with new moments; the
  authors' steps see mini-batches, and keep the second moments.

  Args:
    inner_learning_rate: of Adam, without a first moment.
    inner_steps: of the inner loop.
  """

  def gradients(
    loss: Any,
    params: Any,
    batch: Any,
    key: Array,
    state: Any,
    *,
    axis_name: str | None = None,
  ) -> tuple[Any, Any]:
    del key
    adam = optax.adam(state["inner_learning_rate"], b1=0.0)
    way = reptile_gradient(
      task_loss(loss),
      params,
      batch["support"],
      over_devices(adam, axis_name),
      steps=inner_steps,
    )
    return loss(params, batch), way

  rule = gradient_update(
    gradients, hyperparameters={"inner_learning_rate": inner_learning_rate}
  )
  return Method(passes=PASSES, update=rule)


ROWS = {
  "reptile": episodic(
    "Reptile",
    "weights that are near to those of all tasks",
    _reptile,
    tuned="inner_learning_rate",
    source="authors, miniImageNet",
  ),
}
