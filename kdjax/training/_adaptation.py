"""The loss of a step that sees two domains."""

import types
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from kdjax.nets import Outputs
from kdjax.objectives import Objective
from kdjax.ops import get_entry
from kdjax.ops import mean_over_devices
from kdjax.training._checks import check_objective
from kdjax.training._checks import check_views
from kdjax.training._models import Forward
from kdjax.training._models import Variables
from kdjax.training._models import check_forward
from kdjax.training._models import run_forward
from kdjax.training._steps import LossFn
from kdjax.training._steps import Metrics


def adaptation_loss(
  student: Forward,
  objective: Objective,
  teacher: Forward | None = None,
  *,
  joint_forward: bool = True,
  views: Mapping[str, Callable[[Array, Any], Any]] = types.MappingProxyType({}),
  axis_name: str | None = None,
) -> LossFn:
  """Adaptation loss: one student sees the source and the target domain.

  The objective gets the student's outputs on the source in the place of the
  student's, those on the target in the place of the teacher's, both with
  gradient. Its batch is the source's, so that a supervised objective is the
  task, with the target's under `"target"`. The domains may differ in size.

  Args:
    student: the student's forward, called in training mode.
    objective: compares the two domains' outputs, and the source's with its
      labels.
    teacher: a forward called in evaluation mode with the variables
      `frozen["teacher"]`: the network as it was on the source (ADDA), or an
      average of the student (:func:`with_mean_teacher`). Its outputs are under
      "teacher" in the `views` of both domains' outputs, without gradient.
    joint_forward: whether both domains go through the student as one batch,
      so that they share batch statistics (TLlib); otherwise the source goes
      first, then the target (Dassl, DeepDA). The same without batch
      statistics.
    views: name -> `(key, batch) -> images`, other views of the target's
      examples, such as strongly augmented ones; the batch is the target's.
      They follow the domains through the student, and their outputs are in
      the `views` of the target's.
    axis_name: the mapped axis that holds the rest of the batch. Batch
      statistics are averaged over it, and dropout draws differently on each
      device.

  Returns:
    `loss_fn(params, state, frozen, batch, key) -> loss, (state, metrics)`,
    where `batch` is `{"source": ..., "target": ...}`, each with `"image"`,
    `"mask"` and what the objective reads. What stands beside the two is of
    both, such as the mask that :func:`scan_epoch` adds to a batch; an example
    counts if all its masks say so.

  Raises:
    TypeError: if student or teacher is not a forward but, say, a `Model`,
      the objective not an `Objective`, or `views` not a mapping.
    ValueError: if a view is called "teacher" and there is one; from `loss_fn`,
      if a batch lacks an entry that is read, or `frozen` the teacher, or if
      images of the two domains do not fit into one batch.

  Examples:
    >>> from kdjax.objectives import select_logits, stateless
    >>> def forward(variables, x, *, train, key):
    ...   return Outputs(variables.params * x, {}, None), {}
    >>> objective = stateless(lambda source, target: (source - target) ** 2)
    >>> loss_fn = adaptation_loss(forward, objective)
    >>> params = {"student": jnp.array(2.0), "objective": {}}
    >>> state = {"student": {}, "objective": {}}
    >>> mask = jnp.array([True, True])
    >>> source = {"image": jnp.array([1.0, 2.0]), "mask": mask}
    >>> target = {"image": jnp.array([2.0, 2.0]), "mask": mask}
    >>> batch = {"source": source, "target": target}
    >>> loss, _ = loss_fn(params, state, {}, batch, jax.random.key(0))
    >>> loss
    Array(2., dtype=float32)

  References:
    Ganin et al., `Domain-adversarial training of neural networks
    <https://arxiv.org/abs/1505.07818>`_, 2016.
  """
  name = "adaptation_loss"
  check_forward(f"{name}: student", student)
  if teacher is not None:
    check_forward(f"{name}: teacher", teacher)
  check_objective(name, objective)
  check_views(name, views)
  if teacher is not None and "teacher" in views:
    raise ValueError(
      "adaptation_loss: views has the name 'teacher'; expected another one, as "
      "that is the teacher's."
    )

  def loss_fn(
    params: Any, state: Any, frozen: Any, batch: Any, key: Array
  ) -> tuple[Array, tuple[Any, Metrics]]:
    objective_key, key = jax.random.split(key)
    if axis_name is not None:
      key = jax.random.fold_in(key, jax.lax.axis_index(axis_name))
    source_key, target_key = jax.random.split(key)

    def outputs(state: Any, images: Any, key: Array) -> tuple[Outputs, Any]:
      variables = Variables(params["student"], state)
      return run_forward(
        f"{name}: student", student, variables, images, train=True, key=key
      )

    domains = _domains(name, batch)
    images = [domain["image"] for domain in domains.values()]
    if joint_forward:
      _check_alike(*images)
      both, student_state = outputs(
        state["student"], jnp.concatenate(images), source_key
      )
      size = len(images[0])
      source = jax.tree.map(lambda x: x[:size], both)
      target = jax.tree.map(lambda x: x[size:], both)
    else:
      source, student_state = outputs(state["student"], images[0], source_key)
      target, student_state = outputs(student_state, images[1], target_key)
    seen = {}
    for i, (k, view) in enumerate(views.items()):
      view_key = jax.random.fold_in(target_key, i)
      image = view(view_key, domains["target"])
      seen[k], student_state = outputs(student_state, image, view_key)
    if teacher is not None:
      known = get_entry(f"{name}: frozen", frozen, "teacher")
      told = [
        run_forward(f"{name}: teacher", teacher, known, image)[0]
        for image in images
      ]
      told = jax.lax.stop_gradient(told)
      source = source._replace(views={"teacher": told[0]})
      seen["teacher"] = told[1]
    if seen:
      target = target._replace(views=seen)
    student_state = mean_over_devices(student_state, axis_name)
    loss, objective_state, metrics = objective.apply(
      params["objective"],
      state["objective"],
      source,
      target,
      domains["source"] | {"target": domains["target"]},
      objective_key,
    )
    state = {"student": student_state, "objective": objective_state}
    return loss, (state, metrics)

  return loss_fn


def _domains(name: str, batch: Any) -> dict[str, dict[str, Any]]:
  """Both domains' batches, each with what stands beside them for both."""
  domains = {
    k: get_entry(f"{name}: batch", batch, k) for k in ("source", "target")
  }
  both = {k: v for k, v in batch.items() if k not in domains}
  for k, domain in domains.items():
    domain = both | dict(domain)
    if "mask" in both and "mask" in domains[k]:
      domain["mask"] = both["mask"] & domain["mask"]
    domains[k] = domain
    for needed in ("image", "mask"):
      get_entry(f"{name}: the {k}'s batch", domain, needed)
  return domains


def _check_alike(source: Any, target: Any) -> None:
  """Raises ValueError unless both domains fit into one batch."""
  if source.shape[1:] != target.shape[1:]:
    raise ValueError(
      f"adaptation_loss: the target's images have shape {target.shape}; "
      f"expected that of the source's, {source.shape}, but for the batch."
    )
