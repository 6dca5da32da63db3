"""Pseudo-label (Lee 2013)."""

from jax.typing import ArrayLike
from jaxtyping import Array, Float

from kdjax import ops
from kdjax.adaptation.self_training._confidence import confident_cross_entropy


@ops.validate
def pseudo_label_loss(
  logits: Float[Array, "*batch classes"],
  pseudo_logits: Float[Array, "*batch classes"] | None = None,
  *,
  threshold: ArrayLike = 0.95,
) -> Float[Array, "*batch"]:
  r"""Pseudo-label: cross-entropy with the model's own confident predictions.

  .. math::
    \ell_i = \mathbb 1[\max_c q_{ic} \ge \tau]\; H(\hat y_i, p_i), \qquad
    \hat y_i = \operatorname*{argmax}_c q_{ic}

  with p the softmax of `logits` and q that of `pseudo_logits`.

  Args:
    logits: `[*batch, classes]`; they get gradient. A class at -inf is masked.
    pseudo_logits: `[*batch, classes]`, from which the labels are computed,
      without gradient. The default is `logits`.
    threshold: tau in [0, 1], the least confidence of a label, a scalar or one
      per row. May be traced. Lee's method has no threshold (0).

  Returns:
    One value an example, 0 below the threshold. The published loss is the mean
    over the whole batch. Published: weight 1 and threshold 0.95 (TLlib's
    semi-supervised script); no threshold and a weight that rises to 3 (Lee).

  Raises:
    ValueError: if the shapes differ or a static threshold is outside [0, 1].
    TypeError: if the logits are not floating-point.

  A confidence equal to the threshold is confident in the paper of FixMatch, in
  Dassl and here, but not in TLlib.

  Examples:
    >>> logits = jnp.array([[4.0, 0.0], [0.5, 0.0]])
    >>> pseudo_label_loss(logits)
    Array([0.01814993, 0.        ], dtype=float32)

  References:
    Lee, `Pseudo-label: the simple and efficient semi-supervised learning method
    <https://www.kaggle.com/blobs/download/forum-message-attachment-files/746/pseudo_label_final.pdf>`_,
    2013.
  """
  return confident_cross_entropy(
    logits, logits if pseudo_logits is None else pseudo_logits, threshold
  )
