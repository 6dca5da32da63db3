"""Forward KL from teachers with some known classes, row by row."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from kdjax import ops
from kdjax.fused._divergences import DenseCriterion

_KL = DenseCriterion("forward_kl")


class Sparse(NamedTuple):
  """The known classes of each row."""

  ids: Array
  log_probs: Array
  weights: Array | None


class LogTotal(NamedTuple):
  """The log-sum-exp of a row in two parts: their sum would lose digits.

  Attributes:
    largest: the largest logit, or 0 for a row without classes.
    log_sum: the logarithm of the sum of exp((z - largest) / T).
  """

  largest: Array
  log_sum: Array


class SparseRows(NamedTuple):
  """Statistics that the gradient of a row needs, one number a row each."""

  value: Array
  total: LogTotal  # of all classes, or of the unknown classes
  known: Any  # statistics of the rows of known classes


class SparseCriterion(NamedTuple):
  """Forward KL from known classes; hashable, for a static argument.

  Attributes:
    tail: "bucket" or "drop".
    renormalize: "none", "teacher" or "both".
    axis_name: the mapped axis over which the student's classes are sharded;
      each device computes the gradient by its own classes.
  """

  tail: str
  renormalize: str
  axis_name: str | None = None

  @property
  def outputs(self) -> tuple[str, ...]:
    """The fields of the rows that are returned."""
    return ("value",)

  def rows(
    self,
    student: Array,
    teacher: Sparse,
    scale: Array,
    shares: tuple[Array, ...],
  ) -> SparseRows:
    """Returns the statistics of each row; see `DenseCriterion`."""
    student, teacher = _widen(scale.dtype, student, teacher)
    logits = self._gather(student, teacher.ids)
    if self.axis_name is not None:
      logits = jax.lax.psum(logits, self.axis_name)
    if self._is_distribution:
      rest = self._log_rest(student, teacher, scale)
      known = _KL.rows(*self._known(logits, teacher, scale, rest), scale, ())
      return SparseRows(known.value, rest, known)
    total = self._log_total(student, scale)
    weights = self._weights(teacher)
    log_q = _log_softened(logits, total, scale)
    log_p = teacher.log_probs
    if self.renormalize == "teacher":
      log_p = ops.log_softened_softmax(log_p)
    terms = jnp.where(weights == 0, 0.0, weights * (log_p - log_q))
    return SparseRows(jnp.sum(terms, -1), total, None)

  def gradients(
    self,
    student: Array,
    teacher: Sparse,
    scale: Array,
    shares: tuple[Array, ...],
    rows: SparseRows,
  ) -> tuple[Array, None]:
    """Returns the gradient of the values by the student's logits."""
    student, teacher = _widen(scale.dtype, student, teacher)
    # A known class may exceed the total of the unknown classes; its gradient is
    # replaced below.
    log_q = ops.at_most(_log_softened(student, rows.total, scale), 0.0)
    inside = jnp.exp(log_q)
    if not self._is_distribution:
      weights = self._weights(teacher) / scale[:, None]
      inside *= jnp.sum(weights, -1, keepdims=True)
      known = self._at(inside, teacher.ids)
      return known.add(-weights, mode="drop"), None
    # The gradient is elementwise, so a device needs no data of other devices.
    logits = self._gather(student, teacher.ids)
    gradient, _ = _KL.gradients(
      *self._known(logits, teacher, scale, rows.total),
      scale,
      (),
      rows.known,
    )
    if self.tail == "drop":
      known = self._at(jnp.zeros_like(student), teacher.ids)
      return known.set(gradient, mode="drop"), None
    known = self._at(inside * gradient[:, -1:], teacher.ids)
    return known.set(gradient[:, :-1], mode="drop"), None

  @property
  def _is_distribution(self) -> bool:
    """Returns True if the known classes, or with a bucket, sum to 1."""
    return self.tail == "bucket" or self.renormalize == "both"

  def _weights(self, teacher: Sparse) -> Array:
    if teacher.weights is not None:
      return teacher.weights
    if self.renormalize == "teacher":
      return ops.softened_softmax(teacher.log_probs)
    return jnp.exp(teacher.log_probs)

  def _log_rest(
    self, student: Array, teacher: Sparse, scale: Array
  ) -> LogTotal:
    """Returns the log-sum-exp of the unknown classes.

    The sum is over the unknown classes: the total minus the known classes would
    round to 0 or less for a confident student.
    """
    if self.tail == "drop":
      return LogTotal(jnp.zeros_like(scale), jnp.zeros_like(scale))
    known = self._at(student, teacher.ids)
    return self._log_total(known.set(-jnp.inf, mode="drop"), scale)

  def _known(
    self, logits: Array, teacher: Sparse, scale: Array, total: LogTotal
  ) -> tuple[Array, Array]:
    """Returns both sides' known classes, and the bucket, as rows of logits."""
    log_p = teacher.log_probs
    if self.tail == "bucket":
      rest = -jnp.expm1(jax.nn.logsumexp(log_p, -1, keepdims=True))
      # A rest within rounding of 0 is 0.
      rest = jnp.where(rest > 8 * jnp.finfo(rest.dtype).eps, rest, 0.0)
      log_p = jnp.concatenate([log_p, jnp.log(rest)], -1)
      bucket = total.largest + scale * total.log_sum
      logits = jnp.concatenate([logits, bucket[:, None]], -1)
    return logits, scale[:, None] * log_p

  def _log_total(self, logits: Array, scale: Array) -> LogTotal:
    """Returns the log-sum-exp of the softened logits."""
    largest = jnp.max(logits, -1)
    if self.axis_name is not None:
      largest = jax.lax.pmax(largest, self.axis_name)
    largest = jnp.where(largest == -jnp.inf, 0.0, largest)
    shifted = (logits - largest[:, None]) / scale[:, None]
    total = jnp.sum(jnp.exp(shifted), -1)
    if self.axis_name is not None:
      total = jax.lax.psum(total, self.axis_name)
    return LogTotal(largest, jnp.log(total))

  def _gather(self, student: Array, ids: Array) -> Array:
    """Returns the known classes' logits; 0 for classes of other devices."""
    if self.axis_name is None:
      return jnp.take_along_axis(student, ids, -1)
    return jnp.take_along_axis(
      student, self._columns(student, ids), -1, mode="fill", fill_value=0
    )

  def _at(self, student: Array, ids: Array) -> Any:
    """Returns the known classes of an array of all classes, for an update."""
    rows = jnp.arange(student.shape[0])[:, None]
    return student.at[rows, self._columns(student, ids)]

  def _columns(self, student: Array, ids: Array) -> Array:
    """Returns the columns of the known classes; past the end if not here."""
    if self.axis_name is None:
      return ids
    classes = student.shape[1]
    columns = ids - classes * jax.lax.axis_index(self.axis_name)
    # A negative index would count from the end.
    return jnp.where(columns < 0, classes, columns)


def _widen(dtype: Any, student: Array, teacher: Sparse) -> tuple[Array, Sparse]:
  """Casts all arrays but the ids to the dtype of the computation."""
  ids, log_probs, weights = teacher
  return student.astype(dtype), Sparse(
    ids,
    log_probs.astype(dtype),
    None if weights is None else weights.astype(dtype),
  )


def _log_softened(logits: Array, total: LogTotal, scale: Array) -> Array:
  """Returns log-probabilities of the softened logits; -inf where masked."""
  largest, log_sum = total.largest[:, None], total.log_sum[:, None]
  log_q = (logits - largest) / scale[:, None] - log_sum
  # Of a row without classes, the log-sum-exp is -inf too.
  return jnp.where(logits == -jnp.inf, -jnp.inf, log_q)
