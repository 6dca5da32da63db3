"""Losses that a client adds to its own: FedNTD, FedProto, FedGKT, FedKD."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from kdjax import ops


@ops.validate
def fedntd_loss(
  student_logits: Float[Array, "*batch classes"],
  global_logits: Float[Array, "*batch classes"],
  labels: Int[Array, "*batch"],
  *,
  temperature: ArrayLike = 1.0,
) -> Float[Array, "*batch"]:
  r"""Not-true distillation (FedNTD): the global view of the other classes.

  .. math::
    \ell = T^2 \, \mathrm{KL}(\tilde p \Vert \tilde q)

  with softened softmaxes over the C - 1 classes that are not the label.

  Args:
    student_logits: `[*batch, classes]`, of the client.
    global_logits: `[*batch, classes]`, of the network that the round started
      with; no gradient.
    labels: `[*batch]`.
    temperature: T > 0. May be traced.

  Returns:
    One value an example. Published weight: 1 with T = 1, beside the
    cross-entropy.

  Raises:
    ValueError: if the shapes differ or a static temperature is not above 0.
    TypeError: if an array has a wrong dtype.

  Examples:
    >>> student = jnp.array([[9.0, 1.0, 2.0]])
    >>> server = jnp.array([[0.0, 1.0, 2.0]])
    >>> print(fedntd_loss(student, server, jnp.array([0])))
    [0.]

  References:
    Lee et al., `Preservation of the global knowledge by not-true distillation
    in federated learning <https://arxiv.org/abs/2106.03097>`_, 2022.
  """
  ops.check_positive("fedntd_loss: temperature", temperature)
  classes = student_logits.shape[-1]
  known = ops.check_labels(labels, classes)
  others = ~jax.nn.one_hot(known, classes, dtype=bool)
  target = jax.lax.stop_gradient(global_logits)
  scale = ops.as_number(
    "temperature", temperature, ops.compute_dtype(student_logits)
  )
  values = ops.forward_kl(target, student_logits, scale, others)
  return ops.mask_unknown_labels(jnp.square(scale) * values, labels, classes)


@ops.validate
def fedproto_loss(
  embeddings: Float[Array, "*batch dims"],
  labels: Int[Array, "*batch"],
  prototypes: Float[Array, "classes dims"],
  available: Bool[Array, " classes"] | None = None,
) -> Float[Array, "*batch"]:
  r"""FedProto: embeddings stay near the global prototypes of their classes.

  .. math:: \ell = \frac1D \lVert f(x) - c_y \rVert_2^2

  Args:
    embeddings: `[*batch, dims]`, of a client; networks may differ up to there.
    labels: `[*batch]`.
    prototypes: c, `[classes, dims]`, of `federated_prototypes`; no gradient.
    available: `[classes]`, True for the classes that have a prototype; None for
      all.

  Returns:
    One value an example, a mean over the width; 0 for an example whose class
    has no prototype. Published weight: 1 (CIFAR-10: 0.1), beside the
    cross-entropy.

  Raises:
    ValueError: if shapes do not fit.
    TypeError: if an array has a wrong dtype.

  Examples:
    >>> means = jnp.array([[0.0, 0.0], [1.0, 1.0]])
    >>> print(fedproto_loss(jnp.array([[1.0, 3.0]]), jnp.array([1]), means))
    [2.]

  References:
    Tan et al., `FedProto: federated prototype learning across heterogeneous
    clients <https://arxiv.org/abs/2105.00243>`_, 2022.
  """
  classes = prototypes.shape[0]
  known = ops.check_labels(labels, classes)
  rows = embeddings.astype(ops.compute_dtype(embeddings))
  means = jax.lax.stop_gradient(prototypes)
  targets = means.astype(ops.compute_dtype(means))[known]
  values = jnp.mean(jnp.square(rows - targets), -1)
  if available is not None:
    values = jnp.where(available[known], values, 0.0)
  return ops.mask_unknown_labels(values, labels, classes)


@ops.validate
def fedgkt_loss(
  student_logits: Float[Array, "*batch classes"],
  teacher_logits: Float[Array, "*batch classes"],
  labels: Int[Array, "*batch"],
  *,
  temperature: ArrayLike = 3.0,
  alpha: ArrayLike = 1.0,
) -> Float[Array, "*batch"]:
  r"""Group knowledge transfer (FedGKT): client and server teach each other.

  .. math:: \ell = H(y, q) + \alpha T^2 \, \mathrm{KL}(p_T \Vert q_T)

  Args:
    student_logits: `[*batch, classes]`, of the side that is trained: a client,
      or the server on the client's features.
    teacher_logits: `[*batch, classes]`, of the other side, as it sent them; no
      gradient.
    labels: `[*batch]`.
    temperature: T > 0. May be traced.
    alpha: of the divergence. May be traced.

  Returns:
    One value an example, the whole loss of both sides.

  Raises:
    ValueError: if the shapes differ or a static temperature is not above 0.
    TypeError: if an array has a wrong dtype.

  The authors add 1e-7 to the teacher's probabilities.

  Examples:
    >>> logits = jnp.zeros((1, 2))
    >>> print(fedgkt_loss(logits, logits, jnp.array([0])))
    [0.6931472]

  References:
    He, Annavaram and Avestimehr, `Group knowledge transfer: federated learning
    of large CNNs at the edge <https://arxiv.org/abs/2007.14513>`_, 2020.
  """
  ops.check_positive("fedgkt_loss: temperature", temperature)
  teacher = jax.lax.stop_gradient(teacher_logits)
  dtype = ops.compute_dtype(student_logits)
  scale = ops.as_number("temperature", temperature, dtype)
  weight = ops.as_number("alpha", alpha, dtype) * jnp.square(scale)
  divergence = ops.forward_kl(teacher, student_logits, scale)
  return ops.cross_entropy(student_logits, labels) + weight * divergence


@ops.validate
def fedkd_loss(
  student_logits: Float[Array, "batch classes"],
  teacher_logits: Float[Array, "batch classes"],
  labels: Int[Array, " batch"],
  *,
  where: Bool[Array, " batch"] | None = None,
  axis_name: str | None = None,
) -> Float[Array, ""]:
  r"""FedKD's adaptive mutual distillation: weaker while both are wrong.

  .. math::
    \ell = \frac{\operatorname{mean} \mathrm{KL}(p \Vert q)}
                {\operatorname{mean} H(y, q) + \operatorname{mean} H(y, p)}

  Args:
    student_logits: `[batch, classes]`, of the network that is trained: the
      client's large mentor, or the small mentee that all clients share.
    teacher_logits: `[batch, classes]`, of the other one; no gradient.
    labels: `[batch]`.
    where: `[batch]`, True for the examples to use.
    axis_name: the mapped axis that holds the rest of the batch.

  Returns:
    A scalar; 0 if all examples are masked. Published weight: 1, beside the
    cross-entropy and the hidden states' mean squared error over the same
    divisor.

  Raises:
    ValueError: if the shapes differ.
    TypeError: if an array has a wrong dtype.

  As in the authors' code the divisor has a gradient. There the divergence also
  moves its target; PFLlib divides it by the number of classes.

  Examples:
    >>> logits = jnp.array([[1.0, 2.0]])
    >>> print(fedkd_loss(logits, logits, jnp.array([0])))
    0.0

  References:
    Wu et al., `Communication-efficient federated learning via knowledge
    distillation <https://arxiv.org/abs/2108.13323>`_, 2022.
  """
  student, teacher = (
    ops.zero_masked(x.astype(ops.compute_dtype(x)), where)
    for x in (student_logits, jax.lax.stop_gradient(teacher_logits))
  )
  known = labels if where is None else jnp.where(where, labels, 0)
  divergence, ours, theirs = (
    ops.masked_mean(x, where, axis_name=axis_name)
    for x in (
      ops.forward_kl(teacher, student, 1.0),
      ops.cross_entropy(student, known),
      ops.cross_entropy(teacher, known),
    )
  )
  return divergence / ops.nonzero_divisor(ours + theirs)
