"""MAML and ANIL: weights from which a few steps lead to any task."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax.methods._method import Method
from kdjax.methods._updates import gradient_update
from kdjax.methods.finetuning._episodes import PASSES, over_devices, task_loss
from kdjax.methods.finetuning._meta import maml_losses
from kdjax.methods.finetuning._row_kinds import episodic


def _maml(
  *,
  inner_learning_rate: ArrayLike = 0.05,
  inner_steps: int = 5,
  first_order: bool = False,
  adapted: Sequence[str] | None = None,
) -> Method:
  """The mean loss of the queries, after SGD on the support of each task.

  A batch has the parts `"support"` and `"query"`, whose entries have two batch
  axes, `[tasks, examples, ...]`. Batch statistics, and the metrics other than
  the loss, are those of the queries before the inner loop.

  Args:
    inner_learning_rate: of a task's mean loss. The authors' 0.01 is of the sum
      over 5 classes.
    inner_steps: of the inner loop.
    first_order: whether second derivatives are left out.
    adapted: regular expressions of the parameters that move in the inner loop;
      None for all.
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
    inner = over_devices(optax.sgd(state["inner_learning_rate"]), axis_name)

    def mean(params: Any) -> Array:
      losses = maml_losses(
        task_loss(loss),
        params,
        batch["support"],
        batch["query"],
        inner,
        steps=inner_steps,
        adapted=adapted,
        first_order=first_order,
      )
      return jnp.mean(losses)

    value, found = jax.value_and_grad(mean)(params)
    _, (moved, metrics) = loss(params, batch)
    count = metrics["loss"][1]
    return (value, (moved, metrics | {"loss": (value * count, count)})), found

  rule = gradient_update(
    gradients, hyperparameters={"inner_learning_rate": inner_learning_rate}
  )
  return Method(passes=PASSES, update=rule)


_SOURCE = "authors, miniImageNet"
ROWS = {
  "maml": episodic(
    "MAML",
    "weights from which a few steps lead to a new task",
    _maml,
    tuned="inner_learning_rate",
    source=_SOURCE,
  ),
  "anil": episodic(
    "ANIL",
    "as MAML, with steps of the head alone",
    functools.partial(_maml, adapted=("head",)),
    tuned="inner_learning_rate",
    source=f"MAML's: {_SOURCE}",
  ),
}
