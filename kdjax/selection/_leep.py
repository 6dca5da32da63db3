"""Log expected empirical prediction (LEEP)."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from kdjax.ops import class_one_hot
from kdjax.ops import gather_batch
from kdjax.ops import gathered_rows
from kdjax.ops import masked_mean
from kdjax.ops import mean_over_devices
from kdjax.ops import nonzero_divisor
from kdjax.ops import validate


@validate
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

  the likelihood of a classifier that sees nothing but the source model's
  answers. Higher is better; 0 is perfect.

  Args:
    source_probabilities: `[batch, source_classes]`, theta: the softmax of the
      source model's head on target examples. Logits are not probabilities.
    target_labels: `[batch]`.
    num_classes: how many target classes there are, which saves work under jit.
      Otherwise the largest label tells, or, for traced labels, there is room
      for as many classes as examples; the score is the same.
    where: `[batch]`, mask of the examples.
    axis_name: the mapped axis that holds the rest of the examples, which are
      gathered.

  Returns:
    A scalar, at most 0; 0 with gradient 0 if all examples are masked.

  Raises:
    ValueError: if the batches differ.
    TypeError: if dtypes are wrong.

  A source class without mass contributes nothing; TLlib's code makes the whole
  score NaN.

  Examples:
    >>> answers = jnp.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9]])
    >>> print(f"{leep(answers, jnp.array([0, 0, 1])):.4f}")
    -0.2449

  References:
    Nguyen et al., `LEEP: a new measure to evaluate transferability of learned
    representations <https://arxiv.org/abs/2002.12462>`_, 2020.
  """
  rows, mask = gathered_rows(source_probabilities, where, axis_name)
  labels = gather_batch(target_labels, axis_name)
  members = class_one_hot("leep", labels, num_classes, mask)
  joint = jnp.matmul(members.T, rows, precision="highest")
  # Mass of a source class in all; given it, that of the target classes.
  conditional = joint / nonzero_divisor(jnp.sum(joint, 0))[None]
  own = jnp.matmul(members, conditional, precision="highest")
  likelihood = jnp.sum(own * rows, 1)
  tiny = jnp.finfo(rows.dtype).tiny
  values = jnp.log(jnp.maximum(likelihood, tiny))
  return mean_over_devices(masked_mean(values, mask > 0), axis_name)
