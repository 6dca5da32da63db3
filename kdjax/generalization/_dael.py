"""DAEL: an expert a domain, and their agreement."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from kdjax.ops import as_number
from kdjax.ops import check_labels
from kdjax.ops import check_positive
from kdjax.ops import mask_unknown_labels
from kdjax.ops import softened_softmax
from kdjax.ops import validate


@validate
def dael_expert_loss(
  logits: Float[Array, "*batch classes"],
  labels: Int[Array, "*batch"],
  *,
  eps: ArrayLike = 1e-5,
) -> Float[Array, "*batch"]:
  r"""DAEL's expert loss: the cross-entropy of a domain's own expert.

  .. math:: \ell = -\log(q_y + \epsilon)

  Args:
    logits: `[*batch, classes]`, of the expert of the example's domain on its
      weakly augmented view.
    labels: `[*batch]`, integers.
    eps: bounds the loss, at 11.5. May be traced.

  Returns:
    One value an example. Published weight: 1.

  Raises:
    ValueError: if shapes do not fit or a static `eps` is not above 0.

  Examples:
    >>> dael_expert_loss(jnp.array([[-1e4, 0.0]]), jnp.array([0]))
    Array([11.512925], dtype=float32)

  References:
    Zhou et al., `Domain adaptive ensemble learning
    <https://arxiv.org/abs/2003.07325>`_, 2021.
  """
  check_positive("eps", eps)
  given, labels = labels, check_labels(labels, logits.shape[-1])
  probabilities = softened_softmax(logits)
  own = jnp.take_along_axis(probabilities, labels[..., None], axis=-1)[..., 0]
  values = -jnp.log(own + as_number("eps", eps, own.dtype))
  return mask_unknown_labels(values, given, logits.shape[-1])


@validate
def dael_consistency_loss(
  strong_logits: Float[Array, "domains domains batch classes"],
  weak_logits: Float[Array, "domains batch classes"],
  *,
  stop_teacher_gradient: bool = True,
) -> Float[Array, "domains batch"]:
  r"""DAEL-DG's consistency loss: non-experts together equal the expert.

  .. math::
    \ell_{di} = \Bigl\lVert \operatorname*{mean}_{e \ne d}
      q^e(x^\text{strong}_{di})
      - \operatorname{sg}\bigl[q^d(x^\text{weak}_{di})\bigr] \Bigr\rVert_2^2

  Args:
    strong_logits: `[domains, experts, batch, classes]`, all experts (as many as
      domains) on each domain's strongly augmented examples.
    weak_logits: `[domains, batch, classes]`, of each domain's own expert on its
      weakly augmented examples; the target, without gradient.
    stop_teacher_gradient: False lets gradients reach the target.

  Returns:
    One value an example, `[domains, batch]`: a sum over classes. Published
    weight: 1 times the mean (Dassl), beside `dael_expert_loss`. At test
    time the experts' probabilities are averaged. 0 for a single domain.

  Raises:
    ValueError: if there are not as many experts as domains, or shapes do not
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
  target = softened_softmax(weak_logits)
  if stop_teacher_gradient:
    target = jax.lax.stop_gradient(target)
  predictions = softened_softmax(strong_logits)
  domains = predictions.shape[0]
  if domains == 1:
    return jnp.zeros(target.shape[:2], target.dtype)
  others = 1 - jnp.eye(domains, dtype=predictions.dtype)
  others = others[:, :, None, None] / (domains - 1)
  ensemble = jnp.sum(others * predictions, 1)
  return jnp.sum(jnp.square(ensemble - target), -1)
