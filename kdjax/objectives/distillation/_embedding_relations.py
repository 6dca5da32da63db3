"""Relations between examples, for methods that embed the networks first."""

import functools
from collections.abc import Callable
from typing import Any

import jax
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax.distillation import cc_loss
from kdjax.distillation import crd_in_batch_loss
from kdjax.distillation import irg_loss
from kdjax.distillation import itrd_correlation_loss
from kdjax.distillation import itrd_mutual_loss
from kdjax.nets import Outputs
from kdjax.nets import _layers
from kdjax.objectives._modular import modular
from kdjax.objectives._objective import Objective
from kdjax.objectives._objective import stateless
from kdjax.objectives._stages import as_map
from kdjax.objectives._stages import field_of
from kdjax.objectives._stages import matched_stages
from kdjax.ops._validation import check_choice


def cc(
  *,
  form: str = "kernel",
  dim: int = 128,
  gamma: ArrayLike = 0.4,
  order: int = 2,
) -> Objective:
  """Correlation congruence (CC) of learned embeddings.

  Both networks' embeddings pass through a linear layer, which is trained with
  the student, the teacher's too, as in RepDistiller.

  Args:
    form: "kernel" or "adjacent", see :func:`kdjax.distillation.cc_loss`.
    dim: the width of the embeddings.
    gamma: the kernel's rate.
    order: the last power of the kernel's expansion.

  Returns:
    An objective with the metric `"loss"`. Published weight: 0.02, for
    "adjacent".

  Raises:
    ValueError: if the form is unknown; from `init`, if a network returns no
      embedding.

  Nothing keeps the two layers from mapping all examples to one point, where
  the loss is 0: weigh it as the authors do, or use the pure loss.

  Examples:
    >>> objective = cc(dim=32)
    >>> student = Outputs(jnp.ones((4, 3)), {}, jnp.ones((4, 8)))
    >>> specs = {"student": student, "teacher": student}
    >>> params, _ = objective.init(jax.random.key(0), specs)
    >>> params["teacher"]["kernel"].shape
    (8, 32)

  References:
    Peng et al., `Correlation congruence for knowledge distillation
    <https://arxiv.org/abs/1904.01802>`_, 2019.
  """
  check_choice("form", form, ("kernel", "adjacent"))

  loss = functools.partial(cc_loss, form=form, order=order)
  return _embedded(loss, dim, gamma=gamma)


def crd_in_batch(
  *,
  dim: int = 128,
  temperature: ArrayLike = 0.07,
) -> Objective:
  """Contrastive distillation of learned embeddings, within the batch.

  As :func:`kdjax.objectives.crd`, both networks are embedded linearly, to unit
  norm; but the negatives are the other examples of the batch, and there is no
  memory bank.

  Args:
    dim: the width of the embeddings.
    temperature: tau.

  Returns:
    An objective with the metric `"loss"`.

  Raises:
    ValueError: from `init`, if a network returns no embedding.

  Examples:
    >>> objective = crd_in_batch(dim=32)
    >>> student = Outputs(jnp.ones((4, 3)), {}, jnp.ones((4, 8)))
    >>> specs = {"student": student, "teacher": student}
    >>> params, _ = objective.init(jax.random.key(0), specs)
    >>> params["teacher"]["kernel"].shape
    (8, 32)

  References:
    Tian, Krishnan and Isola, `Contrastive representation distillation
    <https://arxiv.org/abs/1910.10699>`_, 2020; see
    :func:`kdjax.distillation.crd_in_batch_loss`.
  """
  return _embedded(crd_in_batch_loss, dim, temperature=temperature)


def itrd(
  *,
  correlation_weight: ArrayLike = 2.0,
  mutual_weight: ArrayLike = 0.05,
  alpha: ArrayLike = 1.5,
) -> Objective:
  """Information-theoretic representation distillation (ITRD).

  The student's embedding passes through a linear layer of the teacher's width.
  As in the authors' code, the mutual term leaves the layer out where both
  networks have the same width.

  Args:
    correlation_weight: the weight of the correlation term.
    mutual_weight: the weight of the mutual term.
    alpha: the order of the correlation term.

  Returns:
    An objective with the metric `"loss"`. Published weight: 1, with the
    defaults here; mutual weight 1 and alpha 1.01 for a pair of like networks.

  Raises:
    ValueError: from `init`, if a network returns no embedding.

  Examples:
    >>> objective = itrd()
    >>> student = Outputs(jnp.ones((4, 3)), {}, jnp.ones((4, 8)))
    >>> specs = {"student": student, "teacher": student}
    >>> params, _ = objective.init(jax.random.key(0), specs)
    >>> params["kernel"].shape
    (8, 8)

  References:
    Miles, Lopez Rodriguez and Mikolajczyk, `Information theoretic
    representation distillation <https://arxiv.org/abs/2112.00459>`_, 2022.
  """

  def build(student: Any, teacher: Any, rngs: nnx.Rngs) -> nnx.Linear:
    return _layers.linear(
      field_of("student", student, "embedding").shape[-1],
      field_of("teacher", teacher, "embedding").shape[-1],
      rngs=rngs,
    )

  def loss(
    module: nnx.Linear,
    student: Any,
    teacher: Any,
    mask: Array,
    *,
    correlation_weight: Array,
    mutual_weight: Array,
    alpha: Array,
    axis_name: str | None,
  ) -> Array:
    rest = {"where": mask, "axis_name": axis_name}
    embedded = module(student.embedding)
    like = module.in_features == module.out_features
    correlation = itrd_correlation_loss(
      embedded, teacher.embedding, alpha=alpha, **rest
    )
    mutual = itrd_mutual_loss(
      student.embedding if like else embedded, teacher.embedding, **rest
    )
    return correlation_weight * correlation + mutual_weight * mutual

  return modular(
    build,
    loss,
    correlation_weight=correlation_weight,
    mutual_weight=mutual_weight,
    alpha=alpha,
  )


def irg(
  *,
  vertex_weight: ArrayLike = 0.1,
  edge_weight: ArrayLike = 5.0,
  transformation_weight: ArrayLike = 5.0,
) -> Objective:
  """Instance relationship graph (IRG) of the last two stages and the head.

  Args:
    vertex_weight: the weight of the logits' term.
    edge_weight: the weight of the distances in the embedding and two stages.
    transformation_weight: the weight of the step from stage to stage.

  Returns:
    An objective with the metric `"loss"`, see
    :func:`kdjax.distillation.irg_loss`. Networks of a single stage leave the
    stages out. Published weight: 1, with the defaults here.

  Raises:
    ValueError: from `apply`, if a network has no features or no embedding.

  Examples:
    >>> objective = irg()
    >>> features = {"f0": jnp.ones((4, 6)), "f1": jnp.ones((4, 8))}
    >>> outputs = Outputs(jnp.ones((4, 3)), features, jnp.ones((4, 8)))
    >>> outputs = {"student": outputs, "teacher": outputs}
    >>> params, state = objective.init(jax.random.key(0), outputs)
    >>> batch = {"mask": jnp.ones(4, bool)}
    >>> loss, _, _ = objective.apply(
    ...   params, state, outputs, batch, jax.random.key(0)
    ... )
    >>> loss
    Array(0., dtype=float32)

  References:
    Liu et al., `Knowledge distillation via instance relationship graph
    <https://openaccess.thecvf.com/content_CVPR_2019/html/Liu_Knowledge_Distillation_via_Instance_Relationship_Graph_CVPR_2019_paper.html>`_,
    2019.
  """
  return stateless(
    irg_loss,
    _graph,
    vertex_weight=vertex_weight,
    edge_weight=edge_weight,
    transformation_weight=transformation_weight,
  )


class _Embeddings(nnx.Module):
  """A linear embedding of each network into one space."""

  def __init__(self, student: int, teacher: int, dim: int, rngs: nnx.Rngs):
    self.student = _layers.linear(student, dim, rngs=rngs)
    self.teacher = _layers.linear(teacher, dim, rngs=rngs)


def _embedded(
  loss: Callable[..., Array],
  dim: int,
  **hyperparameters: Any,
) -> Objective:
  """Makes the objective of a loss between learned embeddings."""

  def build(student: Any, teacher: Any, rngs: nnx.Rngs) -> _Embeddings:
    return _Embeddings(
      field_of("student", student, "embedding").shape[-1],
      field_of("teacher", teacher, "embedding").shape[-1],
      dim,
      rngs,
    )

  def compare(
    module: _Embeddings,
    student: Any,
    teacher: Any,
    mask: Array,
    *,
    axis_name: str | None,
    **hyper: Array,
  ) -> Array:
    return loss(
      module.student(student.embedding),
      # The layer learns; the network behind it does not.
      module.teacher(jax.lax.stop_gradient(teacher.embedding)),
      where=mask,
      axis_name=axis_name,
      stop_teacher_gradient=False,
      **hyper,
    )

  return modular(build, compare, **hyperparameters)


def _graph(student: Outputs, teacher: Outputs) -> tuple[Any, ...]:
  """Selects embeddings, the maps of the last two stages, and logits."""
  stages = matched_stages(student, teacher)[-2:]
  maps: list[Any] = [None, None]
  if len(stages) == 2:
    maps = [
      tuple(as_map(outputs.features[pair[side]]) for pair in stages)
      for side, outputs in enumerate((student, teacher))
    ]
  embeddings = (
    field_of("student", student, "embedding"),
    field_of("teacher", teacher, "embedding"),
  )
  return *embeddings, *maps, student.logits, teacher.logits
