"""Fishr: invariant gradient variances."""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import generalization
from kdjax.methods._modular import modular
from kdjax.methods._objective import Objective
from kdjax.methods.generalization._annealed import annealed


def fishr(
  *,
  weight: ArrayLike = 1000.0,
  anneal_steps: ArrayLike = 1500,
  decay: ArrayLike = 0.95,
) -> Objective:
  """Fishr: the classifier's gradients vary equally in all domains.

  The `kdjax.generalization.fishr_penalty` of the student's embeddings
  and logits; the moving averages of the variances are the state. DomainBed
  begins Adam anew where the penalty begins: `kdjax.training.restart_at`.

  Args:
    weight: of the penalty, kept in the state.
    anneal_steps: how many steps come before it, kept in the state.
    decay: of the moving averages, kept in the state.

  Returns:
    An objective, beside the cross-entropy. Published: weight 1,000 after 1,500
    steps of 5,000 (DomainBed).

  Raises:
    ValueError: if the student returns no embedding.

  References:
    Rame et al., `Fishr: invariant gradient variances for out-of-distribution
    generalization <https://arxiv.org/abs/2109.02934>`_, 2022.
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
