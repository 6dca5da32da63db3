"""Co-Tuning: fine-tuning with the pretrained head."""

import jax
from jaxtyping import Array, Bool, Float, Int

from kdjax import ops


@ops.validate
def co_tuning_targets(
  source_probabilities: Float[Array, "batch source_classes"],
  target_labels: Int[Array, " batch"],
  *,
  num_classes: int | None = None,
  where: Bool[Array, " batch"] | None = None,
  axis_name: str | None = None,
) -> Float[Array, "target_classes source_classes"]:
  r"""Co-Tuning's category relationship: estimates p(y_s | y_t) directly.

  .. math::
    p(y_s \mid y_t) = \operatorname*{mean}_{i: y_i = y_t} p(y_s \mid x_i)

  the mean prediction of the pretrained network on the examples of a target
  class. Compute it once before fine-tuning, on the whole target data set, and
  pass `targets[labels]` to `co_tuning_loss`.

  Args:
    source_probabilities: `[batch, source_classes]`, the softmax of the
      pretrained head on target examples; no gradient.
    target_labels: `[batch]`.
    num_classes: the number of target classes; None for the largest label plus
      1. Under `jax.jit` it must be given.
    where: `[batch]`, True for the examples to use.
    axis_name: the mapped axis that holds the rest of the examples.

  Returns:
    `[target_classes, source_classes]`, without gradient. The row of a class
    without examples is 0, and so is its loss; the published code returns NaN.

  Raises:
    ValueError: if the batches differ in size, or `num_classes` is None under
      `jax.jit`.
    TypeError: if dtypes are wrong.

  The paper's second estimate, by Bayes' rule from a classifier of p(y_t | y_s)
  on calibrated probabilities, is implemented neither in TLlib nor here.

  Examples:
    >>> probabilities = jnp.array([[0.75, 0.25], [0.25, 0.75], [0, 1]])
    >>> print(co_tuning_targets(probabilities, jnp.array([0, 0, 1])))
    [[0.5 0.5]
     [0.  1. ]]

  References:
    You et al., `Co-Tuning for transfer learning
    <https://proceedings.neurips.cc/paper/2020/hash/c8067ad1937f728f51288b3eb986afaa-Abstract.html>`_,
    2020.
  """
  sums, counts = ops.class_sums(
    "co_tuning_targets",
    jax.lax.stop_gradient(source_probabilities),
    target_labels,
    num_classes,
    where,
    axis_name,
  )
  return sums / ops.nonzero_divisor(counts)[:, None]


@ops.validate
def co_tuning_loss(
  source_logits: Float[Array, "batch source_classes"],
  targets: Float[Array, "batch source_classes"],
) -> Float[Array, " batch"]:
  r"""Co-Tuning loss: the cross-entropy of the pretrained head with its targets.

  .. math:: \ell = -\sum_{y_s} p(y_s \mid y_t) \log q(y_s \mid x)

  Args:
    source_logits: `[batch, source_classes]`, of the pretrained head on the
      fine-tuned features. The head is trained too.
    targets: `[batch, source_classes]`, the rows of `co_tuning_targets` that the
      labels select; no gradient.

  Returns:
    One value an example, at least the entropy of the targets. Published weight:
    2.3 times the mean, added to the cross-entropy of the new head.

  Raises:
    ValueError: if the shapes differ.
    TypeError: if an array is not floating-point.

  Examples:
    >>> print(co_tuning_loss(jnp.zeros((1, 2)), jnp.array([[0.7, 0.3]])))
    [0.6931472]

  References:
    You et al., `Co-Tuning for transfer learning
    <https://proceedings.neurips.cc/paper/2020/hash/c8067ad1937f728f51288b3eb986afaa-Abstract.html>`_,
    2020.
  """
  targets = jax.lax.stop_gradient(targets.astype(ops.compute_dtype(targets)))
  return ops.cross_entropy(source_logits, targets)
