"""The bytes of the messages of a round."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from kdjax import ops


@ops.validate
def message_bytes(tree: PyTree) -> int:
  """Bytes of a message: those of all its arrays.

  Args:
    tree: a pytree of arrays or `jax.ShapeDtypeStruct`: parameters (FedAvg),
      logits (FedMD), prototypes (FedProto), features (FedGKT).

  Returns:
    The number of bytes, without a header or compression.

  Examples:
    >>> logits = jnp.zeros((5000, 10))
    >>> message_bytes(logits), message_bytes(logits.astype(jnp.bfloat16))
    (200000, 100000)

  References:
    McMahan et al., `Communication-efficient learning of deep networks from
    decentralized data <https://arxiv.org/abs/1602.05629>`_, 2017.
  """
  return sum(
    math.prod(jnp.shape(x)) * jnp.result_type(x).itemsize
    for x in jax.tree.leaves(tree)
  )
