"""Domain adaptive ensemble learning (DAEL): one classifier for each domain."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from kdjax import ops


@ops.validate
def dael_expert_loss(
  logits: Float[Array, "*batch classes"],
  labels: Int[Array, "*batch"],
  *,
  epsilon: ArrayLike = 1e-5,
) -> Float[Array, "*batch"]:
  r"""Domain adaptive ensemble learning (DAEL): the experts' cross-entropy.

  .. math:: \ell = -\log(q_y + \epsilon)

  Args:
    logits: `[*batch, classes]`. The expert of an example's domain computes them
      from the weakly augmented example.
    labels: `[*batch]`, integers.
    epsilon: bounds the loss, at 11.5 for 1e-5. May be traced.

  Returns:
    One value an example. Published weight: 1.

  Raises:
    ValueError: if shapes do not fit or a static `epsilon` is not above 0.

  Examples:
    >>> dael_expert_loss(jnp.array([[-1e4, 0.0]]), jnp.array([0]))
    Array([11.512925], dtype=float32)

  References:
    Zhou et al., `Domain adaptive ensemble learning
    <https://arxiv.org/abs/2003.07325>`_, 2021.
  """
  ops.check_positive("epsilon", epsilon)
  given, labels = labels, ops.check_labels(labels, logits.shape[-1])
  probabilities = ops.softened_softmax(logits)
  label_probabilities = jnp.take_along_axis(
    probabilities, labels[..., None], axis=-1
  )[..., 0]
  values = -jnp.log(
    label_probabilities + ops.as_number("epsilon", epsilon, probabilities.dtype)
  )
  return ops.mask_unknown_labels(values, given, logits.shape[-1])


@ops.validate
def dael_consistency_loss(
  strong_logits: Float[Array, "domains domains batch classes"],
  weak_logits: Float[Array, "domains batch classes"],
  *,
  stop_teacher_gradient: bool = True,
) -> Float[Array, "domains batch"]:
  r"""Domain adaptive ensemble learning (DAEL-DG): the experts' consistency.

  .. math::
    \ell_{di} = \Bigl\lVert \operatorname*{mean}_{e \ne d}
      q^e(x^\text{strong}_{di})
      - \operatorname{sg}\bigl[q^d(x^\text{weak}_{di})\bigr] \Bigr\rVert_2^2

  The experts of the other domains, averaged, match the expert of the domain.

  Args:
    strong_logits: `[domains, experts, batch, classes]`: every expert on the
      strongly augmented examples of every domain, one expert for each domain.
    weak_logits: `[domains, batch, classes]`: each domain's own expert on the
      weakly augmented examples. They are the target and get no gradient.
    stop_teacher_gradient: False lets gradients reach the target.

  Returns:
    One value an example, `[domains, batch]`, a sum over classes; 0 for a single
    domain. Published weight: 1 times the mean (Dassl), added to
    `dael_expert_loss`. At test time, average the experts' probabilities.

  Raises:
    ValueError: if the numbers of experts and domains differ, or shapes do not
      fit.

  Examples:
    >>> strong = jnp.zeros((2, 2, 1, 2))
    >>> weak = jnp.array([[[0.0, 0.0]], [[0.0, 1e4]]])
    >>> print(dael_consistency_loss(strong, weak).ravel())
    [0.  0.5]

  References:
    Zhou et al., `Domain adaptive ensemble learning
    <https://arxiv.org/abs/2003.07325>`_, 2021.
  """
  target = ops.softened_softmax(weak_logits)
  if stop_teacher_gradient:
    target = jax.lax.stop_gradient(target)
  predictions = ops.softened_softmax(strong_logits)
  domains = predictions.shape[0]
  if domains == 1:
    return jnp.zeros(target.shape[:2], target.dtype)
  others = 1 - jnp.eye(domains, dtype=predictions.dtype)
  others = others[:, :, None, None] / (domains - 1)
  ensemble = jnp.sum(others * predictions, 1)
  return jnp.sum(jnp.square(ensemble - target), -1)
