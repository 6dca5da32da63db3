"""Experience replay (ER)."""

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import ops
from kdjax.methods._method import Method, Pass
from kdjax.methods._objective import stateless
from kdjax.methods.continual._buffer import with_buffer
from kdjax.methods.continual._row_kinds import replay


def _er(
  *,
  weight: ArrayLike = 1.0,
  joint: bool = True,
  buffer: int | None = None,
  draws: int | None = None,
) -> Method:
  """The cross-entropy of current and replayed examples.

  Args:
    weight: of the replayed examples.
    joint: whether both are one batch, with one mean and one set of batch
      statistics, as in mammoth; otherwise two batches and the sum of two means.
    buffer: the size of a buffer of the method's own; None if the batch has a
      part `"replay"`.
    draws: how many examples a draw has; None for as many as the batch.
  """

  def loss(
    student_logits: Array,
    labels: Array,
    replay_logits: Array,
    replay_labels: Array,
    *,
    where: Array,
    where_replay: Array,
    weight: ArrayLike,
    axis_name: str | None,
  ) -> Array:
    sums, counts = [], []
    for logits, own, mask in (
      (student_logits, labels, where),
      (replay_logits, replay_labels, where_replay),
    ):
      values = ops.cross_entropy(logits, own)
      mean = ops.masked_mean(values, mask, axis_name=axis_name)
      count = ops.sum_over_devices(mask.sum(dtype=values.dtype), axis_name)
      sums.append(mean * count if joint else mean)
      counts.append(count)
    total = sums[0] + weight * sums[1]
    if not joint:
      return total
    count = counts[0] + weight * counts[1]
    return total / jnp.where(count == 0, 1.0, count)

  objective = stateless(loss, weight=weight)
  passes = {}
  if joint:
    both = Pass(train=True, joint="stream")
    passes = {"student": both, "replay": both._replace(on="replay.*")}
  return with_buffer(objective, buffer, draws, passes=passes)


ROWS = {
  "er": replay(
    "experience replay",
    "current and replayed examples are one batch",
    _er,
    cross_entropy=0.0,
    source="mammoth",
  ),
}
