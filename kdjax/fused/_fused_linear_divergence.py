"""Divergences from hidden states, without logits of all tokens."""

import jax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from kdjax import ops
from kdjax.fused._divergences import DenseCriterion, Divergence, as_divergence
from kdjax.fused._linear_head import Head, Linear, as_linear
from kdjax.fused._linear_values import linear_values, result_dtype


@ops.validate
def fused_linear_divergence(
  student_hidden: Float[Array, "*tokens student_width"],
  student_head: Head | ArrayLike,
  teacher_hidden: Float[Array, "*tokens teacher_width"],
  teacher_head: Head | ArrayLike | None,
  *,
  divergence: str | Divergence = "forward_kl",
  temperature: ArrayLike = 1.0,
  where: Bool[Array, "*tokens"] | None = None,
  weights: Float[Array, "*tokens"] | None = None,
  vocab_size: int | None = None,
  stop_teacher_gradient: bool = True,
  vocab_axis_name: str | None = None,
  chunk_size: int | None = None,
  implementation: str | None = None,
) -> Float[Array, "*tokens"]:
  r"""Fused linear divergence: from hidden states and heads.

  .. math::
    \ell = D(P, Q), \quad P = \mathrm{softmax}(z^T / T), \;
    Q = \mathrm{softmax}(z^S / T), \quad z = \mathrm{head}(h)

  where D is one of the divergences in `Divergence`. The logits are never in
  memory for all tokens. Memory beyond the arguments and their gradients does
  not grow with the number of tokens. Logits are float32 even if hidden states
  and heads are bfloat16. The function has reverse-mode derivatives only.

  Args:
    student_hidden: `[*tokens, student_width]`.
    student_head: `[vocab, student_width]`, or a `Head`.
    teacher_hidden: `[*tokens, teacher_width]`, or the teacher's logits
      `[*tokens, vocab]` if its head is None.
    teacher_head: `[vocab, teacher_width]`, a `Head`, or None.
    divergence: its name, or a `Divergence` with its share.
    temperature: T > 0; a number, or one a token. It may be traced and
      receives no gradient.
    where: `[*tokens]`, True for the tokens in the loss; None takes all. Other
      tokens have value 0 and gradient 0, even with NaN hidden states.
    weights: `[*tokens]`, factors of the tokens' values; they receive no
      gradient. Prefer `where` and `weights` to a mask and factors applied to
      the result: the gradient of a sum of the values then computes the logits
      only once.
    vocab_size: the number of classes; further rows of a head are padding, cut
      before the softmax. By default the smaller vocabulary, if the larger one
      has at most 64 rows or 1 % more.
    stop_teacher_gradient: False lets gradients reach the teacher.
    vocab_axis_name: the axis of `jax.shard_map` (with its default checks) over
      which both vocabularies are sharded, in equal parts. Hidden states are
      replicated over the axis. `vocab_size` is the number for all devices.
    chunk_size: the number of tokens computed at a time; by default as many as
      take 512 MiB of logits, on a CPU 4 MiB.
    implementation: "xla" for all tokens at once (the dense form), "chunked" for
      a scan over chunks of tokens; by default chosen by size.

  Returns:
    One value a token, in nats, without a T^2 factor; float32 for
    half-precision arguments.

  Raises:
    ValueError: if shapes differ, a static temperature is not above 0, a static
      share is outside [0, 1], `vocab_size` exceeds a vocabulary or is missing
      for vocabularies whose sizes no padding explains, or the divergence or the
      implementation is unknown.
    TypeError: if an array is not floating-point.

  Liger and TRL round logits to bfloat16 before the softmax, an error of 5 to 10
  % of the gradient, and Liger pads the smaller vocabulary's logits with zeros;
  this function does neither.

  Examples:
    >>> hidden, head = jnp.ones((2, 3)), jnp.eye(3)
    >>> fused_linear_divergence(hidden, head, hidden, Head(head, scale=2.0))
    Array([0., 0.], dtype=float32)

  References:
    Hsu et al., `Liger kernel: efficient Triton kernels for LLM training
    <https://arxiv.org/abs/2410.10989>`_, 2024; Wijmans et al., `Cut your losses
    in large-vocabulary language models <https://arxiv.org/abs/2411.09009>`_,
    2025.
  """
  student, teacher, vocab_size = as_sides(
    "fused_linear_divergence",
    student_hidden,
    student_head,
    teacher_hidden,
    teacher_head,
    vocab_size,
    vocab_axis_name,
  )
  dtype = result_dtype((student, teacher))
  name, shares = as_divergence(divergence, dtype)
  (values,) = linear_values(
    "fused_linear_divergence",
    DenseCriterion(name, vocab_axis_name),
    student,
    teacher,
    tokens=student_hidden.shape[:-1],
    vocab_size=vocab_size,
    temperature=temperature,
    shares=shares,
    where=where,
    weights=weights,
    stop_teacher_gradient=stop_teacher_gradient,
    chunk_size=chunk_size,
    implementation=implementation,
  )
  return values


def as_sides(
  function: str,
  student_hidden: Array,
  student_head: Head | ArrayLike,
  teacher_hidden: Array,
  teacher_head: Head | ArrayLike | None,
  vocab_size: int | None,
  vocab_axis_name: str | None,
) -> tuple[Linear, Linear | Array, int]:
  """Checks both sides; returns them and the number of classes."""
  student = as_linear("student", student_hidden, student_head)
  if teacher_head is None:
    teacher = teacher_hidden.reshape(-1, teacher_hidden.shape[-1])
    teacher_vocab = teacher.shape[-1]
  else:
    teacher = as_linear("teacher", teacher_hidden, teacher_head)
    teacher_vocab = teacher.head.weight.shape[0]
  student_vocab = student.head.weight.shape[0]
  largest = min(student_vocab, teacher_vocab)
  if vocab_axis_name is not None:
    if student_vocab != teacher_vocab:
      raise ValueError(
        f"{function}: the shards of the vocabularies have "
        f"{student_vocab} and {teacher_vocab} rows; expected equal shards over "
        f"{vocab_axis_name!r}."
      )
    largest *= jax.lax.axis_size(vocab_axis_name)
  if vocab_size is None:
    _check_padding(function, student_vocab, teacher_vocab)
    vocab_size = largest
  ops.check_integer("vocab_size", vocab_size, 1)
  if vocab_size > largest:
    raise ValueError(
      f"vocab_size is {vocab_size}; expected at most {largest}, the rows of "
      "the smaller head."
    )
  return student, teacher, vocab_size


def _check_padding(function: str, student: int, teacher: int) -> None:
  """Raises an error if padding cannot explain the difference in classes."""
  if not ops.padding_explains(*sorted((student, teacher))):
    raise ValueError(
      f"{function}: the student has {student} classes and the "
      f"teacher {teacher}, which no padding explains; expected equal numbers, "
      "or at most 64 or 1 % more. Pass teacher_head for a teacher's hidden "
      "states, or vocab_size for the number of common classes."
    )
