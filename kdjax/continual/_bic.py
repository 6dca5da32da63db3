"""Bias correction (BiC) of the logits of new classes."""

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from kdjax import ops


@ops.validate
def bic_logits(
  logits: Float[Array, "*batch classes"],
  new_classes: Bool[Array, " classes"],
  *,
  scale: ArrayLike = 1.0,
  shift: ArrayLike = 0.0,
) -> Float[Array, "*batch classes"]:
  r"""Bias correction (BiC): an affine map of the logits of new classes.

  .. math::
    z'_c = \begin{cases}
      \alpha z_c + \beta & c \text{ new} \\ z_c & \text{otherwise}
    \end{cases}

  Args:
    logits: `[*batch, classes]`.
    new_classes: `[classes]`, True for the classes of the current task.
    scale: alpha, 1 at first. A trained parameter.
    shift: beta, 0 at first. A trained parameter.

  Returns:
    `[*batch, classes]`.

  Raises:
    ValueError: if shapes do not fit.
    TypeError: if an array has a wrong dtype.

  BiC has two stages. The first trains the network with `(1 - w)` times the
  cross-entropy plus `w` times `lwf_loss` at T = 2 over past classes, w = past
  classes / classes so far (mammoth weighs the tasks, and adds the factor T^2
  that the paper does not have). The second fixes the network and fits scale and
  shift by the cross-entropy of `bic_logits` on a small balanced set of old and
  new examples that the first stage did not see. The corrections of earlier
  tasks stay in the past network's logits.

  Examples:
    >>> new = jnp.array([False, True])
    >>> print(bic_logits(jnp.array([[1.0, 3.0]]), new, scale=0.5, shift=-1.0))
    [[1.  0.5]]

  References:
    Wu et al., `Large scale incremental learning
    <https://arxiv.org/abs/1905.13260>`_, 2019.
  """
  logits = logits.astype(ops.compute_dtype(logits))
  new = jnp.broadcast_to(new_classes, logits.shape)
  scale, shift = (
    ops.as_number(name, value, logits.dtype)
    for name, value in (("scale", scale), ("shift", shift))
  )
  # A masked class has no product with a scale of 0.
  finite = logits != -jnp.inf
  moved = scale * jnp.where(finite, logits, 0.0) + shift
  return jnp.where(new & finite, moved, logits)
