"""Validators from unlabeled predictions: entropy, information, BNM."""

from jaxtyping import Array, Bool, Float

from kdjax import adaptation, ops

# Validators that need no target labels. A higher score means a better model.
SCORES = {
  "entropy": "entropy_score(target_logits): confident predictions",
  "im": "im_score(target_logits): confident and diverse predictions",
  "bnm": "bnm_score(target_logits): nuclear norm of the predictions",
  "snd": "snd_score(target_probabilities): density of neighborhoods",
  "importance_weighted": (
    "importance_weighted_score(source_losses, weights): source risk with "
    "importance weights"
  ),
  "dev": ("dev_score(source_losses, weights): the same with a control variate"),
  "reverse": (
    "reverse_validation(...): source accuracy of a model that is trained on "
    "pseudo-labels of the target"
  ),
}


@ops.validate
def entropy_score(
  target_logits: Float[Array, "batch classes"],
  *,
  where: Bool[Array, " batch"] | None = None,
  axis_name: str | None = None,
) -> Float[Array, ""]:
  r"""Entropy score: negative mean entropy of the predictions.

  .. math:: s = -\operatorname{mean}_i H(p_i)

  A collapsed model, which predicts one class for all examples with certainty,
  has the best score; with `im_score` it has the worst score.

  Args:
    target_logits: `[batch, classes]`, of unlabeled target examples.
    where: mask of the examples.
    axis_name: the mapped axis that holds the rest of the batch.

  Returns:
    A scalar in [-log C, 0], higher is better. It equals the
    value of pytorch-adapt. skada's value is C times smaller, a mean over
    examples and classes.

  Raises:
    TypeError: if the logits are not floating-point.

  Examples:
    >>> print(f"{entropy_score(jnp.zeros((3, 2))):.4f}")
    -0.6931

  References:
    Morerio, Cavazza and Murino, `Minimal-entropy correlation alignment
    <https://arxiv.org/abs/1711.10288>`_, 2018.
  """
  logits, _ = ops.masked_rows(target_logits, where)
  return -ops.masked_mean(
    adaptation.entropy_loss(logits), where, axis_name=axis_name
  )


@ops.validate
def im_score(
  target_logits: Float[Array, "batch classes"],
  *,
  where: Bool[Array, " batch"] | None = None,
  axis_name: str | None = None,
) -> Float[Array, ""]:
  r"""Information maximization score: confident and diverse predictions.

  .. math:: s = H(\operatorname{mean}_i p_i) - \operatorname{mean}_i H(p_i)

  Args:
    target_logits: `[batch, classes]`, of unlabeled target examples.
    where: mask of the examples.
    axis_name: the mapped axis that holds the rest of the batch.

  Returns:
    A scalar in [0, log C], higher is better: minus the value of
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
  return -adaptation.information_maximization_loss(
    target_logits, where=where, axis_name=axis_name
  )


@ops.validate
def bnm_score(
  target_logits: Float[Array, "batch classes"],
  *,
  scaling: str = "paper",
  where: Bool[Array, " batch"] | None = None,
  axis_name: str | None = None,
) -> Float[Array, ""]:
  r"""Batch nuclear-norm (BNM) score: sum of singular values of predictions.

  .. math:: s = \lVert P \rVert_* / B

  Args:
    target_logits: `[batch, classes]`, of unlabeled target examples. Compare
      models on the same number of examples.
    scaling: as in `bnm_loss`.
    where: mask of the examples.
    axis_name: the mapped axis that holds the rest of the batch.

  Returns:
    A scalar in [0, 1], higher is better: minus the value of `bnm_loss`.

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
  return -adaptation.bnm_loss(
    target_logits, scaling=scaling, where=where, axis_name=axis_name
  )
