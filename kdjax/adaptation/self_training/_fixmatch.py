"""FixMatch: pseudo-labels from a weak view for a strong view."""

from jax.typing import ArrayLike
from jaxtyping import Array, Float

from kdjax import ops
from kdjax.adaptation.self_training._confidence import confident_cross_entropy


@ops.validate
def fixmatch_loss(
  strong_logits: Float[Array, "*batch classes"],
  weak_logits: Float[Array, "*batch classes"],
  *,
  threshold: ArrayLike = 0.95,
) -> Float[Array, "*batch"]:
  r"""FixMatch: cross-entropy with confident pseudo-labels of the weak view.

  .. math::
    \ell_i = \mathbb 1[\max_c q_{ic} \ge \tau]\; H(\hat y_i, p_i), \qquad
    \hat y_i = \operatorname*{argmax}_c q_{ic}

  with p the prediction for the strongly augmented view of an input and q the
  prediction for its weakly augmented view.

  Args:
    strong_logits: `[*batch, classes]`, of the strong view; they get gradient.
    weak_logits: `[*batch, classes]`, of the weak view; no gradient.
    threshold: tau in [0, 1], a scalar or one per row, such as the output of
      `flexmatch_thresholds`. May be traced.

  Returns:
    One value an example, 0 below the threshold. The published loss is the mean
    over the WHOLE batch, so it grows with the share of confident examples.
    Published weight: 1; threshold 0.95, and 0.9 in TLlib's script for domain
    adaptation.

  Raises:
    ValueError: if the shapes differ or a static threshold is outside [0, 1].
    TypeError: if the logits are not floating-point.

  A confidence equal to the threshold is confident in the paper, in Dassl and
  here, but not in TLlib. Dassl also applies the loss to the labeled batch.

  Examples:
    >>> strong = jnp.zeros((2, 2))
    >>> weak = jnp.array([[0.0, 4.0], [0.0, 1.0]])
    >>> fixmatch_loss(strong, weak)
    Array([0.6931472, 0.       ], dtype=float32)

  References:
    Sohn et al., `FixMatch: simplifying semi-supervised learning with
    consistency and confidence <https://arxiv.org/abs/2001.07685>`_, 2020.
  """
  return confident_cross_entropy(strong_logits, weak_logits, threshold)
