"""The loss of a student that learns from a teacher."""

import types
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jaxtyping import Array

from kdjax.nets import Outputs
from kdjax.objectives import Objective
from kdjax.ops import get_entry
from kdjax.ops import mean_over_devices
from kdjax.training._checks import check_objective
from kdjax.training._checks import check_views
from kdjax.training._checks import reading_teacher
from kdjax.training._models import Forward
from kdjax.training._models import Variables
from kdjax.training._models import run_forward
from kdjax.training._steps import LossFn
from kdjax.training._steps import Metrics
from kdjax.training._teachers import CachedTeacher
from kdjax.training._teachers import answer
from kdjax.training._teachers import check_parts


def distillation_loss(
  student: Forward,
  objective: Objective,
  teacher: Forward | CachedTeacher | None = None,
  *,
  augment: Callable[[Array, Any], Any] | None = None,
  views: Mapping[str, Callable[[Array, Any], Any]] = types.MappingProxyType({}),
  axis_name: str | None = None,
) -> LossFn:
  """Distillation loss, or supervised loss where there is no teacher.

  Args:
    student: the student's forward, called in training mode.
    objective: compares its outputs with the teacher's and the labels.
    teacher: the teacher's forward, called in evaluation mode with the
      variables `frozen["teacher"]`; or a :class:`CachedTeacher`, whose outputs
      come with the batch. Without it the objective gets None.
    augment: `(key, images) -> images`; student and teacher see the same view.
    views: name -> `(key, batch) -> images`, other views of each example, for
      objectives that compare several. Their outputs are in the `views` of the
      student's and the teacher's outputs. The key is that of `augment`, and
      batch statistics follow from one view to the next.
    axis_name: the mapped axis that holds the rest of the batch. Batch
      statistics are averaged over it, and augmentation and dropout draw
      differently on each device.

  Returns:
    `loss_fn(params, state, frozen, batch, key) -> loss, (state, metrics)`,
    where `batch` has `"image"`, `"mask"` and what the objective reads.

  Raises:
    TypeError: if student or teacher is not a forward but, say, a `Model`,
      the objective not an `Objective`, or `views` not a mapping.
    ValueError: if a cached teacher is to see augmented or other views; from
      `loss_fn`, if the batch lacks an entry that is read, `frozen` the teacher,
      or the objective reads a teacher and there is none.

  Examples:
    >>> from kdjax.nets import Outputs
    >>> from kdjax.objectives import stateless
    >>> def forward(variables, x, *, train, key):
    ...   return Outputs(variables.params * x, {}, None), {}
    >>> objective = stateless(lambda student, teacher: (student - teacher) ** 2)
    >>> loss_fn = distillation_loss(forward, objective, forward)
    >>> params = {"student": jnp.array(1.0), "objective": {}}
    >>> state = {"student": {}, "objective": {}}
    >>> frozen = {"teacher": Variables(jnp.array(3.0), {})}
    >>> images = jnp.array([1.0, 2.0])
    >>> batch = {"image": images, "mask": jnp.array([True, True])}
    >>> loss, _ = loss_fn(params, state, frozen, batch, jax.random.key(0))
    >>> loss
    Array(10., dtype=float32)

  References:
    Beyer et al., `Knowledge distillation: a good teacher is patient and
    consistent <https://arxiv.org/abs/2106.05237>`_, 2021: one view for both.
  """
  name = "distillation_loss"
  check_parts(name, student, teacher)
  check_objective(name, objective)
  check_views(name, views)
  if isinstance(teacher, CachedTeacher) and (augment is not None or views):
    raise ValueError(
      "distillation_loss: augment or views is given, but a CachedTeacher saw "
      "no such view; expected neither. Augment the batch beforehand by "
      "kdjax.data.augment_examples, as the cache was."
    )

  def loss_fn(
    params: Any, state: Any, frozen: Any, batch: Any, key: Array
  ) -> tuple[Array, tuple[Any, Metrics]]:
    objective_key, key = jax.random.split(key)
    if axis_name is not None:
      key = jax.random.fold_in(key, jax.lax.axis_index(axis_name))
    augment_key, student_key = jax.random.split(key)
    images = get_entry(f"{name}: batch", batch, "image")
    if augment is not None:
      images = augment(augment_key, images)
    others = {k: view(augment_key, batch) for k, view in views.items()}

    def learn(images: Any, key: Array, state: Any) -> tuple[Outputs, Any]:
      variables = Variables(params["student"], state)
      return run_forward(
        f"{name}: student", student, variables, images, train=True, key=key
      )

    outputs, student_state = learn(images, student_key, state["student"])
    seen = {}
    for i, (k, view) in enumerate(others.items()):
      view_key = jax.random.fold_in(student_key, i)
      seen[k], student_state = learn(view, view_key, student_state)
    if seen:
      outputs = outputs._replace(views=seen)
    student_state = mean_over_devices(student_state, axis_name)
    targets = None
    if teacher is not None:

      def teach(images: Any) -> Outputs:
        outputs = answer(name, teacher, frozen, batch, images)
        return jax.lax.stop_gradient(outputs)

      targets = teach(images)
      if others:
        targets = targets._replace(
          views={k: teach(view) for k, view in others.items()}
        )
    with reading_teacher(name, teacher):
      loss, objective_state, metrics = objective.apply(
        params["objective"],
        state["objective"],
        outputs,
        targets,
        batch,
        objective_key,
      )
    state = {"student": student_state, "objective": objective_state}
    return loss, (state, metrics)

  return loss_fn
