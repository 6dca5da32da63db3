"""FlexMatch: a confidence threshold for each class."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from kdjax import ops
from kdjax.adaptation.self_training._confidence import is_confident


@ops.exportable
class FlexMatchState(NamedTuple):
  """The last confident label of every unlabeled example.

  Attributes:
    labels: `[examples]`, -1 for an example that was never confident.
    status: `[classes]`, the number of examples with each label.
  """

  labels: Int[Array, " examples"]
  status: Int[Array, " classes"]


def flexmatch_init(*, num_examples: int, num_classes: int) -> FlexMatchState:
  """FlexMatch: the state before training, without labels.

  Args:
    num_examples: the size of the unlabeled set.
    num_classes: the number of classes.

  Returns:
    The state, a pytree; store it with the train state.

  Raises:
    ValueError: if a size is not positive.
    TypeError: if a size is not an integer.

  Examples:
    >>> flexmatch_init(num_examples=3, num_classes=2).labels
    Array([-1, -1, -1], dtype=int32)

  References:
    Zhang et al., `FlexMatch <https://arxiv.org/abs/2110.08263>`_, 2021.
  """
  ops.check_integer("num_examples", num_examples, 1)
  ops.check_integer("num_classes", num_classes, 1)
  return FlexMatchState(
    jnp.full(num_examples, -1, jnp.int32), jnp.zeros(num_classes, jnp.int32)
  )


@ops.validate
def flexmatch_thresholds(
  state: FlexMatchState,
  weak_logits: Float[Array, "batch classes"],
  *,
  threshold: ArrayLike = 0.95,
  warmup: bool = True,
  mapping: str = "convex",
) -> Float[Array, " batch"]:
  r"""FlexMatch: a threshold for each class, lower for classes hard to learn.

  .. math::
    \tau_c = \tau \, M(\beta_c), \qquad
    \beta_c = \frac{\sigma_c}{\max(\max_{c'} \sigma_{c'},\; \sigma_\emptyset)}

  where sigma_c is the number of examples whose last confident label is c, and
  sigma_0 the number of examples that were never confident. Call
  `fixmatch_loss(strong, weak, threshold=flexmatch_thresholds(state, weak))`,
  then `flexmatch_update`.

  Args:
    state: from `flexmatch_init` and `flexmatch_update`.
    weak_logits: `[batch, classes]`, of the weak view. Each row gets the
      threshold of its predicted class. No gradient.
    threshold: tau in [0, 1]. May be traced.
    warmup: whether beta includes sigma_0. Without it, the class of the first
      label gets the threshold tau immediately.
    mapping: M, "convex" x / (2 - x) (the authors, TLlib), "linear" x, or
      "concave" log(1 + x) / log 2.

  Returns:
    Thresholds `[batch]`: all 0 while no example has a label. The authors' code
    also returns 0 if all examples have the same label; here the formula holds.

  Raises:
    ValueError: if the numbers of classes differ, a static threshold is outside
      [0, 1] or the mapping is unknown.

  Examples:
    >>> state = FlexMatchState(jnp.array([0, 0, 1]), jnp.array([2, 1]))
    >>> logits = jnp.array([[1.0, 0.0], [0.0, 1.0]])
    >>> flexmatch_thresholds(state, logits, threshold=0.9)
    Array([0.9, 0.3], dtype=float32)

  References:
    Zhang et al., `FlexMatch: boosting semi-supervised learning with curriculum
    pseudo labeling <https://arxiv.org/abs/2110.08263>`_, 2021.
  """
  ops.check_choice("mapping", mapping, ("convex", "linear", "concave"))
  _check_classes("flexmatch_thresholds", state.status, weak_logits)
  logits = jax.lax.stop_gradient(weak_logits)
  dtype = ops.compute_dtype(logits)
  status = state.status.astype(dtype)
  largest = jnp.max(status)
  if warmup:
    unused = state.labels.size - jnp.sum(status)
    # Without any label the status is 0, as in the authors' code.
    largest = jnp.maximum(largest, unused)
  beta = status / jnp.maximum(largest, 1)
  if mapping == "convex":
    beta = beta / (2 - beta)
  elif mapping == "concave":
    beta = jnp.log1p(beta) / jnp.log(jnp.asarray(2, dtype))
  least = ops.as_fraction("threshold", threshold, dtype)
  return ops.keep_nan(least * beta[jnp.argmax(logits, -1)], logits)


@ops.validate
def flexmatch_update(
  state: FlexMatchState,
  weak_logits: Float[Array, "batch classes"],
  indices: Int[Array, " batch"],
  *,
  threshold: ArrayLike = 0.95,
  where: Bool[Array, " batch"] | None = None,
) -> FlexMatchState:
  """FlexMatch: stores the predicted labels of confident examples.

  The condition has the fixed threshold, not the threshold of the class.

  Args:
    state: the state so far.
    weak_logits: `[batch, classes]`, of the weak view.
    indices: `[batch]`, the index of each row in the unlabeled set, without
      repetition. On several devices, gather rows and indices first.
    threshold: tau in [0, 1]. May be traced.
    where: mask of the rows.

  Returns:
    The new state.

  Raises:
    ValueError: if shapes differ or a static threshold is outside [0, 1].

  Examples:
    >>> state = flexmatch_init(num_examples=3, num_classes=2)
    >>> logits = jnp.array([[0.0, 9.0], [0.0, 0.1]])
    >>> flexmatch_update(state, logits, jnp.array([2, 0])).labels
    Array([-1, -1,  1], dtype=int32)

  References:
    Zhang et al., `FlexMatch <https://arxiv.org/abs/2110.08263>`_, 2021.
  """
  _check_classes("flexmatch_update", state.status, weak_logits)
  confident = is_confident(weak_logits, threshold)
  if where is not None:
    confident &= where
  predicted = jnp.argmax(weak_logits, -1).astype(state.labels.dtype)
  # Rows without a confident label get an index out of range: no write.
  slots = jnp.where(confident, indices, state.labels.size)
  labels = state.labels.at[slots].set(predicted, mode="drop")
  classes = jnp.arange(state.status.size)
  status = jnp.sum(labels[:, None] == classes[None], 0)
  return FlexMatchState(labels, status.astype(state.status.dtype))


def _check_classes(
  name: str, status: Int[Array, " classes"], logits: Float[Array, "batch k"]
) -> None:
  if status.shape != logits.shape[-1:]:
    raise ValueError(
      f"{name}: state has {status.size} classes; expected "
      f"{logits.shape[-1]}, as in weak_logits."
    )
