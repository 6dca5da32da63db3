"""The head of a pretrained network, which is trained on."""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array


class PretrainedHead(nnx.Module):
  """The pretrained classifier, and its change since then."""

  def __init__(self, past_classifier: Any):
    kernel, bias = past_classifier
    self.kernel = nnx.Param(jnp.zeros(kernel.shape))
    self.bias = nnx.Param(jnp.zeros(bias.shape))

  def __call__(self, embeddings: Array, past_classifier: Any) -> Array:
    kernel, bias = past_classifier
    bias = bias + self.bias[...]
    return embeddings @ (kernel + self.kernel[...]) + bias[None]
