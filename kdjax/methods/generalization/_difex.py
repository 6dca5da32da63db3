"""Domain-invariant feature exploration (DIFEX)."""

from typing import Any

from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import generalization, ops
from kdjax.methods._method import Method, Needs, Pass
from kdjax.methods._modular import modular
from kdjax.methods._row import Search
from kdjax.methods.generalization._flat import one_input
from kdjax.methods.generalization._row_kinds import row


def _difex(*, weight: ArrayLike = 0.1, form: str = "norm-2-norm") -> Method:
  """The three terms of `kdjax.generalization.difex_loss`, times `weight`.

  One half of the student's embedding follows a network of the images' phases
  (`kdjax.generalization.fourier_phase`), which has its own cross-entropy. Its
  authors train that network first; here both learn at the same time. The
  authors' form, the plain norm, has no lower bound.
  """

  def prepare(
    key: Array, batch: Any, run: Any, *, on: str | tuple[str, ...]
  ) -> Any:
    del key, run
    entry = one_input("difex", on)
    return {**batch, "phase": generalization.fourier_phase(batch[entry])}

  def loss(
    heads: Any,
    student_embedding: Array,
    phases_embedding: Array,
    labels: Array,
    where: Array,
    *,
    weight: Array,
    axis_name: str | None,
  ) -> Array:
    told = heads.bottleneck(phases_embedding)
    taught = ops.cross_entropy(heads.classifier(told), labels)
    terms = generalization.difex_loss(
      student_embedding, told, form=form, where=where, axis_name=axis_name
    )
    return ops.masked_mean(taught, where, axis_name=axis_name) + weight * sum(
      terms
    )

  return Method(
    modular(_Heads, loss, weight=weight),
    passes={"phases": Pass("phases", "phase", train=True, batch_axes=2)},
    prepare=prepare,
    needs=Needs(trained=("phases",)),
  )


class _Heads(nnx.Module):
  """From the embeddings of phases to half their width, and to classes."""

  def __init__(
    self,
    student_embedding: Any,
    phases_embedding: Any,
    logits: Any,
    rngs: nnx.Rngs,
  ):
    half = student_embedding.shape[-1] // 2
    self.bottleneck = nnx.Linear(phases_embedding.shape[-1], half, rngs=rngs)
    self.classifier = nnx.Linear(half, logits.shape[-1], rngs=rngs)


ROWS = {
  "difex": row(
    "DIFEX",
    "half of the features follow a network of phases, half are aligned",
    _difex,
    weight=0.1,
    networks=("phases",),
    search=Search(0.1, 0.001, 1.0),
    source="DeepDG, whose teacher of phases is trained first",
  ),
}
