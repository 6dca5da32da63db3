"""The front door of cross-modal learning: towers of several modalities."""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from kdjax import methods, ops
from kdjax.methods import Pass
from kdjax.training.learners._learner import Learner, as_objective, make_learner
from kdjax.training.optimizers._optimizers import Optimizer
from kdjax.training.steps._evaluation import Metric
from kdjax.training.steps._passes import Prepare


def align(
  students: Mapping[str, Any],
  loss: Callable[..., Any] | methods.Objective,
  optimizer: Optimizer,
  *,
  teachers: Mapping[str, Any] | None = None,
  prepare: Prepare | None = None,
  metrics: Mapping[str, Metric] | None = None,
  axis_name: str | None = None,
  **hyperparameters: Any,
) -> Learner:
  """Cross-modal alignment: a learner for a tower of each modality.

  A batch is paired: row i of every entry is the same example. The roles of the
  objective are `"student_image"`, `"student_text"`, `"teacher_image"` and so
  on, of the names given. A teacher on one modality and a student on another one
  need no towers: `training.distill(..., on="sound", teacher_on="image")`.

  Args:
    students: modality -> the network to train; it sees the entry of the batch
      with the name of the modality.
    loss: a function whose argument names name its inputs, such as
      `mine(student_image_embeddings, student_text_embeddings)`; or an
      `Objective`, such as `methods.preset("clip_kd")`.
    optimizer: an Optax optimizer.
    teachers: modality -> the frozen network, in evaluation mode; or None.
    prepare: `(key, batch, run) -> batch`, before the passes; see `pass_loss`.
    metrics: name -> function of arrays, for evaluation. By default
      `"image_to_text"` and so on for each two modalities: the share of examples
      whose embedding is nearest to that of its own pair in the batch.
    axis_name: the mapped axis that holds the rest of the batch, where the
      caller maps the step; `parallelize` names it itself.
    **hyperparameters: of the loss; numbers are in the state, as arrays.

  Returns:
    A `Learner`.

  Raises:
    TypeError: if a network is none, or the optimizer not one of Optax.
    ValueError: if there is no student, or the loss has no such hyper-parameter;
      from `init` or `step`, if the batch lacks a modality, or entries are not
      paired.

  Examples:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> import optax
    >>> from kdjax import nets
    >>> from kdjax.methods import preset
    >>> from kdjax.training import Network
    >>> def tower(width):
    ...   return Network.of(
    ...     lambda rngs: nets.MLP(4, input_shape=(1, 1, width), rngs=rngs)
    ...   )
    >>> towers = {"image": tower(6), "text": tower(3)}
    >>> learner = align(towers, preset("clip"), optax.adam(1e-3))
    >>> batch = {
    ...   "image": jnp.ones((4, 1, 1, 6)),
    ...   "text": jnp.ones((4, 1, 1, 3)),
    ...   "mask": jnp.ones(4, bool),
    ... }
    >>> state = learner.init(jax.random.key(0), batch)
    >>> sorted(state.params)
    ['objective', 'student_image', 'student_text']

  References:
    Radford et al., `Learning transferable visual models from natural language
    supervision <https://arxiv.org/abs/2103.00020>`_, 2021; Yang et al.,
    `CLIP-KD <https://arxiv.org/abs/2307.12732>`_, 2024.
  """
  if not students:
    raise ValueError("align: students is empty; expected one or more networks.")
  trained = {f"student_{name}": x for name, x in students.items()}
  frozen = {f"teacher_{name}": x for name, x in (teachers or {}).items()}
  passes = {
    f"student_{name}": Pass(f"student_{name}", on=name, train=True)
    for name in students
  }
  passes |= {
    f"teacher_{name}": Pass(f"teacher_{name}", on=name)
    for name in teachers or {}
  }
  return make_learner(
    trained,
    frozen,
    passes,
    as_objective(loss, **hyperparameters),
    optimizer,
    prepare=prepare,
    metrics=_retrieval(list(students)) if metrics is None else metrics,
    evaluation={
      f"student_{name}": Pass(f"student_{name}", on=name) for name in students
    },
    axis_name=axis_name,
  )


def _retrieval(names: list[str]) -> dict[str, Metric]:
  return {
    f"{a}_to_{b}": (
      _found,
      (f"student_{a}_embeddings", f"student_{b}_embeddings"),
    )
    for a in names
    for b in names
    if a != b
  }


def _found(
  queries: Array, keys: Array, *, where: Array, axis_name: str | None
) -> Array:
  """The share of queries whose own key is the nearest one of the batch."""
  whole = ops.gather_batch(ops.unit_vectors(keys), axis_name)
  used = ops.gather_batch(where, axis_name)
  cosines = jnp.where(used[None], ops.unit_vectors(queries) @ whole.T, -jnp.inf)
  own = ops.gathered_positions(queries.shape[0], axis_name)
  right = jnp.argmax(cosines, -1) == own
  return ops.masked_mean(right.astype(float), where, axis_name=axis_name)
