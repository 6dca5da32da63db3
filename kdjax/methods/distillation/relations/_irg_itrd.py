"""Relations between examples: IRG and ITRD."""

from typing import Any

from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import distillation, nets
from kdjax.methods._modular import modular
from kdjax.methods._objective import Objective, stateless
from kdjax.methods._stages import as_map, field_of, matched_stages
from kdjax.nets import layers


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
    `kdjax.distillation.irg_loss`. Networks of a single stage leave the
    stages out. Published weight: 1, with the defaults here.

  Raises:
    ValueError: from `apply`, if a network has no features or no embedding.

  Examples:
    >>> from kdjax.nets import Outputs
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
    distillation.irg_loss,
    _graph,
    vertex_weight=vertex_weight,
    edge_weight=edge_weight,
    transformation_weight=transformation_weight,
  )


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
    >>> from kdjax.nets import Outputs
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

  def build(
    student_embeddings: Any, teacher_embeddings: Any, rngs: nnx.Rngs
  ) -> nnx.Linear:
    widths = student_embeddings.shape[-1], teacher_embeddings.shape[-1]
    return layers.linear(*widths, rngs=rngs)

  def loss(
    module: nnx.Linear,
    student_embeddings: Any,
    teacher_embeddings: Any,
    mask: Any,
    *,
    correlation_weight: Array,
    mutual_weight: Array,
    alpha: Array,
    axis_name: str | None,
  ) -> Array:
    rest = {"where": mask, "axis_name": axis_name}
    embedded = module(student_embeddings)
    like = module.in_features == module.out_features
    correlation = distillation.itrd_correlation_loss(
      embedded, teacher_embeddings, alpha=alpha, **rest
    )
    mutual = distillation.itrd_mutual_loss(
      student_embeddings if like else embedded, teacher_embeddings, **rest
    )
    return correlation_weight * correlation + mutual_weight * mutual

  return modular(
    build,
    loss,
    correlation_weight=correlation_weight,
    mutual_weight=mutual_weight,
    alpha=alpha,
  )


def _graph(student: nets.Outputs, teacher: nets.Outputs) -> tuple[Any, ...]:
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
