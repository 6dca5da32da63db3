"""Fishr: invariant gradient variances."""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import generalization
from kdjax.methods._method import Method
from kdjax.methods._modular import modular
from kdjax.methods._row import Search
from kdjax.methods.generalization._annealed import annealed
from kdjax.methods.generalization._row_kinds import row


def _fishr(
  *,
  weight: ArrayLike = 1000.0,
  anneal_steps: ArrayLike = 1500,
  decay: ArrayLike = 0.95,
) -> Method:
  """The `kdjax.generalization.fishr_penalty` of embeddings and logits.

  It counts after the first `anneal_steps`, 1,500 of 5,000 in DomainBed. The
  moving averages of the variances are the state.
  """

  def penalty(
    module: Any,
    student_embedding: Array,
    student_logits: Array,
    labels: Array,
    where: Array,
    *,
    decay: Array,
    axis_name: str | None,
  ) -> Array:
    value, state = generalization.fishr_penalty(
      student_embedding,
      student_logits,
      labels,
      generalization.FishrState(module.of_kernel[...], module.of_bias[...]),
      decay=decay,
      where=where,
      axis_name=axis_name,
    )
    module.of_kernel[...], module.of_bias[...] = state
    return value

  return annealed(
    modular(_Averages, penalty, decay=decay),
    weight=weight,
    before=0.0,
    steps=anneal_steps,
  )


class _Averages(nnx.Module):
  def __init__(self, embedding: Any, logits: Any):
    shape = logits.shape[0], logits.shape[-1]
    self.of_kernel = nnx.Variable(jnp.zeros((*shape, embedding.shape[-1])))
    self.of_bias = nnx.Variable(jnp.zeros(shape))


ROWS = {
  "fishr": row(
    "Fishr",
    "the classifier's gradients vary equally in all domains",
    _fishr,
    weight=1000.0,
    search=Search(1000.0, 10.0, 1e4),
    anneal=Search(0.3, 0.0, 1.0, linear=True),
  ),
}
