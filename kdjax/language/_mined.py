"""Minimum edit distance (MinED): a teacher with another vocabulary."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Integer

from kdjax import ops


@ops.validate
def min_edit_ids(
  source_tokens: Sequence[str], target_tokens: Sequence[str]
) -> np.ndarray:
  """MinED vocabulary map: the nearest target token of each source token.

  Args:
    source_tokens: a vocabulary, such as the teacher's, in the order of the ids.
      Write the space at the start of a word in the same way in both.
    target_tokens: a vocabulary, such as the student's.

  Returns:
    `[source]`, int32: the id of the target token with the smallest edit
    distance; of equally near ones the first.

  Raises:
    ValueError: if there is no target token.

  Equal tokens cost one look-up; every other token is compared with all target
  tokens whose lengths do not rule them out. Run the function once for a pair of
  tokenizers.

  Examples:
    >>> min_edit_ids(["the", "cats", "dot"], ["cat", "the", "dog"]).tolist()
    [1, 0, 2]

  References:
    Wan et al., `Knowledge fusion of large language models
    <https://arxiv.org/abs/2401.10491>`_, 2024.
  """
  if not len(target_tokens):
    raise ValueError("min_edit_ids: target_tokens is empty; expected tokens.")
  known = {}
  for i, token in enumerate(target_tokens):
    known.setdefault(token, i)
  lengths: dict[int, list[int]] = {}
  for i, token in enumerate(target_tokens):
    lengths.setdefault(len(token), []).append(i)
  groups = {
    length: (
      np.array(ids),
      np.array(
        [[ord(c) for c in target_tokens[i]] for i in ids], np.int32
      ).reshape(len(ids), length),
    )
    for length, ids in lengths.items()
  }
  result = np.zeros(len(source_tokens), np.int32)
  for i, token in enumerate(source_tokens):
    if token in known:
      result[i] = known[token]
    else:
      result[i] = _nearest(token, groups)
  return result


@ops.validate
def align_tokens(
  student_tokens: Sequence[str], teacher_tokens: Sequence[str]
) -> np.ndarray:
  """MinED alignment: the teacher's token of each token of the student.

  Dynamic time warping with the edit distance as its cost pairs the tokens of
  one text under two tokenizers.

  Args:
    student_tokens: the student's tokens of a text, as strings without a sign
      for the space at the start of a word.
    teacher_tokens: the teacher's tokens of the same text.

  Returns:
    `[student]`, int32: the position of the teacher's token; -1 for a token that
    is paired with several tokens of the teacher.

  Raises:
    ValueError: if one side has no tokens.

  Examples:
    >>> align_tokens(["hello", "world"], ["hel", "lo", "world"]).tolist()
    [-1, 2]

  References:
    Wan et al., `Knowledge fusion of large language models
    <https://arxiv.org/abs/2401.10491>`_, 2024; the code of `DSKD
    <https://github.com/songmzhang/DSKD>`_.
  """
  rows, columns = len(student_tokens), len(teacher_tokens)
  if not rows or not columns:
    raise ValueError(
      f"align_tokens: got {rows} tokens of the student and {columns} of the "
      "teacher; expected one or more each."
    )
  distances: dict[tuple[str, str], int] = {}
  total = np.full((rows + 1, columns + 1), np.inf)
  total[0, 0] = 0
  for i, student in enumerate(student_tokens):
    for j, teacher in enumerate(teacher_tokens):
      pair = student, teacher
      if pair not in distances:
        distances[pair] = _edit_distance(student, teacher)
      total[i + 1, j + 1] = distances[pair] + min(
        total[i, j], total[i, j + 1], total[i + 1, j]
      )
  partners: list[list[int]] = [[] for _ in range(rows)]
  i, j = rows, columns
  while (i, j) != (0, 0):
    partners[i - 1].append(j - 1)
    # The order of the published code: of equal costs both, then the teacher.
    steps = ((i - 1, j - 1), (i, j - 1), (i - 1, j))
    if (i, j) == (1, 1):
      break
    i, j = min(steps, key=lambda step: total[step])
  return np.array([x[0] if len(x) == 1 else -1 for x in partners], np.int32)


@ops.validate
def mined_logits(
  teacher_logits: Float[Array, "batch teacher_length teacher_vocab"],
  student_tokens: Integer[Array, "batch length"],
  teacher_tokens: Integer[Array, "batch teacher_length"],
  labels: Integer[Array, "batch length"],
  positions: Integer[Array, "batch length"],
  teacher_to_student: Integer[Array, " teacher_vocab"],
  *,
  num_classes: int,
) -> tuple[
  Float[Array, "batch length {num_classes}"], Bool[Array, "batch length"]
]:
  r"""MinED logits: the teacher's logits in the student's vocabulary.

  .. math::
    \tilde z_{tc} = \max_{d : m(d) = c} z_{\pi(t) d}

  at a position whose token is the image of the teacher's token that it is
  paired with; elsewhere a one-hot distribution at the label.

  Args:
    teacher_logits: `[batch, teacher_length, teacher_vocab]`.
    student_tokens: `[batch, length]`, the input tokens at the positions.
    teacher_tokens: `[batch, teacher_length]`.
    labels: `[batch, length]`, the tokens to predict (`next_token_targets`).
    positions: `[batch, length]`, the position pi(t) of the teacher's token
      (`align_tokens`); -1 for none.
    teacher_to_student: `[teacher_vocab]`, the map m (`min_edit_ids`).
    num_classes: the size of the student's vocabulary, static.

  Returns:
    Logits `[batch, length, num_classes]`, for a divergence such as
    `kdjax.ops.kl_divergence`, and the mask `[batch, length]` of the positions
    with logits of the teacher. Classes without a token of the teacher have the
    logit -1e5, and a label of a one-hot position has 100, as in the published
    code.

  Raises:
    ValueError: if shapes differ or `num_classes` is below 1.
    TypeError: if ids are not integers or logits not floating-point.

  Examples:
    >>> logits, aligned = mined_logits(
    ...   jnp.array([[[1.0, 2.0]]]),
    ...   jnp.array([[0, 1]]),
    ...   jnp.array([[0]]),
    ...   jnp.array([[1, 0]]),
    ...   jnp.array([[0, -1]]),
    ...   jnp.array([0, 1]),
    ...   num_classes=2,
    ... )
    >>> logits.tolist(), aligned.tolist()
    ([[[1.0, 2.0], [100.0, -100000.0]]], [[True, False]])

  References:
    Wan et al., `Knowledge fusion of large language models
    <https://arxiv.org/abs/2401.10491>`_, 2024, in the form of `DSKD
    <https://github.com/songmzhang/DSKD>`_.
  """
  ops.check_integer("num_classes", num_classes, 1)
  dtype = ops.compute_dtype(teacher_logits)
  safe = jnp.maximum(positions, 0)
  paired = jnp.take_along_axis(teacher_tokens, safe, 1)
  aligned = (positions >= 0) & (student_tokens == teacher_to_student[paired])
  rows = jnp.take_along_axis(teacher_logits.astype(dtype), safe[..., None], 1)
  mapped = jnp.full((*positions.shape, num_classes), -1e5, dtype)
  mapped = mapped.at[..., teacher_to_student].max(rows)
  own = jax.nn.one_hot(labels, num_classes, dtype=bool)
  return (
    jnp.where(aligned[..., None], mapped, jnp.where(own, 100.0, -1e5)),
    aligned,
  )


def _nearest(
  token: str, groups: dict[int, tuple[np.ndarray, np.ndarray]]
) -> int:
  best, best_id = None, 0
  for length in sorted(groups, key=lambda x: abs(x - len(token))):
    if best is not None and abs(length - len(token)) > best:
      break
    ids, codes = groups[length]
    distances = _edit_distances(token, codes)
    least = int(distances.min())
    first = int(ids[distances == least].min())
    if best is None or (least, first) < (best, best_id):
      best, best_id = least, first
  return best_id


def _edit_distances(token: str, codes: np.ndarray) -> np.ndarray:
  """Returns the edit distances of a token to many of one length."""
  count, length = codes.shape
  row = np.broadcast_to(np.arange(length + 1), (count, length + 1)).copy()
  for i, character in enumerate(token):
    previous, row = row, np.empty_like(row)
    row[:, 0] = i + 1
    changed = previous[:, :-1] + (codes != ord(character))
    kept = np.minimum(changed, previous[:, 1:] + 1)
    for j in range(length):
      row[:, j + 1] = np.minimum(kept[:, j], row[:, j] + 1)
  return row[:, -1]


def _edit_distance(a: str, b: str) -> int:
  if a == b:
    return 0
  codes = np.array([[ord(c) for c in b]], np.int32).reshape(1, len(b))
  return int(_edit_distances(a, codes)[0])
