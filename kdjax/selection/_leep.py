"""Log expected empirical prediction (LEEP)."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from kdjax import ops


@ops.validate
def leep(
  source_probabilities: Float[Array, "batch source_classes"],
  target_labels: Int[Array, " batch"],
  *,
  num_classes: int | None = None,
  where: Bool[Array, " batch"] | None = None,
  axis_name: str | None = None,
) -> Float[Array, ""]:
  r"""Log expected empirical prediction (LEEP), a transferability score.

  .. math::
    \operatorname{LEEP} = \operatorname*{mean}_i
      \log \sum_z \hat p(y_i \mid z)\, \theta(x_i)_z, \qquad
    \hat p(y, z) = \frac1n \sum_{i: y_i = y} \theta(x_i)_z

  It is the mean log-likelihood of a classifier whose only input is the source
  model's prediction. Higher is better; the maximum is 0.

  Args:
    source_probabilities: `[batch, source_classes]`, theta: the softmax of the
      source model's head on target examples, not logits.
    target_labels: `[batch]`.
    num_classes: the number of target classes, which saves work under jit. None:
      the largest label plus 1; for traced labels, the number of examples. The
      score does not depend on it.
    where: `[batch]`, mask of the examples.
    axis_name: the mapped axis that holds the rest of the examples, which are
      gathered.

  Returns:
    A scalar, at most 0; 0 with gradient 0 if all examples are masked.

  Raises:
    ValueError: if the batches differ.
    TypeError: if dtypes are wrong.

  A source class of probability 0 on all examples does not change the score; in
  TLlib it makes the score NaN.

  Examples:
    >>> answers = jnp.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9]])
    >>> print(f"{leep(answers, jnp.array([0, 0, 1])):.4f}")
    -0.2449

  References:
    Nguyen et al., `LEEP: a new measure to evaluate transferability of learned
    representations <https://arxiv.org/abs/2002.12462>`_, 2020.
  """
  rows, mask = ops.gathered_rows(source_probabilities, where, axis_name)
  labels = ops.gather_batch(target_labels, axis_name)
  members = ops.class_one_hot("leep", labels, num_classes, mask)
  joint = jnp.matmul(members.T, rows, precision="highest")
  # The probability of each target class, given a source class.
  conditional = joint / ops.nonzero_divisor(jnp.sum(joint, 0))[None]
  own = jnp.matmul(members, conditional, precision="highest")
  likelihood = jnp.sum(own * rows, 1)
  tiny = jnp.finfo(rows.dtype).tiny
  values = jnp.log(ops.at_least(likelihood, tiny))
  return ops.mean_over_devices(ops.masked_mean(values, mask > 0), axis_name)
