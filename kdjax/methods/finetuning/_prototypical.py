"""Prototypical networks."""

from jaxtyping import Array

from kdjax import finetuning, ops
from kdjax.methods._objective import Objective, stateless
from kdjax.methods.finetuning._row_kinds import episodic


def _prototypical(num_classes: int) -> Objective:
  """Prototypical networks: a query is classified by the mean embeddings.

  The `kdjax.finetuning.prototypical_loss` of the part `"query"` of a
  batch, by the prototypes of the part `"support"`.

  Args:
    num_classes: of a task.

  Returns:
    An objective of the roles `"support"` and `"query"`, which includes the
    task; its weight is 1.

  Raises:
    ValueError: if the student returns no embedding.

  References:
    Snell et al., `Prototypical networks for few-shot learning
    <https://arxiv.org/abs/1703.05175>`_, 2017.
  """

  def loss(
    support_embedding: Array,
    support_labels: Array,
    query_embedding: Array,
    query_labels: Array,
    where_query: Array,
    *,
    where_support: Array,
    axis_name: str | None,
  ) -> Array:
    losses = finetuning.prototypical_loss(
      support_embedding,
      support_labels,
      query_embedding,
      query_labels,
      num_classes=num_classes,
      where=where_support,
      axis_name=axis_name,
    )
    return ops.masked_mean(losses, where_query, axis_name=axis_name)

  return stateless(loss)


ROWS = {
  "prototypical": episodic(
    "prototypical networks",
    "queries are classified by the mean embeddings of a task's few examples",
    _prototypical,
    cross_entropy=0.0,
    domains=("support", "query"),
  ),
}
