"""Domain adaptive ensemble learning (DAEL)."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import adaptation, generalization, ops
from kdjax.methods._method import Method, Pass
from kdjax.methods._modular import modular
from kdjax.methods.adaptation._row_kinds import row


def _dael(*, weight: ArrayLike = 0.5, threshold: ArrayLike = 0.95) -> Method:
  """An expert for each source, `[domains, batch, ...]`, and the surest one.

  Experts learn from their domains (`kdjax.generalization.dael_expert_loss`),
  the others agree on a strong view (`dael_consistency_loss`), and the surest
  one teaches all on the target (`kdjax.adaptation.dael_loss`). The student
  answers by the experts' mean probabilities.
  """

  def loss(
    experts: Any,
    source_embedding: Array,
    source_strong_embedding: Array,
    target_embedding: Array,
    target_strong_embedding: Array,
    source_labels: Array,
    where_source: Array,
    where_target: Array,
    *,
    weight: Array,
    threshold: Array,
    axis_name: str | None,
  ) -> Array:
    own, others = experts.of_domains(source_embedding, source_strong_embedding)
    values = generalization.dael_expert_loss(own, source_labels)
    values += generalization.dael_consistency_loss(others, own)
    taught = adaptation.dael_loss(
      experts(target_strong_embedding),
      experts(target_embedding),
      threshold=threshold,
    )
    return ops.masked_mean(
      values, where_source, axis_name=axis_name
    ) + weight * ops.masked_mean(taught, where_target, axis_name=axis_name)

  objective = modular(
    Experts,
    loss,
    predict=by_experts,
    weight=weight,
    threshold=threshold,
  )
  passes = {
    "source": Pass(on="source.*", train=True, batch_axes=2),
    "target": Pass(on="target.*", train=True),
    "source_strong": Pass(on="source.strong", train=True, batch_axes=2),
  }
  return Method(objective, passes=passes)


class Experts(nnx.Module):
  """A linear classifier for each domain.

  Args:
    embedding: `[domains, batch, dims]`, of which the shape counts.
    logits: `[domains, batch, classes]`.
    rngs: random streams for the parameters.
  """

  def __init__(self, embedding: Any, logits: Any, rngs: nnx.Rngs):
    domains = embedding.shape[0]
    widths = embedding.shape[-1], logits.shape[-1]
    make = jax.nn.initializers.lecun_normal(batch_axis=0)
    self.kernel = nnx.Param(make(rngs.params(), (domains, *widths)))
    self.bias = nnx.Param(jnp.zeros((domains, widths[-1])))

  def __call__(self, embeddings: Array) -> Array:
    """The experts' logits, `[experts, *batch, classes]`."""
    bias = self.bias[...]
    bias = bias.reshape(len(bias), *[1] * (embeddings.ndim - 1), -1)
    return jnp.einsum("...d,edc->e...c", embeddings, self.kernel[...]) + bias

  def of_domains(self, weak: Array, strong: Array) -> tuple[Array, Array]:
    """Each domain's own expert on it, and all experts on its strong view."""
    domains = jnp.arange(len(weak))
    return self(weak)[domains, domains], jnp.swapaxes(self(strong), 0, 1)


def by_experts(experts: Any, embedding: Array) -> Array:
  """The logarithm of the experts' mean probabilities."""
  return jnp.log(jnp.mean(jax.nn.softmax(experts(embedding)), 0))


ROWS = {
  "dael": row(
    "DAEL",
    "an expert for each source, the surest teaches all on the target",
    _dael,
    weight=0.5,
    cross_entropy=0.0,
    views=("strong",),
    source="Dassl",
  ),
}
