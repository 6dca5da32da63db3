"""Domain-invariant feature exploration (DIFEX)."""

from collections.abc import Callable
from typing import Any

from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import generalization, ops
from kdjax.methods._method import Pass
from kdjax.methods._modular import modular
from kdjax.methods._objective import Objective


def difex(*, weight: ArrayLike = 0.1, form: str = "norm-2-norm") -> Objective:
  """Invariant features (DIFEX): one half follows phases, one half is aligned.

  The three terms of `kdjax.generalization.difex_loss`, and the
  cross-entropy of the network of phases that one half follows. Its authors
  train that network first; here both learn at the same time.

  Args:
    weight: of the three terms, kept in the state.
    form: of the exploration; the authors' plain norm has no lower bound.

  Returns:
    An objective, beside the student's cross-entropy, of the roles `"student"`
    and `"phases"` (`DIFEX_PASSES`).

  Raises:
    ValueError: if a network returns no embedding.

  References:
    Lu et al., `Domain-invariant feature exploration for domain generalization
    <https://arxiv.org/abs/2207.12020>`_, 2022.
  """

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

  return modular(_Heads, loss, weight=weight)


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


DIFEX_PASSES = {"phases": Pass("phases", "phase", train=True, batch_axes=2)}


def difex_batch(*, on: str = "image") -> Callable[..., Any]:
  """DIFEX's batch: the images' phases as images.

  Args:
    on: the entry that holds the images.

  Returns:
    `prepare` for `kdjax.training.generalize` with `others={"phases":
    network}`, by `kdjax.generalization.fourier_phase`. It adds
    `"phase"`.

  References:
    Lu et al., `Domain-invariant feature exploration for domain generalization
    <https://arxiv.org/abs/2207.12020>`_, 2022.
  """

  def prepare(key: Array, batch: Any, run: Any) -> Any:
    del key, run
    return {**batch, "phase": generalization.fourier_phase(batch[on])}

  return prepare
