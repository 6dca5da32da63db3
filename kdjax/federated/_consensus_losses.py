"""Losses by the clients' consensus: FedMD and FedDF."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from kdjax import ops


@ops.validate
def fedmd_loss(
  student_logits: Float[Array, "*batch classes"],
  consensus_logits: Float[Array, "*batch classes"],
) -> Float[Array, "*batch"]:
  r"""FedMD: the mean absolute error to the clients' mean logits.

  .. math:: \ell = \frac1C \lVert z^S - \bar z \rVert_1

  Args:
    student_logits: `[*batch, classes]`, of a client on public examples.
    consensus_logits: `[*batch, classes]`, of `consensus_logits`; no gradient.

  Returns:
    One value an example, a mean over classes. A class with a logit of -inf in
    both arrays adds 0. Clients minimize it alone ("digest"), before some epochs
    on their own examples ("revisit").

  Raises:
    ValueError: if the shapes differ.
    TypeError: if the logits are not floating-point.

  Examples:
    >>> print(fedmd_loss(jnp.array([[1.0, 3.0]]), jnp.array([[2.0, 0.0]])))
    [2.]

  References:
    Li and Wang, `FedMD: heterogenous federated learning via model distillation
    <https://arxiv.org/abs/1910.03581>`_, 2019.
  """
  student = student_logits.astype(ops.compute_dtype(student_logits))
  target = jax.lax.stop_gradient(consensus_logits)
  target = target.astype(ops.compute_dtype(target))
  masked = (student == -jnp.inf) & (target == -jnp.inf)
  student, target = (jnp.where(masked, 0.0, x) for x in (student, target))
  return jnp.mean(ops.safe_abs(student - target), -1)


@ops.validate
def feddf_loss(
  student_logits: Float[Array, "*batch classes"],
  consensus_logits: Float[Array, "*batch classes"],
  *,
  temperature: ArrayLike = 1.0,
) -> Float[Array, "*batch"]:
  r"""Ensemble distillation (FedDF): the server learns from the consensus.

  .. math::
    \ell = \mathrm{KL}\bigl(\mathrm{softmax}(\bar z / T) \Vert
                            \mathrm{softmax}(z^S / T)\bigr)

  Args:
    student_logits: `[*batch, classes]`, of the server's network, which starts
      at the `federated_average`, on examples without labels.
    consensus_logits: `[*batch, classes]`, of `consensus_logits`; no gradient.
    temperature: T > 0, 1 in the paper. May be traced.

  Returns:
    One value an example, without a factor T^2. It is the only loss of the
    server.

  Raises:
    ValueError: if the shapes differ or a static temperature is not above 0.
    TypeError: if the logits are not floating-point.

  Another function of the authors' repository (`distill_knowledge`) has the
  factor T^2; at T = 1 they are equal.

  Examples:
    >>> logits = jnp.array([[1.0, 2.0]])
    >>> print(feddf_loss(logits, logits))
    [0.]

  References:
    Lin et al., `Ensemble distillation for robust model fusion in federated
    learning <https://arxiv.org/abs/2006.07242>`_, 2020.
  """
  target = jax.lax.stop_gradient(consensus_logits)
  return ops.forward_kl(target, student_logits, temperature)
