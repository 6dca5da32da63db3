"""Divergences other than forward KL, without a T^2 factor.

P is the teacher's softened softmax and Q the student's.
"""

from jax.typing import ArrayLike
from jaxtyping import Array, Float

from kdjax import ops
from kdjax.distillation._inputs import teacher_side
from kdjax.distillation.logits._mixtures import mix


@ops.validate
def reverse_kl_loss(
  student_logits: Float[Array, "*batch classes"],
  teacher_logits: Float[Array, "*batch classes"],
  *,
  temperature: ArrayLike = 1.0,
  stop_teacher_gradient: bool = True,
) -> Float[Array, "*batch"]:
  r"""Reverse Kullback-Leibler divergence: the student covers one mode.

  .. math:: \ell = \mathrm{KL}(Q \Vert P)

  Args:
    student_logits: `[*batch, classes]`.
    teacher_logits: `[*batch, classes]`; they receive no gradient.
    temperature: T > 0; a number, or one per example. May be traced.
    stop_teacher_gradient: False lets gradients reach the teacher.

  Returns:
    One value an example, in nats, without a T^2 factor; inf, without a finite
    gradient, where a class has -inf on the teacher's side only. Mask the class
    on both sides, or use `skew_reverse_kl_loss`.

  Raises:
    ValueError: if the shapes differ or a static temperature is not above 0.
    TypeError: if the logits are not floating-point.

  Examples:
    >>> logits = jnp.array([[1.0, 2.0, 3.0]])
    >>> reverse_kl_loss(logits, logits)
    Array([0.], dtype=float32)

  References:
    Gu et al., `MiniLLM: knowledge distillation of large language models
    <https://arxiv.org/abs/2306.08543>`_, 2024.
  """
  teacher_logits = teacher_side(teacher_logits, stop_teacher_gradient)
  return ops.forward_kl(student_logits, teacher_logits, temperature)


@ops.validate
def symmetric_kl_loss(
  student_logits: Float[Array, "*batch classes"],
  teacher_logits: Float[Array, "*batch classes"],
  *,
  temperature: ArrayLike = 1.0,
  reverse_weight: ArrayLike = 0.5,
  stop_teacher_gradient: bool = True,
) -> Float[Array, "*batch"]:
  r"""Symmetric Kullback-Leibler divergence: both directions, averaged.

  .. math::
    \ell = (1 - w) \, \mathrm{KL}(P \Vert Q) + w \, \mathrm{KL}(Q \Vert P)

  Args:
    student_logits: `[*batch, classes]`.
    teacher_logits: `[*batch, classes]`; they receive no gradient.
    temperature: T > 0; a number, or one per example. May be traced.
    reverse_weight: w in [0, 1]; w = 0.5 gives half the Jeffreys divergence.
      DistiLLM's lambda of 0.9 is w; torchtune's ratio is 1 - w.
    stop_teacher_gradient: False lets gradients reach the teacher.

  Returns:
    One value an example, in nats, without a T^2 factor.

  Raises:
    ValueError: if the shapes differ, a static temperature is not above 0 or a
      static weight is outside [0, 1].
    TypeError: if the logits are not floating-point.

  Examples:
    >>> logits = jnp.array([[1.0, 2.0, 3.0]])
    >>> symmetric_kl_loss(logits, logits)
    Array([0.], dtype=float32)

  References:
    Jeffreys, `An invariant form for the prior probability in estimation
    problems <https://doi.org/10.1098/rspa.1946.0056>`_, 1946; as a distillation
    loss in Ko et al., `DistiLLM <https://arxiv.org/abs/2402.03898>`_, 2024.
  """
  teacher_logits = teacher_side(teacher_logits, stop_teacher_gradient)
  forward = ops.forward_kl(teacher_logits, student_logits, temperature)
  reverse = ops.forward_kl(student_logits, teacher_logits, temperature)
  return mix("reverse_weight", reverse_weight, reverse, forward)


@ops.validate
def generalized_jsd_loss(
  student_logits: Float[Array, "*batch classes"],
  teacher_logits: Float[Array, "*batch classes"],
  *,
  beta: ArrayLike = 0.5,
  temperature: ArrayLike = 1.0,
  stop_teacher_gradient: bool = True,
) -> Float[Array, "*batch"]:
  r"""Generalized Jensen-Shannon divergence (JSD).

  .. math::
    \ell = \beta \, \mathrm{KL}(P \Vert M) + (1 - \beta) \,
           \mathrm{KL}(Q \Vert M), \quad M = \beta P + (1 - \beta) Q

  Args:
    student_logits: `[*batch, classes]`.
    teacher_logits: `[*batch, classes]`; they receive no gradient.
    beta: the teacher's share of the mixture, in [0, 1]. The formula vanishes
      at both ends; by convention beta = 0 is the forward KL(P || Q) and
      beta = 1 the reverse KL(Q || P), the limits of the formula divided by
      beta and by 1 - beta. May be traced.
    temperature: T > 0; a number, or one per example. May be traced.
    stop_teacher_gradient: False lets gradients reach the teacher.

  Returns:
    One value an example, in nats, without a T^2 factor; at most log 2 for
    beta = 0.5.

  Raises:
    ValueError: if the shapes differ, a static temperature is not above 0 or a
      static beta is outside [0, 1].
    TypeError: if the logits are not floating-point.

  TRL and the paper have this definition; EasyDeL swaps the two ends and the
  mixture's weights.

  Examples:
    >>> far = jnp.array([[1e4, 0.0]])
    >>> generalized_jsd_loss(far, -far)
    Array([0.6931472], dtype=float32)

  References:
    Agarwal et al., `On-policy distillation of language models
    <https://arxiv.org/abs/2306.13649>`_, 2024.
  """
  teacher_logits = teacher_side(teacher_logits, stop_teacher_gradient)
  return ops.jensen_shannon(teacher_logits, student_logits, beta, temperature)


@ops.validate
def skew_kl_loss(
  student_logits: Float[Array, "*batch classes"],
  teacher_logits: Float[Array, "*batch classes"],
  *,
  skew: ArrayLike = 0.1,
  temperature: ArrayLike = 1.0,
  stop_teacher_gradient: bool = True,
) -> Float[Array, "*batch"]:
  r"""Skew Kullback-Leibler divergence (SKL).

  .. math:: \ell = \mathrm{KL}(P \Vert \lambda P + (1 - \lambda) Q)

  Args:
    student_logits: `[*batch, classes]`.
    teacher_logits: `[*batch, classes]`; they receive no gradient.
    skew: lambda in [0, 1]; 0 is the forward KL. May be traced.
    temperature: T > 0; a number, or one per example. May be traced.
    stop_teacher_gradient: False lets gradients reach the teacher.

  Returns:
    One value an example, in nats, at most -log(lambda).

  Raises:
    ValueError: if the shapes differ, a static temperature is not above 0 or a
      static skew is outside [0, 1].
    TypeError: if the logits are not floating-point.

  DistiLLM's value leaves out the teacher's entropy, which has no gradient.

  Examples:
    >>> far = jnp.array([[1e4, 0.0]])
    >>> skew_kl_loss(far, -far, skew=0.5)
    Array([0.6931472], dtype=float32)

  References:
    Ko et al., `DistiLLM: towards streamlined distillation for large language
    models <https://arxiv.org/abs/2402.03898>`_, 2024.
  """
  teacher_logits = teacher_side(teacher_logits, stop_teacher_gradient)
  return ops.skew_divergence(teacher_logits, student_logits, skew, temperature)


@ops.validate
def skew_reverse_kl_loss(
  student_logits: Float[Array, "*batch classes"],
  teacher_logits: Float[Array, "*batch classes"],
  *,
  skew: ArrayLike = 0.1,
  temperature: ArrayLike = 1.0,
  stop_teacher_gradient: bool = True,
) -> Float[Array, "*batch"]:
  r"""Skew reverse Kullback-Leibler divergence (SRKL).

  .. math:: \ell = \mathrm{KL}(Q \Vert (1 - \lambda) P + \lambda Q)

  Args:
    student_logits: `[*batch, classes]`.
    teacher_logits: `[*batch, classes]`; they receive no gradient.
    skew: lambda in [0, 1]; 0 is the reverse KL. May be traced.
    temperature: T > 0; a number, or one per example. May be traced.
    stop_teacher_gradient: False lets gradients reach the teacher.

  Returns:
    One value an example, in nats, at most -log(lambda).

  Raises:
    ValueError: if the shapes differ, a static temperature is not above 0 or a
      static skew is outside [0, 1].
    TypeError: if the logits are not floating-point.

  The gradient flows through Q inside the mixture, as in DistiLLM; DistiLLM-2
  stops that gradient.

  Examples:
    >>> far = jnp.array([[1e4, 0.0]])
    >>> skew_reverse_kl_loss(far, -far, skew=0.5)
    Array([0.6931472], dtype=float32)

  References:
    Ko et al., `DistiLLM: towards streamlined distillation for large language
    models <https://arxiv.org/abs/2402.03898>`_, 2024.
  """
  teacher_logits = teacher_side(teacher_logits, stop_teacher_gradient)
  return ops.skew_divergence(student_logits, teacher_logits, skew, temperature)


@ops.validate
def total_variation_loss(
  student_logits: Float[Array, "*batch classes"],
  teacher_logits: Float[Array, "*batch classes"],
  *,
  temperature: ArrayLike = 1.0,
  stop_teacher_gradient: bool = True,
) -> Float[Array, "*batch"]:
  r"""Total variation distance: half the L1 distance of the probabilities.

  .. math:: \ell = \tfrac{1}{2} \sum_c |P_c - Q_c|

  Args:
    student_logits: `[*batch, classes]`.
    teacher_logits: `[*batch, classes]`; they receive no gradient.
    temperature: T > 0; a number, or one per example. May be traced.
    stop_teacher_gradient: False lets gradients reach the teacher.

  Returns:
    One value an example, in [0, 1]; its gradient at P = Q is 0.

  Raises:
    ValueError: if the shapes differ or a static temperature is not above 0.
    TypeError: if the logits are not floating-point.

  Examples:
    >>> far = jnp.array([[1e4, 0.0]])
    >>> total_variation_loss(far, -far)
    Array([1.], dtype=float32)

  References:
    Wen et al., `f-divergence minimization for sequence-level knowledge
    distillation <https://arxiv.org/abs/2307.15190>`_, 2023.
  """
  teacher_logits = teacher_side(teacher_logits, stop_teacher_gradient)
  return ops.total_variation(student_logits, teacher_logits, temperature)
