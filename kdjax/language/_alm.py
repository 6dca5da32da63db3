"""Approximate likelihood matching (ALM), over aligned chunks of text."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Integer

from kdjax import ops


@ops.validate
def alm_loss(
  student_log_probs: Float[Array, "batch chunks"],
  teacher_log_probs: Float[Array, "batch chunks"],
  *,
  temperature: ArrayLike = 100.0,
  stop_teacher_gradient: bool = True,
) -> Float[Array, "batch chunks"]:
  r"""Approximate likelihood matching (ALM): of aligned chunks of text.

  .. math::
    \ell = - p^T \log p^S - (1 - p^T) \log (1 - p^S), \qquad
    p = e^{x / \tau - 10^{-6}}

  where x is the log-likelihood of a chunk: the sum of the log-probabilities of
  its tokens. Both models may have tokenizers of their own, if their chunks have
  the same bytes (`align_bytes`, `chunk_log_probs`).

  Args:
    student_log_probs: `[batch, chunks]`, at most 0.
    teacher_log_probs: `[batch, chunks]`; they receive no gradient.
    temperature: tau > 0. May be traced.
    stop_teacher_gradient: False lets gradients reach the teacher.

  Returns:
    One value a chunk, in nats, without a factor tau. The loss is a
    cross-entropy: it is not 0 for equal likelihoods, where its gradient is 0.
    For an empty chunk (0 on both sides) the value is finite; mask it.

  Raises:
    ValueError: if shapes differ or a static temperature is not above 0.
    TypeError: if the log-probabilities are not floating-point.

  Examples:
    >>> log_probs = jnp.log(jnp.array([[0.5]]))
    >>> alm_loss(log_probs, log_probs, temperature=1.0)
    Array([[0.6931472]], dtype=float32)

  References:
    Minixhofer, Vulić and Ponti, `Universal cross-tokenizer distillation via
    approximate likelihood matching <https://arxiv.org/abs/2503.20083>`_, 2025,
    in the form of `tokenkit <https://github.com/bminixhofer/tokenkit>`_.
  """
  ops.check_positive("temperature", temperature)
  if stop_teacher_gradient:
    teacher_log_probs = jax.lax.stop_gradient(teacher_log_probs)
  dtype = jnp.promote_types(
    ops.compute_dtype(student_log_probs), ops.compute_dtype(teacher_log_probs)
  )
  scale = ops.as_number("temperature", temperature, dtype)
  # The authors' margin, without which 1 - p would be 0 for a certain chunk.
  student, teacher = (
    x.astype(dtype) / scale - 1e-6
    for x in (student_log_probs, teacher_log_probs)
  )
  return -jnp.exp(teacher) * student + jnp.expm1(teacher) * _log1mexp(student)


@ops.validate
def chunk_log_probs(
  log_probs: Float[Array, "batch length"],
  chunks: Integer[Array, "batch length"],
  *,
  num_chunks: int,
) -> tuple[Float[Array, "batch chunks"], Bool[Array, "batch chunks"]]:
  r"""Chunk log-likelihoods: sums of the tokens' log-probabilities.

  .. math:: x_k = \sum_{t : c_t = k} \log p(y_t \mid y_{<t})

  Args:
    log_probs: `[batch, length]`, the log-probability of each token.
    chunks: `[batch, length]`, the number of the chunk that a token belongs to
      (`align_bytes`); a negative number for a token in no chunk.
    num_chunks: the number of chunks, static.

  Returns:
    The log-likelihoods `[batch, chunks]`, 0 for chunks without tokens, and the
    mask `[batch, chunks]`, True for chunks with tokens.

  Raises:
    ValueError: if shapes differ or `num_chunks` is below 1.
    TypeError: if the chunks are not integers.

  Examples:
    >>> log_probs = jnp.array([[-1.0, -2.0, -4.0]])
    >>> chunk_log_probs(log_probs, jnp.array([[0, 0, 1]]), num_chunks=2)[0]
    Array([[-3., -4.]], dtype=float32)

  References:
    Minixhofer, Vulić and Ponti, `Universal cross-tokenizer distillation via
    approximate likelihood matching <https://arxiv.org/abs/2503.20083>`_, 2025,
    section 3.
  """
  ops.check_integer("num_chunks", num_chunks, 1)
  log_probs = log_probs.astype(ops.compute_dtype(log_probs))
  member = jax.nn.one_hot(chunks, num_chunks, dtype=bool)
  values = jnp.sum(jnp.where(member, log_probs[..., None], 0.0), 1)
  return values, jnp.any(member, 1)


def _log1mexp(x: Array) -> Array:
  """Returns log(1 - exp x) for x < 0, by whichever form keeps its digits."""
  near = x > -0.6931472  # log 2
  return jnp.where(
    near,
    jnp.log(-jnp.expm1(jnp.where(near, x, -1.0))),
    jnp.log1p(-jnp.exp(jnp.where(near, -1.0, x))),
  )
