"""Co-Tuning: the pretrained classes go on teaching the network."""

import jax
from jaxtyping import Array, Bool, Float, Int

from kdjax.ops import class_sums
from kdjax.ops import compute_dtype
from kdjax.ops import cross_entropy
from kdjax.ops import nonzero_divisor
from kdjax.ops import validate


@validate
def co_tuning_targets(
  source_probabilities: Float[Array, "batch source_classes"],
  target_labels: Int[Array, " batch"],
  *,
  num_classes: int | None = None,
  where: Bool[Array, " batch"] | None = None,
  axis_name: str | None = None,
) -> Float[Array, "target_classes source_classes"]:
  r"""Co-Tuning's category relationship p(y_s | y_t), learned directly.

  .. math::
    p(y_s \mid y_t) = \operatorname*{mean}_{i: y_i = y_t} p(y_s \mid x_i)

  the pretrained model's average answer to the examples of a target class. Once,
  before fine-tuning, over the whole target set; `targets[labels]` is what
  `co_tuning_loss` compares with.

  Args:
    source_probabilities: `[batch, source_classes]`, the softmax of the
      pretrained head on target examples; no gradient.
    target_labels: `[batch]`.
    num_classes: how many target classes there are. Without it, the largest
      label tells, for labels that are known; under jit it must be given.
    where: `[batch]`, which examples count.
    axis_name: the mapped axis that holds the rest of the examples.

  Returns:
    `[target_classes, source_classes]`, without gradient. The row of a class
    without examples is 0, so that its loss is 0; it is NaN in published code.

  Raises:
    ValueError: if the batches differ, or if the number of classes is not known
      at trace time.
    TypeError: if dtypes are wrong.

  The paper's second way, by Bayes' rule from a classifier of p(y_t | y_s)
  fitted on calibrated probabilities, is not part of TLlib, nor of this.

  Examples:
    >>> answers = jnp.array([[0.75, 0.25], [0.25, 0.75], [0, 1]])
    >>> print(co_tuning_targets(answers, jnp.array([0, 0, 1])))
    [[0.5 0.5]
     [0.  1. ]]

  References:
    You et al., `Co-Tuning for transfer learning
    <https://proceedings.neurips.cc/paper/2020/hash/c8067ad1937f728f51288b3eb986afaa-Abstract.html>`_,
    2020.
  """
  sums, counts = class_sums(
    "co_tuning_targets",
    jax.lax.stop_gradient(source_probabilities),
    target_labels,
    num_classes,
    where,
    axis_name,
  )
  return sums / nonzero_divisor(counts)[:, None]


@validate
def co_tuning_loss(
  source_logits: Float[Array, "batch source_classes"],
  targets: Float[Array, "batch source_classes"],
) -> Float[Array, " batch"]:
  r"""Co-Tuning loss: the pretrained head keeps answering as it did on average.

  .. math:: \ell = -\sum_{y_s} p(y_s \mid y_t) \log q(y_s \mid x)

  Args:
    source_logits: `[batch, source_classes]`, of the pretrained head, which is
      trained on, on the features being fine-tuned.
    targets: `[batch, source_classes]`, rows of `co_tuning_targets` at
      the examples' labels; no gradient.

  Returns:
    One value an example, the entropy of the targets at best. Published weight:
    2.3 times the mean, beside the cross-entropy of the new head.

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
  targets = jax.lax.stop_gradient(targets.astype(compute_dtype(targets)))
  return cross_entropy(source_logits, targets)
