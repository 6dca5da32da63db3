"""The targets of a causal language model; no other function shifts tokens."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Integer

from kdjax import ops


@ops.validate
def next_token_targets(
  tokens: Integer[Array, "batch length"],
  where: Bool[Array, "batch length"] | None = None,
  *,
  attention_mask: Bool[Array, "batch length"]
  | Integer[Array, "batch length"]
  | None = None,
) -> tuple[Integer[Array, "batch length"], Bool[Array, "batch length"]]:
  r"""Next-token targets: labels and mask for the logits of each position.

  .. math:: y_t = x_{t+1}, \qquad m_t = w_{t+1} \wedge a_t

  The logits at position t are for token t + 1. The losses of this library do
  not shift. Call this function once, and pass its labels and its mask to every
  loss of the batch: cross-entropy, divergences from a teacher, and advantages.

  Args:
    tokens: `[batch, length]`, the tokens of the input. A negative token, such
      as -100, is not a target.
    where: `[batch, length]`, True for the tokens that the model learns to
      write, such as those of a completion; None takes all. The first token of a
      completion is a target, of the position before it.
    attention_mask: `[batch, length]`, True or 1 for tokens, False or 0 for
      padding; None takes all. Padding is neither a target nor a position with
      logits, so that the first token after padding on the left is not a target.

  Returns:
    The labels `[batch, length]`, 0 where there is no target, and the mask
    `[batch, length]`, True where there is one. The last position has none.

  Raises:
    ValueError: if shapes differ.
    TypeError: if the tokens are not integers.

  Examples:
    >>> labels, where = next_token_targets(jnp.array([[5, 6, 7, -100]]))
    >>> labels.tolist(), where.tolist()
    ([[6, 7, 0, 0]], [[True, True, False, False]])

  References:
    Radford et al., `Language models are unsupervised multitask learners
    <https://cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf>`_,
    2019, equation 1; the label -100 as in `transformers
    <https://github.com/huggingface/transformers>`_.
  """
  target = tokens >= 0
  if where is not None:
    target &= where
  if attention_mask is not None:
    attention_mask = attention_mask.astype(bool)
    target &= attention_mask
  shifted, valid = (
    jnp.pad(x[:, 1:], ((0, 0), (0, 1))) for x in (tokens, target)
  )
  if attention_mask is not None:
    valid &= attention_mask
  return jnp.where(valid, shifted, 0), valid


@ops.validate
def next_token_log_probs(
  log_probs: Float[Array, "batch length"],
) -> Float[Array, "batch length"]:
  r"""Next-token log-probabilities: those of the labels, at their positions.

  .. math:: s_t = \log p(x_{t+1} \mid x_{\le t})

  `kdjax.nets.generate` returns the log-probability of each token at the place
  of the token. The losses of this library read it where the label is, one
  position earlier, as `next_token_targets` has the labels: it is the batch's
  `"sampling_log_prob"` of the methods of a student's own text.

  Args:
    log_probs: `[batch, length]`, of each token, at its own place.

  Returns:
    `[batch, length]`, of the label of each position; 0 at the last position.

  Raises:
    ValueError: if the array has another number of axes.
    TypeError: if it is not floating-point.

  Examples:
    >>> next_token_log_probs(jnp.array([[0.0, -1.0, -2.0]]))
    Array([[-1., -2.,  0.]], dtype=float32)

  References:
    Gu et al., `MiniLLM: knowledge distillation of large language models
    <https://arxiv.org/abs/2306.08543>`_, 2024.
  """
  return jnp.pad(log_probs[:, 1:], ((0, 0), (0, 1)))
