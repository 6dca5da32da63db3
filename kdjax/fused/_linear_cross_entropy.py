"""Cross-entropy from hidden states, alone or beside a divergence."""

import jax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Integer

from kdjax import ops
from kdjax.fused._divergences import DenseCriterion, Divergence, as_divergence
from kdjax.fused._fused_linear_divergence import as_sides
from kdjax.fused._label_criterion import BothCriterion, LabelCriterion
from kdjax.fused._linear_head import Head, as_linear
from kdjax.fused._linear_values import linear_values, result_dtype


@ops.validate
def linear_cross_entropy(
  hidden: Float[Array, "*tokens width"],
  head: Head | ArrayLike,
  labels: Integer[Array, "*tokens"],
  *,
  where: Bool[Array, "*tokens"] | None = None,
  weights: Float[Array, "*tokens"] | None = None,
  vocab_size: int | None = None,
  vocab_axis_name: str | None = None,
  chunk_size: int | None = None,
  implementation: str | None = None,
) -> Float[Array, "*tokens"]:
  r"""Linear cross-entropy: from hidden states and a head.

  .. math:: \ell = \log \sum_c e^{z_c} - z_y, \qquad z = \mathrm{head}(h)

  The logits are never in memory for all tokens, as in
  `fused_linear_divergence`. They are float32 even if hidden states and head are
  bfloat16. The function has reverse-mode derivatives only.

  Args:
    hidden: `[*tokens, width]`.
    head: `[vocab, width]`, or a `Head`.
    labels: integers `[*tokens]` in [0, vocab). There is no shift inside:
      `kdjax.language.next_token_targets` returns labels and mask.
    where: `[*tokens]`, True for the tokens in the loss; None takes all. Other
      tokens have value 0 and gradient 0, whatever label they have.
    weights: `[*tokens]`, factors of the tokens' values; they receive no
      gradient. Prefer `where` and `weights` to a mask and factors applied to
      the result: the gradient of a sum of the values then computes the logits
      only once.
    vocab_size: the number of classes; further rows of the head are padding, cut
      before the softmax. By default all rows are classes.
    vocab_axis_name: the axis of `jax.shard_map` (with its default checks) over
      which the head is sharded, in equal parts. All other arrays are replicated
      over the axis. `vocab_size` and the labels count the classes of all
      devices.
    chunk_size: the number of tokens computed at a time; by default as many as
      take 512 MiB of logits, on a CPU 4 MiB.
    implementation: "xla" for all tokens at once (the dense form), "chunked" for
      a scan over chunks of tokens; by default chosen by size.

  Returns:
    One value a token, in nats; float32 for half-precision arguments. A label
    outside [0, vocab) gives NaN, without gradient, unless `where` masks it.

  Raises:
    ValueError: if shapes differ, `vocab_size` exceeds the vocabulary, or the
      implementation is unknown.
    TypeError: if the labels are not integers or other arrays not
      floating-point.

  Examples:
    >>> hidden, head = jnp.zeros((2, 3)), jnp.ones((4, 3))
    >>> linear_cross_entropy(hidden, head, jnp.array([0, 3]))
    Array([1.3862944, 1.3862944], dtype=float32)

  References:
    Wijmans et al., `Cut your losses in large-vocabulary language models
    <https://arxiv.org/abs/2411.09009>`_, 2025.
  """
  student = as_linear("student", hidden, head)
  devices = 1 if vocab_axis_name is None else jax.lax.axis_size(vocab_axis_name)
  vocab = devices * student.head.weight.shape[0]
  if vocab_size is None:
    vocab_size = vocab
  ops.check_integer("vocab_size", vocab_size, 1)
  if vocab_size > vocab:
    raise ValueError(
      f"vocab_size is {vocab_size}; expected at most {vocab}, the rows of the "
      "head."
    )
  (values,) = linear_values(
    "linear_cross_entropy",
    LabelCriterion(vocab_axis_name, vocab_size),
    student,
    None,
    tokens=labels.shape,
    vocab_size=vocab_size,
    temperature=1.0,
    shares=(),
    where=where,
    weights=weights,
    stop_teacher_gradient=True,
    chunk_size=chunk_size,
    implementation=implementation,
    labels=labels.reshape(-1),
  )
  return values


@ops.validate
def linear_distillation(
  student_hidden: Float[Array, "*tokens student_width"],
  student_head: Head | ArrayLike,
  teacher_hidden: Float[Array, "*tokens teacher_width"],
  teacher_head: Head | ArrayLike | None,
  labels: Integer[Array, "*tokens"],
  *,
  divergence: str | Divergence = "forward_kl",
  temperature: ArrayLike = 1.0,
  divergence_weight: ArrayLike = 1.0,
  cross_entropy_weight: ArrayLike = 1.0,
  where: Bool[Array, "*tokens"] | None = None,
  weights: Float[Array, "*tokens"] | None = None,
  vocab_size: int | None = None,
  stop_teacher_gradient: bool = True,
  vocab_axis_name: str | None = None,
  chunk_size: int | None = None,
  implementation: str | None = None,
) -> tuple[Float[Array, "*tokens"], Float[Array, "*tokens"]]:
  r"""Linear distillation: a divergence and the cross-entropy in one pass.

  .. math::
    d = w_d \, D(P, Q), \qquad
    \ell = w_\ell \left( \log \sum_c e^{z^S_c} - z^S_y \right)

  with `fused_linear_divergence` for D, at the temperature, and
  `linear_cross_entropy` at temperature 1. The student's logits and the gradient
  by them are computed once for both, in chunks of tokens. The function has
  reverse-mode derivatives only.

  Args:
    student_hidden: `[*tokens, student_width]`.
    student_head: `[vocab, student_width]`, or a `Head`.
    teacher_hidden: `[*tokens, teacher_width]`, or the teacher's logits
      `[*tokens, vocab]` if its head is None.
    teacher_head: `[vocab, teacher_width]`, a `Head`, or None.
    labels: integers `[*tokens]` in [0, vocab). There is no shift inside:
      `kdjax.language.next_token_targets` returns labels and mask.
    divergence: its name, or a `Divergence` with its share.
    temperature: T > 0 of the divergence; a number, or one a token. It may be
      traced and receives no gradient.
    divergence_weight: w_d, a factor of the first result, such as alpha T^2. It
      may be traced and receives no gradient.
    cross_entropy_weight: the factor of the second result, such as 1 - alpha.
      Prefer both weights to factors applied to the results: the gradient of the
      sum of both results then computes the logits only once; other factors cost
      three more products of the student's size.
    where: `[*tokens]`, True for the tokens in the loss; None takes all. Other
      tokens have value 0 and gradient 0.
    weights: `[*tokens]`, factors of both values of the tokens; they receive no
      gradient.
    vocab_size: the number of classes, as for `fused_linear_divergence`.
    stop_teacher_gradient: False lets gradients reach the teacher.
    vocab_axis_name: the axis of `jax.shard_map` (with its default checks) over
      which both vocabularies are sharded, in equal parts.
    chunk_size: the number of tokens computed at a time.
    implementation: "xla" or "chunked"; by default chosen by size.

  Returns:
    The divergence and the cross-entropy, one value a token each, in nats,
    without a T^2 factor. A label outside [0, vocab) gives a cross-entropy of
    NaN, without gradient, unless `where` masks it.

  Raises:
    ValueError: if shapes differ, a static temperature is not above 0, a static
      share is outside [0, 1], `vocab_size` exceeds a vocabulary or is missing
      for vocabularies whose sizes no padding explains, or the divergence or the
      implementation is unknown.
    TypeError: if the labels are not integers or other arrays not
      floating-point.

  Examples:
    >>> hidden, head = jnp.zeros((2, 3)), jnp.ones((4, 3))
    >>> divergence, cross_entropy = linear_distillation(
    ...   hidden, head, hidden, head, jnp.array([0, 3])
    ... )
    >>> divergence.tolist(), cross_entropy.round(3).tolist()
    ([0.0, 0.0], [1.3860000371932983, 1.3860000371932983])

  References:
    Hsu et al., `Liger kernel: efficient Triton kernels for LLM training
    <https://arxiv.org/abs/2410.10989>`_, 2024; Wijmans et al., `Cut your losses
    in large-vocabulary language models <https://arxiv.org/abs/2411.09009>`_,
    2025.
  """
  student, teacher, vocab_size = as_sides(
    "linear_distillation",
    student_hidden,
    student_head,
    teacher_hidden,
    teacher_head,
    vocab_size,
    vocab_axis_name,
  )
  dtype = result_dtype((student, teacher))
  name, shares = as_divergence(divergence, dtype)
  factors = tuple(
    jax.lax.stop_gradient(ops.as_number(f"{key}_weight", value, dtype))
    for key, value in (
      ("divergence", divergence_weight),
      ("cross_entropy", cross_entropy_weight),
    )
  )
  first, second = linear_values(
    "linear_distillation",
    BothCriterion(
      DenseCriterion(name, vocab_axis_name),
      LabelCriterion(vocab_axis_name, vocab_size),
    ),
    student,
    teacher,
    tokens=labels.shape,
    vocab_size=vocab_size,
    temperature=temperature,
    shares=(*shares, *factors),
    where=where,
    weights=weights,
    stop_teacher_gradient=stop_teacher_gradient,
    chunk_size=chunk_size,
    implementation=implementation,
    labels=labels.reshape(-1),
  )
  return first, second
