"""On-policy distillation: policy gradients on the student's own text."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from kdjax import ops


@ops.validate
def token_reverse_kl_advantages(
  student_log_probs: Float[Array, "*batch length"],
  teacher_log_probs: Float[Array, "*batch length"],
) -> Float[Array, "*batch length"]:
  r"""Reverse-KL advantages: of the sampled tokens (on-policy distillation).

  .. math:: A_t = \log p_T(y_t \mid y_{<t}) - \log p_S(y_t \mid y_{<t})

  The mean over the student's samples is minus the reverse KL divergence. The
  advantages are also MiniLLM's rewards.

  Args:
    student_log_probs: `[*batch, length]`, log-probabilities of the tokens under
      the student that sampled them.
    teacher_log_probs: `[*batch, length]`, of the same tokens under the teacher.

  Returns:
    One value a token, without gradient, for `policy_gradient_loss`.

  Raises:
    ValueError: if shapes differ.
    TypeError: if the log-probabilities are not floating-point.

  Examples:
    >>> token_reverse_kl_advantages(jnp.array([-1.0]), jnp.array([-3.0]))
    Array([-2.], dtype=float32)

  References:
    Lu and Thinking Machines Lab, `On-policy distillation
    <https://thinkingmachines.ai/blog/on-policy-distillation/>`_, 2025.
  """
  dtype = jnp.promote_types(
    ops.compute_dtype(student_log_probs), ops.compute_dtype(teacher_log_probs)
  )
  return jax.lax.stop_gradient(
    teacher_log_probs.astype(dtype) - student_log_probs.astype(dtype)
  )


@ops.validate
def minillm_advantages(
  rewards: Float[Array, "batch length"],
  where: Bool[Array, "batch length"] | None = None,
  *,
  discount: ArrayLike = 0.95,
  axis_name: str | None = None,
) -> Float[Array, "batch length"]:
  r"""MiniLLM advantages: whitened returns, normalized by length.

  .. math::
    R_t = \frac{1}{n - t} \sum_{s \ge t} \gamma^{s - t} r_s, \qquad
    A_t = \frac{R_t - \bar R}{\sqrt{\mathrm{Var}(R) + 10^{-8}}}

  with n the number of the valid tokens of a text, and mean and variance over
  the valid tokens of the batch.

  Args:
    rewards: `[batch, length]`, such as `token_reverse_kl_advantages`.
    where: `[batch, length]`, True for the valid tokens, which must be a run
      without gaps; None takes all.
    discount: gamma in [0, 1].
    axis_name: the mapped axis over which the batch is split.

  Returns:
    One value a token, 0 where masked, without gradient.

  Raises:
    ValueError: if shapes differ or a static discount is outside [0, 1].
    TypeError: if the rewards are not floating-point.

  The published code also counts padding in the mean and the variance, and
  divides the variance by the number of tokens minus 1. Here both are means over
  the valid tokens.

  Examples:
    >>> minillm_advantages(jnp.array([[1.0, 3.0]]), discount=0.0)
    Array([[-1.,  1.]], dtype=float32)

  References:
    Gu et al., `MiniLLM: knowledge distillation of large language models
    <https://arxiv.org/abs/2306.08543>`_, 2024, equation 7.
  """
  rewards = rewards.astype(ops.compute_dtype(rewards))
  valid = jnp.ones(rewards.shape, bool) if where is None else where
  rewards = ops.zero_masked(rewards, valid)
  gamma = ops.as_fraction("discount", discount, rewards.dtype)

  def step(later: Array, reward: Array) -> tuple[Array, Array]:
    value = reward + gamma * later
    return value, value

  _, returns = jax.lax.scan(
    step, jnp.zeros_like(rewards[:, 0]), rewards.T, reverse=True
  )
  left = jnp.cumsum(valid[:, ::-1], 1)[:, ::-1]
  returns = returns.T / jnp.maximum(left, 1).astype(rewards.dtype)
  mean = ops.masked_mean(returns, valid, axis_name=axis_name)
  variance = ops.masked_mean(
    jnp.square(returns - mean), valid, axis_name=axis_name
  )
  whitened = (returns - mean) * jax.lax.rsqrt(variance + 1e-8)
  return jax.lax.stop_gradient(jnp.where(valid, whitened, 0.0))


@ops.validate
def policy_gradient_loss(
  student_log_probs: Float[Array, "*batch length"],
  sampling_log_probs: Float[Array, "*batch length"],
  advantages: Float[Array, "*batch length"],
  *,
  weights: Float[Array, "*batch length"] | None = None,
  clip: ArrayLike | None = 0.2,
) -> Float[Array, "*batch length"]:
  r"""Policy-gradient loss (MiniLLM): a clipped ratio times the advantage.

  .. math::
    \ell_t = - \min(\rho_t A_t, \,
             \mathrm{clip}(\rho_t, 1 - \epsilon, 1 + \epsilon) A_t), \qquad
    \rho_t = w_t \, \frac{p_S(y_t)}{p_\mathrm{old}(y_t)}

  Args:
    student_log_probs: `[*batch, length]`, log-probabilities of the sampled
      tokens under the student that is trained.
    sampling_log_probs: `[*batch, length]`, under the student that sampled them;
      they receive no gradient.
    advantages: `[*batch, length]`; they receive no gradient.
    weights: `[*batch, length]`, importance weights (`teacher_mixed_weights`);
      None for 1. They receive no gradient.
    clip: epsilon in [0, 1]; None does not clip, which with no weights is the
      loss of on-policy distillation.

  Returns:
    One value a token. Take `kdjax.ops.masked_mean` over the valid tokens.

  Raises:
    ValueError: if shapes differ or a static clip is outside [0, 1].
    TypeError: if an argument is not floating-point.

  Examples:
    >>> log_probs = jnp.array([-1.0, -2.0])
    >>> policy_gradient_loss(log_probs, log_probs, jnp.array([1.0, -2.0]))
    Array([-1.,  2.], dtype=float32)

  References:
    Gu et al., `MiniLLM: knowledge distillation of large language models
    <https://arxiv.org/abs/2306.08543>`_, 2024; Schulman et al., `Proximal
    policy optimization algorithms <https://arxiv.org/abs/1707.06347>`_, 2017.
  """
  student_log_probs = student_log_probs.astype(
    ops.compute_dtype(student_log_probs)
  )
  dtype = student_log_probs.dtype
  sampling, advantages = jax.lax.stop_gradient(
    (sampling_log_probs.astype(dtype), advantages.astype(dtype))
  )
  ratio = jnp.exp(student_log_probs - sampling)
  if weights is not None:
    ratio *= jax.lax.stop_gradient(weights.astype(dtype))
  if clip is None:
    return -ratio * advantages
  epsilon = ops.as_fraction("clip", clip, dtype)
  clipped = jnp.clip(ratio, 1 - epsilon, 1 + epsilon)
  return -ops.at_most(ratio * advantages, clipped * advantages)


@ops.validate
def teacher_mixed_log_probs(
  student_logits: Float[Array, "*batch vocab"],
  teacher_logits: Float[Array, "*batch vocab"],
  *,
  teacher_share: ArrayLike = 0.2,
) -> Float[Array, "*batch vocab"]:
  r"""Teacher-mixed sampling (MiniLLM): log-probabilities to sample from.

  .. math:: \tilde p = \alpha \, p_T + (1 - \alpha) \, p_S

  Without the mixture, the student may earn high rewards for text without
  meaning. `teacher_mixed_weights` corrects for the mixture.

  Args:
    student_logits: `[*batch, vocab]`.
    teacher_logits: `[*batch, vocab]`.
    teacher_share: alpha in [0, 1]. May be traced.

  Returns:
    `[*batch, vocab]`, without gradient; logits of `jax.random.categorical`.

  Raises:
    ValueError: if shapes differ or a static share is outside [0, 1].
    TypeError: if the logits are not floating-point.

  Examples:
    >>> logits = jnp.array([0.0, 1e4])
    >>> jnp.exp(teacher_mixed_log_probs(logits, -logits, teacher_share=0.5))
    Array([0.5, 0.5], dtype=float32)

  References:
    Gu et al., `MiniLLM: knowledge distillation of large language models
    <https://arxiv.org/abs/2306.08543>`_, 2024, section 2.2.
  """
  student, teacher = (
    ops.log_softened_softmax(x) for x in (student_logits, teacher_logits)
  )
  return jax.lax.stop_gradient(_mixture(student, teacher, teacher_share))


@ops.validate
def teacher_mixed_weights(
  student_log_probs: Float[Array, "*batch length"],
  teacher_log_probs: Float[Array, "*batch length"],
  *,
  teacher_share: ArrayLike = 0.2,
) -> Float[Array, "*batch length"]:
  r"""Importance weights (MiniLLM): of tokens from teacher-mixed sampling.

  .. math:: w_t = \frac{p_S(y_t)}{\alpha p_T(y_t) + (1 - \alpha) p_S(y_t)}

  Args:
    student_log_probs: `[*batch, length]`, of the sampled tokens.
    teacher_log_probs: `[*batch, length]`.
    teacher_share: alpha in [0, 1]. May be traced.

  Returns:
    One value a token, in [0, 1 / (1 - alpha)], without gradient.

  Raises:
    ValueError: if shapes differ or a static share is outside [0, 1].
    TypeError: if the log-probabilities are not floating-point.

  As in the paper, the weight of a token leaves out the weights of the tokens
  before it, which would have a large variance.

  Examples:
    >>> equal = jnp.array([-1.0])
    >>> teacher_mixed_weights(equal, equal)
    Array([1.], dtype=float32)

  References:
    Gu et al., `MiniLLM: knowledge distillation of large language models
    <https://arxiv.org/abs/2306.08543>`_, 2024, section 2.2.
  """
  student, teacher = (
    x.astype(ops.compute_dtype(x))
    for x in (student_log_probs, teacher_log_probs)
  )
  mixture = _mixture(student, teacher, teacher_share)
  return jax.lax.stop_gradient(jnp.exp(student - mixture))


def _mixture(student: Array, teacher: Array, teacher_share: ArrayLike) -> Array:
  dtype = jnp.promote_types(student.dtype, teacher.dtype)
  share = ops.as_fraction("teacher_share", teacher_share, dtype)
  return jnp.logaddexp(jnp.log(share) + teacher, jnp.log1p(-share) + student)
