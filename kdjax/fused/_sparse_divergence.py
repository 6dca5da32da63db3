"""Divergences from teachers with some known classes a token."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Integer

from kdjax import ops
from kdjax.fused._fused_divergence import dense_values
from kdjax.fused._linear_head import Head, as_linear
from kdjax.fused._linear_values import linear_values
from kdjax.fused._sparse_teacher import Sparse, SparseCriterion

TAILS = ("bucket", "drop")
RENORMALIZE = ("none", "teacher", "both")


@ops.validate
def sparse_divergence(
  student_logits: Float[Array, "*tokens classes"],
  teacher_ids: Integer[Array, "*tokens known"],
  teacher_log_probs: Float[Array, "*tokens known"],
  *,
  teacher_weights: Float[Array, "*tokens known"] | None = None,
  tail: str = "bucket",
  renormalize: str = "none",
  temperature: ArrayLike = 1.0,
  where: Bool[Array, "*tokens"] | None = None,
  vocab_axis_name: str | None = None,
  chunk_size: int | None = None,
  implementation: str | None = None,
) -> Float[Array, "*tokens"]:
  r"""Sparse divergence: forward KL from a teacher's known classes.

  With I the known classes, P the teacher's probabilities and Q the student's
  softened softmax over all classes,

  .. math::
    \ell_{\mathrm{bucket}} = \sum_{i \in I} P_i \log \frac{P_i}{Q_i}
      + P_R \log \frac{P_R}{Q_R}, \quad
    \ell_{\mathrm{drop}} = \sum_{i \in I} w_i \log \frac{P_i}{Q_i}

  where the class R (the bucket) combines all unknown classes. The bucket form
  is a lower bound of the KL over all classes. Beyond the student's logits and
  their gradient, cost and memory are proportional to the number of known
  classes.

  Args:
    student_logits: `[*tokens, classes]`.
    teacher_ids: `[*tokens, known]`, in [0, classes). Distinct in each token,
      except where `tail` is "drop" and `renormalize` not "both".
    teacher_log_probs: `[*tokens, known]`, log-probabilities normalized over all
      classes, at the temperature; -inf for probability 0. They receive no
      gradient.
    teacher_weights: w, the weights of the known classes for "drop" without
      renormalization; by default their probabilities. See `sample_teacher`.
    tail: "bucket" for one class R of all unknown classes, "drop" to leave out
      the unknown classes.
    renormalize: for "drop": "teacher" normalizes the teacher's known
      probabilities to sum 1, which pushes the student's unknown classes to 0;
      "both" also normalizes the student's (as Tunix and MaxText), which gives
      the unknown classes no gradient; "none" normalizes neither.
    temperature: T > 0, of the student; a number, or one a token. It may be
      traced and receives no gradient.
    where: `[*tokens]`, True for the tokens in the loss; None takes all. Other
      tokens have value 0 and gradient 0.
    vocab_axis_name: the axis of `jax.shard_map` (with its default checks) over
      which the student's classes are sharded, in equal parts. The teacher's
      arrays are replicated over the axis; ids are those of the whole
      vocabulary.
    chunk_size: the number of tokens computed at a time.
    implementation: "xla" or "chunked"; by default chosen by size.

  Returns:
    One value a token, in nats, without a T^2 factor; float32 for
    half-precision logits. "drop" without renormalization may be negative.

  Raises:
    ValueError: if shapes differ, a static temperature is not above 0, there are
      more known classes than classes, the teacher is sharded over
      `vocab_axis_name`, or options contradict each other.
    TypeError: if the ids are not integers or other arrays not floating-point.

  Examples:
    >>> logits, ids = jnp.array([[0.0, 0.0, 0.0, 0.0]]), jnp.array([[2, 0]])
    >>> sparse_divergence(logits, ids, jnp.log(jnp.array([[0.25, 0.25]])))
    Array([0.], dtype=float32)

  References:
    Anshumann et al., `Sparse logit sampling: accelerating knowledge
    distillation in LLMs <https://arxiv.org/abs/2503.16870>`_, 2025, which
    compares the tails.
  """
  criterion, teacher = _as_sparse(
    teacher_ids,
    teacher_log_probs,
    teacher_weights,
    student_logits.shape[-1] * _devices(vocab_axis_name),
    tail,
    renormalize,
    vocab_axis_name,
  )
  return dense_values(
    "sparse_divergence",
    criterion,
    student_logits,
    teacher,
    dtype=ops.compute_dtype(student_logits),
    temperature=temperature,
    shares=(),
    where=where,
    stop_teacher_gradient=True,
    chunk_size=chunk_size,
    implementation=implementation,
  )


@ops.validate
def sparse_linear_divergence(
  student_hidden: Float[Array, "*tokens student_width"],
  student_head: Head | ArrayLike,
  teacher_ids: Integer[Array, "*tokens known"],
  teacher_log_probs: Float[Array, "*tokens known"],
  *,
  teacher_weights: Float[Array, "*tokens known"] | None = None,
  tail: str = "bucket",
  renormalize: str = "none",
  temperature: ArrayLike = 1.0,
  where: Bool[Array, "*tokens"] | None = None,
  weights: Float[Array, "*tokens"] | None = None,
  vocab_size: int | None = None,
  vocab_axis_name: str | None = None,
  chunk_size: int | None = None,
  implementation: str | None = None,
) -> Float[Array, "*tokens"]:
  r"""Sparse linear divergence: from a student's hidden states and head.

  The function is `sparse_divergence` of `z = head(h)`, in chunks of tokens as
  in `fused_linear_divergence`, so that the logits of all tokens are never in
  memory.

  Args:
    student_hidden: `[*tokens, student_width]`.
    student_head: `[vocab, student_width]`, or a `Head`.
    teacher_ids: `[*tokens, known]`, as for `sparse_divergence`.
    teacher_log_probs: `[*tokens, known]`.
    teacher_weights: `[*tokens, known]`, or None.
    tail: "bucket" or "drop".
    renormalize: "none", "teacher" or "both".
    temperature: T > 0; a number, or one a token. It may be traced and
      receives no gradient.
    where: `[*tokens]`, True for the tokens in the loss; None takes all.
    weights: `[*tokens]`, factors of the tokens' values; they receive no
      gradient. Prefer `where` and `weights` to a mask and factors applied to
      the result.
    vocab_size: the number of classes; further rows of the head are padding. By
      default all rows are classes.
    vocab_axis_name: the axis of `jax.shard_map` (with its default checks) over
      which the head is sharded, in equal parts. All other arrays are replicated
      over the axis. `vocab_size` is the number for all devices.
    chunk_size: the number of tokens computed at a time.
    implementation: "xla" or "chunked"; by default chosen by size.

  Returns:
    One value a token, in nats, without a T^2 factor.

  Raises:
    ValueError: if shapes differ, a static temperature is not above 0, there are
      more known classes than classes, the teacher is sharded over
      `vocab_axis_name`, or options contradict each other.
    TypeError: if the ids are not integers or other arrays not floating-point.

  Examples:
    >>> hidden, ids = jnp.zeros((1, 3)), jnp.array([[2, 0]])
    >>> log_probs = jnp.log(jnp.array([[0.25, 0.25]]))
    >>> sparse_linear_divergence(hidden, jnp.ones((4, 3)), ids, log_probs)
    Array([0.], dtype=float32)

  References:
    Anshumann et al., `Sparse logit sampling: accelerating knowledge
    distillation in LLMs <https://arxiv.org/abs/2503.16870>`_, 2025.
  """
  student = as_linear("student", student_hidden, student_head)
  vocab = student.head.weight.shape[0] * _devices(vocab_axis_name)
  if vocab_size is None:
    vocab_size = vocab
  ops.check_integer("vocab_size", vocab_size, 1)
  if vocab_size > vocab:
    raise ValueError(
      f"vocab_size is {vocab_size}; expected at most {vocab}, the rows of the "
      "head."
    )
  criterion, teacher = _as_sparse(
    teacher_ids,
    teacher_log_probs,
    teacher_weights,
    vocab_size,
    tail,
    renormalize,
    vocab_axis_name,
  )
  (values,) = linear_values(
    "sparse_linear_divergence",
    criterion,
    student,
    teacher,
    tokens=student_hidden.shape[:-1],
    vocab_size=vocab_size,
    temperature=temperature,
    shares=(),
    where=where,
    weights=weights,
    stop_teacher_gradient=True,
    chunk_size=chunk_size,
    implementation=implementation,
  )
  return values


def _as_sparse(
  ids: Array,
  log_probs: Array,
  weights: Array | None,
  classes: int,
  tail: str,
  renormalize: str,
  axis_name: str | None,
) -> tuple[SparseCriterion, Sparse]:
  """Checks the teacher's arrays and reshapes them to `[rows, known]`."""
  ops.check_choice("tail", tail, TAILS)
  ops.check_choice("renormalize", renormalize, RENORMALIZE)
  if tail == "bucket" and renormalize != "none":
    raise ValueError(
      f"renormalize is {renormalize!r}; expected 'none' for tail 'bucket', "
      "whose probabilities sum to 1 already."
    )
  if weights is not None and (tail, renormalize) != ("drop", "none"):
    raise ValueError(
      f"teacher_weights are given with tail {tail!r} and renormalize "
      f"{renormalize!r}; expected tail 'drop' and renormalize 'none'."
    )
  known = ids.shape[-1]
  if not known or (known > classes and (tail, renormalize) != ("drop", "none")):
    raise ValueError(
      f"teacher_ids has {known} known classes; expected 1 to {classes}."
    )
  known_ids = ops.check_labels(ids, classes, "teacher_ids")
  log_probs = jnp.where(known_ids == ids, log_probs, jnp.nan)
  teacher = Sparse(known_ids, log_probs, weights)
  for name, x in zip(teacher._fields, teacher, strict=True):
    if x is not None and axis_name in jax.typeof(x).manual_axis_type.varying:
      raise ValueError(
        f"teacher_{name} varies over {axis_name!r}; expected an array that "
        "`jax.shard_map` knows to be replicated over this axis."
      )
  teacher = jax.tree.map(lambda x: x.reshape(-1, known), teacher)
  return SparseCriterion(tail, renormalize, axis_name), teacher


def _devices(axis_name: str | None) -> int:
  """Returns the number of devices over which the classes are sharded."""
  return 1 if axis_name is None else jax.lax.axis_size(axis_name)
