"""Gradual self-training over a sequence of domains."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from kdjax import ops


@ops.exportable
class PseudoLabels(NamedTuple):
  """Pseudo-labels, with their confidence.

  Attributes:
    labels: `[batch]`, the most probable class.
    mask: `[batch]`, True for the examples to train on.
    confidence: `[batch]`.
  """

  labels: Int[Array, " batch"]
  mask: Bool[Array, " batch"]
  confidence: Float[Array, " batch"]


class GradualSelfTraining(NamedTuple):
  """Result of `gradual_self_training`.

  Attributes:
    variables: the model after the last block.
    kept: `[blocks]`, the share of examples of each block in the training.
    confidence: `[blocks]`, the mean confidence on a block before training on
      it. A sudden decrease indicates that two blocks are too far apart.
  """

  variables: Any
  kept: Float[Array, " blocks"]
  confidence: Float[Array, " blocks"]


@ops.validate
def confident_pseudo_labels(
  logits: Float[Array, "batch classes"],
  *,
  drop: ArrayLike = 0.1,
  confidence: str = "range",
  where: Bool[Array, " batch"] | None = None,
) -> PseudoLabels:
  r"""Hard pseudo-labels, without the least confident examples.

  .. math::
    m_i = \mathbb 1\bigl[c_i \ge \operatorname{quantile}_q(c)\bigr], \qquad
    c_i = \max_k p_{ik} - \min_k p_{ik}

  Args:
    logits: `[batch, classes]`; no gradient.
    drop: q in [0, 1], the share of examples to leave out. May be traced.
    confidence: "range", max - min of the probabilities (the authors), or
      "max".
    where: mask of the examples; the quantile is over unmasked examples.

  Returns:
    `PseudoLabels`. The mask includes examples whose confidence equals the
    quantile, and so at least one example.

  Raises:
    ValueError: if `confidence` is unknown or a static `drop` is outside [0, 1].
    TypeError: if the logits are not floating-point.

  Examples:
    >>> logits = jnp.array([[2.0, 0.0], [0.1, 0.0], [0.0, 2.0]])
    >>> confident_pseudo_labels(logits, drop=0.3).mask
    Array([ True, False,  True], dtype=bool)

  References:
    Kumar, Ma and Liang, `Understanding self-training for gradual domain
    adaptation <https://arxiv.org/abs/2002.11361>`_, 2020.
  """
  ops.check_choice("confidence", confidence, ("range", "max"))
  rows, mask = ops.masked_rows(jax.lax.stop_gradient(logits), where)
  probabilities = ops.softened_softmax(rows)
  values = ops.largest(probabilities, -1)
  if confidence == "range":
    values = values - ops.smallest(probabilities, -1)
  share = ops.as_fraction("drop", drop, rows.dtype)
  ordered = jnp.sort(jnp.where(mask > 0, values, jnp.inf))
  # The upper of the two values around the quantile is the threshold. The factor
  # below 1 corrects products that rounding moves above a whole number.
  position = share * jnp.maximum(jnp.sum(mask) - 1, 0)
  rank = jnp.ceil(position * (1 - 8 * jnp.finfo(rows.dtype).eps))
  least = ordered[rank.astype(int)]
  return PseudoLabels(
    jnp.argmax(rows, -1).astype(jnp.int32),
    (mask > 0) & (values >= least),
    values,
  )


@ops.validate
def gradual_self_training(
  key: Any,
  variables: Any,
  blocks: Sequence[Any] | Array,
  fit: Callable[..., Any],
  predict: Callable[[Any, Any], ArrayLike],
  *,
  drop: ArrayLike = 0.1,
  confidence: str = "range",
  num_repeats: int = 1,
  where: Sequence[ArrayLike] | Array | None = None,
) -> GradualSelfTraining:
  r"""Gradual self-training: trains on the pseudo-labels of each domain in turn.

  .. math::
    \theta_{t+1} = \operatorname{fit}\bigl(\theta_t;\;
      \{(x, \operatorname{argmax} f_{\theta_t}(x)) : x \in D_t
      \text{ confident}\}\bigr)

  for unlabeled domains D_1, ..., D_T that lead from the source to the target.
  The authors found four choices important: hard labels, no training on the 10 %
  least confident examples of each block, training from the weights of the last
  block instead of new weights, and the order of the blocks. Self-training on
  the target directly, or on all blocks pooled, fails in their experiments.

  Args:
    key: a JAX random key, split over the blocks for `fit`.
    variables: the model trained on the source, any pytree. It may include the
      state of the optimizer, which then continues from block to block.
    blocks: the domains in order: a list of arrays `[examples, ...]`, or of
      pytrees of such arrays, or one array `[blocks, examples, ...]`. The sizes
      in a list may differ. The authors: blocks of 2,000 examples.
    fit: `fit(variables, inputs, labels, mask, key) -> variables`, which trains
      from the given variables on the examples with a True `mask`. Shapes do not
      depend on the number of dropped examples. The training needs
      regularization, such as dropout or weight decay.
    predict: `predict(variables, inputs) -> logits`, `[examples, classes]`, in
      evaluation mode.
    drop: the share of each block to drop, in [0, 1]. May be traced.
    confidence: as in `confident_pseudo_labels`.
    num_repeats: the number of rounds of labeling and training on each block.
    where: one mask `[examples]` for each block, for padded examples.

  Returns:
    `GradualSelfTraining`.

  Raises:
    ValueError: if there is no block, masks do not match the blocks, or an
      option is out of range.

  Published, on rotated MNIST from 0 to 60 degrees: source only 31.9 %,
  self-training on the target 33.0 %, gradual 87.9 %.

  Examples:
    One-dimensional class means that drift:

    >>> def fit(means, x, labels, mask, key):
    ...   member = jax.nn.one_hot(labels, 2) * mask[:, None]
    ...   return member.T @ x / member.sum(0)
    >>> def predict(means, x):
    ...   return -((x[:, None] - means[None]) ** 2)
    >>> base = jnp.array([-1.2, -1.0, 1.0, 1.2])
    >>> blocks = [base + shift for shift in (0.5, 1.0, 1.5, 2.0, 2.5)]
    >>> result = gradual_self_training(
    ...   jax.random.key(0), jnp.array([-1.1, 1.1]), blocks, fit, predict
    ... )
    >>> print(jnp.argmax(predict(result.variables, blocks[-1]), -1))
    [0 0 1 1]
    >>> print(jnp.argmax(predict(jnp.array([-1.1, 1.1]), blocks[-1]), -1))
    [1 1 1 1]

  References:
    Kumar, Ma and Liang, `Understanding self-training for gradual domain
    adaptation <https://arxiv.org/abs/2002.11361>`_, 2020.
  """
  if not hasattr(blocks, "__len__"):
    raise TypeError(
      f"gradual_self_training: blocks is {blocks!r}; expected a sequence."
    )
  count = len(blocks)
  if not count:
    raise ValueError(
      "gradual_self_training: blocks is empty; expected one or more blocks."
    )
  ops.check_integer("num_repeats", num_repeats, 1)
  if where is not None and len(where) != count:
    raise ValueError(
      f"gradual_self_training: where has {len(where)} masks; expected "
      f"{count}, one for each block."
    )
  kept, confidences = [], []
  keys = jax.random.split(key, count * num_repeats)
  for i in range(count):
    counts = None if where is None else jnp.asarray(where[i])
    for j in range(num_repeats):
      logits = jnp.asarray(predict(variables, blocks[i]))
      pseudo = confident_pseudo_labels(
        logits, drop=drop, confidence=confidence, where=counts
      )
      if not j:
        every = jnp.ones(logits.shape[0], bool) if counts is None else counts
        number = jnp.maximum(jnp.sum(every), 1)
        kept.append(jnp.sum(pseudo.mask) / number)
        confidences.append(
          jnp.sum(jnp.where(every, pseudo.confidence, 0.0)) / number
        )
      variables = fit(
        variables,
        blocks[i],
        pseudo.labels,
        pseudo.mask,
        keys[i * num_repeats + j],
      )
  return GradualSelfTraining(variables, jnp.stack(kept), jnp.stack(confidences))
