"""Spectral decoupling (SD)."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from kdjax import ops


@ops.validate
def sd_penalty(
  logits: Float[Array, "*batch classes"],
) -> Float[Array, "*batch"]:
  r"""Spectral decoupling (SD): penalizes the squares of the logits.

  .. math:: \ell = \operatorname*{mean}_c z_c^2

  Args:
    logits: `[*batch, classes]`. A class at -inf is masked and is not
      in the mean.

  Returns:
    One value an example. Published weight: 0.1 times the mean over the batch
    (DomainBed). The paper multiplies the sum over classes by lambda / 2.

  Raises:
    TypeError: if the logits are not floating-point.

  Examples:
    >>> sd_penalty(jnp.array([[1.0, 3.0]]))
    Array([5.], dtype=float32)

  References:
    Pezeshki et al., `Gradient starvation: a learning proclivity in neural
    networks <https://arxiv.org/abs/2011.09468>`_, 2021, equation 25.
  """
  logits = logits.astype(ops.compute_dtype(logits))
  support = logits != -jnp.inf
  squares = jnp.square(jnp.where(support, logits, 0.0))
  count = jnp.maximum(jnp.sum(support, -1, dtype=logits.dtype), 1)
  return jnp.sum(squares, -1) / count
