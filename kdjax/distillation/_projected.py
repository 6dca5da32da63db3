"""Embeddings that a trained projector brings to the teacher's width."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from kdjax.distillation._feature_pairs import as_pair
from kdjax.distillation._feature_pairs import example_mean
from kdjax.ops._collectives import total
from kdjax.ops._validation import as_number
from kdjax.ops._validation import check_positive
from kdjax.ops._validation import validate


@validate
def srrl_loss(
  student_features: Float[Array, "batch *positions channels"],
  teacher_features: Float[Array, "batch *teacher_positions channels"],
  student_logits: Float[Array, "batch classes"],
  teacher_logits: Float[Array, "batch classes"],
  *,
  alpha: ArrayLike = 1.0,
  beta: ArrayLike = 1.0,
  stop_teacher_gradient: bool = True,
) -> Float[Array, " batch"]:
  r"""Softmax regression representation learning (SRRL).

  .. math::
    \ell = \alpha \operatorname{mean}_c (\bar F^S - \bar F^T)_c^2
         + \beta \operatorname{mean}_k (z^{ST} - z^T)_k^2

  where the bar is the mean over the positions, and z^{ST} are the logits that
  the teacher's classifier gives the student's pooled features.

  Args:
    student_features: the student's, connected to the teacher's channels.
    teacher_features: the teacher's; they receive no gradient.
    student_logits: the teacher's classifier on the student's features.
    teacher_logits: the teacher's own; they receive no gradient.
    alpha: weight of the features. May be traced.
    beta: weight of the logits. May be traced.
    stop_teacher_gradient: False lets gradients reach the teacher.

  Returns:
    One value an example. Published weight: 1 times the mean over the batch,
    beside the cross-entropy.

  Raises:
    ValueError: if batch, channels or classes differ.
    TypeError: if an argument is not floating-point.

  beta is 1 in the authors' code and SimKD's, 5 in cls_KD.

  Examples:
    >>> maps, logits = jnp.zeros((1, 2, 2, 3)), jnp.zeros((1, 5))
    >>> srrl_loss(maps, maps + 1.0, logits, logits + 2.0)
    Array([5.], dtype=float32)

  References:
    Yang, Martinez, Bulat and Tzimiropoulos, `Knowledge distillation via
    softmax regression representation learning
    <https://openreview.net/forum?id=ZzwDy_wiWv>`_, 2021.
  """
  student, teacher = (
    x.reshape(x.shape[0], -1, x.shape[-1]).mean(1)
    for x in as_pair(student_features, teacher_features, stop_teacher_gradient)
  )
  student_logits, teacher_logits = as_pair(
    student_logits, teacher_logits, stop_teacher_gradient
  )
  alpha = as_number("alpha", alpha, student.dtype)
  beta = as_number("beta", beta, student_logits.dtype)
  return alpha * example_mean(jnp.square(student - teacher)) + beta * (
    example_mean(jnp.square(student_logits - teacher_logits))
  )


@validate
def srd_loss(
  student_embeddings: Float[Array, "batch width"],
  teacher_embeddings: Float[Array, "batch width"],
  *,
  exponent: ArrayLike = 4.0,
  where: Bool[Array, " batch"] | None = None,
  axis_name: str | None = None,
  stop_teacher_gradient: bool = True,
) -> Float[Array, ""]:
  r"""Simple recipe distillation (SRD): the log of a high power's sum.

  .. math::
    \ell = 2 \log \Bigl( \epsilon + \sum_{bd} |s_{bd} - t_{bd}|^p \Bigr),
    \qquad \epsilon = 10^{-12}

  over the whole batch, with no average. Both sides come batch-normalised,
  without scale and bias, and the student's linearly projected before:
  :func:`kdjax.objectives.srd` does so.

  Args:
    student_embeddings: the student's, projected and normalised.
    teacher_embeddings: the teacher's, normalised; they receive no gradient.
    exponent: p. May be traced.
    where: which examples count.
    axis_name: the mapped axis that holds the rest of the batch.
    stop_teacher_gradient: False lets gradients reach the teacher.

  Returns:
    A scalar, -inf's place taken by -55.3 where student and teacher agree; 0
    with gradient 0 if nothing counts. Published weight: 1, beside the
    cross-entropy and the KL divergence at temperature 1.

  Raises:
    ValueError: if the shapes differ or a static exponent is not above 0.
    TypeError: if the embeddings are not floating-point.

  Differs from the published code: epsilon, without which equal embeddings
  have no finite loss (the authors' code for DeiT has 1e-5 there, the one for
  ImageNet's ResNets and torchdistill's have none).

  Examples:
    >>> srd_loss(jnp.array([[0.0, 1.0]]), jnp.array([[1.0, 0.0]])).round(4)
    Array(1.3863, dtype=float32)

  References:
    Miles and Mikolajczyk, `Understanding the role of the projector in
    knowledge distillation <https://arxiv.org/abs/2303.11098>`_, 2024.
  """
  check_positive("exponent", exponent)
  student, teacher = as_pair(
    student_embeddings, teacher_embeddings, stop_teacher_gradient
  )
  if where is None:
    where = jnp.ones(student.shape[:1], bool)
  exponent = as_number("exponent", exponent, student.dtype)
  sizes = jnp.abs(jnp.where(where[:, None], student - teacher, 0.0))
  zero = sizes == 0
  powers = jnp.where(
    zero, 0.0, jnp.power(jnp.where(zero, 1.0, sizes), exponent)
  )
  summed, counted = total((jnp.sum(powers), jnp.sum(where)), axis_name)
  return jnp.where(counted > 0, 2 * jnp.log(summed + 1e-12), 0.0)


@validate
def vkd_loss(
  student_embeddings: Float[Array, "batch width"],
  teacher_embeddings: Float[Array, "batch width"],
  *,
  stop_teacher_gradient: bool = True,
) -> Float[Array, " batch"]:
  r"""VkD: smooth L1 between projected and layer-normalised embeddings.

  .. math::
    \ell = \operatorname{mean}_d \operatorname{smooth}_{L_1} \left(
      s_d - \frac{t_d - \mu(t)}{\sqrt{\sigma^2(t) + 10^{-5}}} \right)

  Args:
    student_embeddings: the student's pooled features under an orthogonal
      projection, see :func:`kdjax.objectives.vkd`.
    teacher_embeddings: the teacher's pooled features; they are normalised
      here and receive no gradient.
    stop_teacher_gradient: False lets gradients reach the teacher.

  Returns:
    One value an example. Published weight: 1 times the mean over the batch,
    beside the cross-entropy and the KL divergence of a distillation token.

  Raises:
    ValueError: if the shapes differ.
    TypeError: if the embeddings are not floating-point.

  Examples:
    >>> teacher = jnp.array([[1.0, -1.0]])
    >>> vkd_loss(jnp.array([[3.0, -1.0]]), teacher)
    Array([0.75...], dtype=float32)

  References:
    Miles, Elezi and Deng, `VkD: improving knowledge distillation using
    orthogonal projections <https://arxiv.org/abs/2403.06213>`_, 2024.
  """
  student, teacher = as_pair(
    student_embeddings, teacher_embeddings, stop_teacher_gradient
  )
  mean = jnp.mean(teacher, -1, keepdims=True)
  variance = jnp.mean(jnp.square(teacher - mean), -1, keepdims=True)
  gap = jnp.abs(student - (teacher - mean) * jax.lax.rsqrt(variance + 1e-5))
  near = jnp.minimum(gap, 1.0)
  return example_mean(0.5 * jnp.square(near) + (gap - near))
