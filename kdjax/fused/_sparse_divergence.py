"""Divergences from teachers of which only some classes are known."""

import jax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Integer

from kdjax.fused._fused_divergence import dense_values
from kdjax.fused._fused_linear_divergence import linear_values
from kdjax.fused._linear_head import Head
from kdjax.fused._linear_head import as_linear
from kdjax.fused._sparse_teacher import Sparse
from kdjax.fused._sparse_teacher import SparseCriterion
from kdjax.ops import check_choice
from kdjax.ops import check_integer
from kdjax.ops import check_labels
from kdjax.ops import compute_dtype
from kdjax.ops import validate

TAILS = ("bucket", "drop")
RENORMALIZE = ("none", "teacher", "both")


@validate
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

  where R is all the rest as one class. The bucket is a lower bound of the KL of
  all classes. Beyond the student's logits, cost and memory are in the number
  of known classes; its gradient by them has their size.

  Args:
    student_logits: `[*tokens, classes]`.
    teacher_ids: `[*tokens, known]`, in [0, classes). Distinct in each token,
      except where `tail` is "drop" and `renormalize` not "both".
    teacher_log_probs: `[*tokens, known]`, of all classes and at the
      temperature; -inf for none. They receive no gradient.
    teacher_weights: w, with which a known class counts, for "drop" without
      renormalization; its probability by default. See `sample_teacher`.
    tail: "bucket", or "drop" to leave out the unknown classes.
    renormalize: for "drop": "teacher" lets the teacher's known probabilities
      sum to 1, which pushes the student's tail to 0; "both" the student's too
      (as Tunix and MaxText), which gives the tail no gradient; "none" neither.
    temperature: T > 0 of the student; a number, or one a token. It may be
      traced and receives no gradient.
    where: which tokens count; the others cost 0 and get no gradient.
    vocab_axis_name: the axis of `jax.shard_map` (with its default checks) over
      which the student's classes are sharded, in equal parts; what is known of
      the teacher is whole on each of its devices, ids count over all of them.
    chunk_size: how many tokens are computed at a time.
    implementation: "xla" or "chunked"; by default by size.

  Returns:
    One value a token, in nats, without a T^2 factor; float32 for
    half-precision logits. "drop" without renormalization may be negative.

  Raises:
    ValueError: if shapes differ, a static temperature is not above 0, there
      are more known classes than classes, the teacher is sharded over
      `vocab_axis_name`, or options do not go together.
    TypeError: if the ids are not integers or the others not floating-point.

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
    dtype=compute_dtype(student_logits),
    temperature=temperature,
    shares=(),
    where=where,
    stop_teacher_gradient=True,
    chunk_size=chunk_size,
    implementation=implementation,
  )


@validate
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
  r"""Sparse linear divergence: the student's logits are never there either.

  `sparse_divergence` of `z = head(h)`, in chunks of
  tokens as in `fused_linear_divergence`.

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
    where: which tokens count.
    weights: what the tokens' values are multiplied by; they receive no
      gradient. Prefer both to a mask and to factors outside.
    vocab_size: how many classes there are; the head's further rows are
      padding. By default all of them.
    vocab_axis_name: the axis of `jax.shard_map` (with its default checks) over
      which the head is sharded, in equal parts; all else is whole on each of
      its devices. `vocab_size` then counts over all of them.
    chunk_size: how many tokens are computed at a time.
    implementation: "xla" or "chunked"; by default by size.

  Returns:
    One value a token, in nats, without a T^2 factor.

  Raises:
    ValueError: if shapes differ, a static temperature is not above 0, there
      are more known classes than classes, the teacher is sharded over
      `vocab_axis_name`, or options do not go together.
    TypeError: if the ids are not integers or the others not floating-point.

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
  check_integer("vocab_size", vocab_size, 1)
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
  return linear_values(
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


def _as_sparse(
  ids: Array,
  log_probs: Array,
  weights: Array | None,
  classes: int,
  tail: str,
  renormalize: str,
  axis_name: str | None,
) -> tuple[SparseCriterion, Sparse]:
  """Checks what is known of the teacher and brings it into rows."""
  check_choice("tail", tail, TAILS)
  check_choice("renormalize", renormalize, RENORMALIZE)
  if tail == "bucket" and renormalize != "none":
    raise ValueError(
      f"renormalize is {renormalize!r}; with tail 'bucket' all probabilities "
      "sum to 1 already, expected 'none'."
    )
  if weights is not None and (tail, renormalize) != ("drop", "none"):
    raise ValueError(
      "teacher_weights are given; expected tail 'drop' and renormalize "
      f"'none', got {tail!r} and {renormalize!r}."
    )
  known = ids.shape[-1]
  if not known or (known > classes and (tail, renormalize) != ("drop", "none")):
    raise ValueError(
      f"teacher_ids has {known} known classes; expected 1 to {classes}."
    )
  check_labels(ids, classes, "teacher_ids")
  teacher = Sparse(ids, log_probs, weights)
  for name, x in zip(teacher._fields, teacher, strict=True):
    if x is not None and axis_name in jax.typeof(x).manual_axis_type.varying:
      raise ValueError(
        f"teacher_{name} vary over {axis_name!r}; expected them whole, and "
        "known to be equal, on each of its devices."
      )
  teacher = jax.tree.map(lambda x: x.reshape(-1, known), teacher)
  return SparseCriterion(tail, renormalize, axis_name), teacher


def _devices(axis_name: str | None) -> int:
  """Returns over how many devices the classes are sharded."""
  return 1 if axis_name is None else jax.lax.axis_size(axis_name)
