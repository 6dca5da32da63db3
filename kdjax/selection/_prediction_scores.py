"""Scores of unlabeled predictions: entropy, information and BNM."""

from jaxtyping import Array, Bool, Float

from kdjax.adaptation import bnm_loss
from kdjax.adaptation import entropy_loss
from kdjax.adaptation import information_maximization_loss
from kdjax.ops import masked_mean
from kdjax.ops import masked_rows
from kdjax.ops import validate

# What `choose a model with no target label` may go by. All are higher for the
# better model; the name of each is that of its function.
SCORES = {
  "entropy": "entropy_score(target_logits): sure predictions",
  "im": "im_score(target_logits): sure and diverse predictions",
  "bnm": "bnm_score(target_logits): sure and diverse, by singular values",
  "snd": "snd_score(target_probabilities): dense neighborhoods",
  "importance_weighted": (
    "importance_weighted_score(source_losses, weights): risk on the source, "
    "weighted like the target"
  ),
  "dev": "dev_score(source_losses, weights): the same with less variance",
  "reverse": (
    "reverse_validation(...): accuracy on the source of a model that learned "
    "this one's labels of the target"
  ),
}


@validate
def entropy_score(
  target_logits: Float[Array, "batch classes"],
  *,
  where: Bool[Array, " batch"] | None = None,
  axis_name: str | None = None,
) -> Float[Array, ""]:
  r"""Entropy score: minus the mean entropy of the predictions.

  .. math:: s = -\operatorname{mean}_i H(p_i)

  A collapsed model, which gives every example one class with certainty, has
  the best score: `im_score` does not fall for it.

  Args:
    target_logits: `[batch, classes]`, of unlabeled target examples.
    where: mask of the examples.
    axis_name: the mapped axis that holds the rest of the batch.

  Returns:
    A scalar in [-log C, 0], higher is better. pytorch-adapt's value; skada's
    is C times smaller, a mean over examples and classes.

  Raises:
    TypeError: if the logits are not floating-point.

  Examples:
    >>> print(f"{entropy_score(jnp.zeros((3, 2))):.4f}")
    -0.6931

  References:
    Morerio, Cavazza and Murino, `Minimal-entropy correlation alignment
    <https://arxiv.org/abs/1711.10288>`_, 2018.
  """
  logits, _ = masked_rows(target_logits, where)
  return -masked_mean(entropy_loss(logits), where, axis_name=axis_name)


@validate
def im_score(
  target_logits: Float[Array, "batch classes"],
  *,
  where: Bool[Array, " batch"] | None = None,
  axis_name: str | None = None,
) -> Float[Array, ""]:
  r"""Information maximization score: diverse predictions, each sure.

  .. math:: s = H(\operatorname{mean}_i p_i) - \operatorname{mean}_i H(p_i)

  Args:
    target_logits: `[batch, classes]`, of unlabeled target examples.
    where: mask of the examples.
    axis_name: the mapped axis that holds the rest of the batch.

  Returns:
    A scalar in [0, log C], higher is better; minus
    `information_maximization_loss`.

  Raises:
    TypeError: if the logits are not floating-point.

  Examples:
    >>> sure = jnp.array([[1e4, 0.0], [0.0, 1e4]])
    >>> print(f"{im_score(sure):.4f} {abs(im_score(sure[:1])):.4f}")
    0.6931 0.0000

  References:
    Musgrave, Belongie and Lim, `Three new validators and a large-scale
    benchmark ranking for unsupervised domain adaptation
    <https://arxiv.org/abs/2208.07360>`_, 2022.
  """
  return -information_maximization_loss(
    target_logits, where=where, axis_name=axis_name
  )


@validate
def bnm_score(
  target_logits: Float[Array, "batch classes"],
  *,
  scaling: str = "paper",
  where: Bool[Array, " batch"] | None = None,
  axis_name: str | None = None,
) -> Float[Array, ""]:
  r"""Batch nuclear-norm score: the predictions' singular values, summed.

  .. math:: s = \lVert P \rVert_* / B

  Args:
    target_logits: `[batch, classes]`, of unlabeled target examples; compare
      models on equally many.
    scaling: as in `bnm_loss`.
    where: mask of the examples.
    axis_name: the mapped axis that holds the rest of the batch.

  Returns:
    A scalar in [0, 1], higher is better; minus `bnm_loss`.

  Raises:
    ValueError: if `scaling` is unknown.

  Examples:
    >>> sure = jnp.array([[1e4, 0.0], [0.0, 1e4]])
    >>> print(f"{bnm_score(sure):.3f} {bnm_score(0.0 * sure):.3f}")
    1.000 0.500

  References:
    Cui et al., `Towards discriminability and diversity: batch nuclear-norm
    maximization <https://arxiv.org/abs/2003.12237>`_, 2020; as a validator,
    Musgrave, Belongie and Lim <https://arxiv.org/abs/2208.07360>, 2022.
  """
  return -bnm_loss(
    target_logits, scaling=scaling, where=where, axis_name=axis_name
  )
