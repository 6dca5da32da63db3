"""Cross-entropy of rows with labels, alone or beside a divergence."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from kdjax.fused._divergences import DenseCriterion, Rows


class LabelRows(NamedTuple):
  """Cross-entropy of each row, and the log-sum-exp of its logits."""

  value: Array
  log_total: Array


class LabelCriterion(NamedTuple):
  """Cross-entropy with integer labels; hashable, for a static argument.

  Attributes:
    axis_name: the mapped axis over which the classes are sharded.
    vocab_size: the number of classes of all devices.
  """

  axis_name: str | None
  vocab_size: int

  @property
  def outputs(self) -> tuple[str, ...]:
    """The fields of the rows that are returned."""
    return ("value",)

  def rows(
    self,
    student: Array,
    teacher: None,
    scale: Array,
    shares: tuple[Array, ...],
    labels: Array,
  ) -> LabelRows:
    """Returns the statistics of each row; see `DenseCriterion`."""
    del teacher, scale, shares
    sharded = DenseCriterion("forward_kl", self.axis_name)
    is_label, _ = self._is_label(student, labels)
    largest = sharded._max(student)
    top = jnp.where(largest == -jnp.inf, 0.0, largest)
    own = sharded._sum(jnp.where(is_label, student, 0.0))
    terms = jnp.where(is_label, 0.0, jnp.exp(student - top[:, None]))
    others = sharded._sum(terms)
    # The label's own term is left out of the sum, so that a likelihood of
    # 1 - 1e-9 gives 1e-9, not 0.
    beside = jnp.where(own == top, jnp.log1p(others), jnp.inf)
    total = others + jnp.exp(own - top)
    log_total = jnp.log(jnp.where(total > 0, total, 1.0))
    value = jnp.where(own == top, beside, (top - own) + log_total)
    return LabelRows(
      jnp.where(self._known(labels), value, jnp.nan), top + log_total
    )

  def gradients(
    self,
    student: Array,
    teacher: None,
    scale: Array,
    shares: tuple[Array, ...],
    rows: LabelRows,
    labels: Array,
  ) -> tuple[Array, None]:
    """Returns the gradients of the values by the student's logits."""
    del teacher, scale, shares
    is_label, known = self._is_label(student, labels)
    probabilities = jnp.exp(student - rows.log_total[:, None])
    gradient = jnp.where(
      is_label, jnp.expm1(-rows.value)[:, None], probabilities
    )
    return jnp.where(known, gradient, 0.0), None

  def _known(self, labels: Array) -> Array:
    return (labels >= 0) & (labels < self.vocab_size)

  def _is_label(self, logits: Array, labels: Array) -> tuple[Array, Array]:
    """Returns True for the class of the label, and for rows that have one."""
    classes = logits.shape[1]
    offset = 0
    if self.axis_name is not None:
      offset = classes * jax.lax.axis_index(self.axis_name)
    index = offset + jax.lax.broadcasted_iota(labels.dtype, logits.shape, 1)
    return index == labels[:, None], self._known(labels)[:, None]


class BothRows(NamedTuple):
  """The statistics of both values."""

  value: Array
  cross_entropy: Array
  divergence_rows: Rows
  label_rows: LabelRows


class BothCriterion(NamedTuple):
  """A divergence and the cross-entropy with labels, of the same logits.

  The last two shares are the factors of both values.

  Attributes:
    divergence: the criterion of the divergence.
    label: the criterion of the cross-entropy.
  """

  divergence: DenseCriterion
  label: LabelCriterion

  @property
  def axis_name(self) -> str | None:
    """The mapped axis over which the classes are sharded."""
    return self.divergence.axis_name

  @property
  def outputs(self) -> tuple[str, ...]:
    """The fields of the rows that are returned."""
    return ("value", "cross_entropy")

  def rows(
    self,
    student: Array,
    teacher: Array,
    scale: Array,
    shares: tuple[Array, ...],
    labels: Array,
  ) -> BothRows:
    """Returns the statistics of each row; see `DenseCriterion`."""
    divergence = self.divergence.rows(student, teacher, scale, shares[:-2])
    label = self.label.rows(student, None, scale, (), labels)
    return BothRows(divergence.value, label.value, divergence, label)

  def gradients(
    self,
    student: Array,
    teacher: Array,
    scale: Array,
    shares: tuple[Array, ...],
    rows: BothRows,
    labels: Array,
  ) -> tuple[Array, Array]:
    """Returns the gradients of the weighted sum of both values."""
    by_student, by_teacher = self.divergence.gradients(
      student, teacher, scale, shares[:-2], rows.divergence_rows
    )
    second = self.second_gradient(student, shares, rows, labels)
    return shares[-2] * by_student + second, shares[-2] * by_teacher

  def second_gradient(
    self,
    student: Array,
    shares: tuple[Array, ...],
    rows: BothRows,
    labels: Array,
  ) -> Array:
    """Returns the gradient of the weighted cross-entropy."""
    gradient, _ = self.label.gradients(
      student, None, rows.value, (), rows.label_rows, labels
    )
    return shares[-1] * gradient
