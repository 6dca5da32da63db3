"""FixMatch: pseudo-labels from a weak view for a strong view."""

from jax.typing import ArrayLike
from jaxtyping import Array, Float

from kdjax.adaptation.self_training._confidence import confident_cross_entropy
from kdjax.ops import validate


@validate
def fixmatch_loss(
  strong_logits: Float[Array, "*batch classes"],
  weak_logits: Float[Array, "*batch classes"],
  *,
  threshold: ArrayLike = 0.95,
) -> Float[Array, "*batch"]:
  r"""FixMatch: the strong view learns the weak view's confident label.

  .. math::
    \ell_i = \mathbb 1[\max_c q_{ic} \ge \tau]\; H(\hat y_i, p_i), \qquad
    \hat y_i = \operatorname*{argmax}_c q_{ic}

  with p the prediction for a strongly augmented input and q that for the same
  input weakly augmented.

  Args:
    strong_logits: `[*batch, classes]`, of the strong view; they learn.
    weak_logits: `[*batch, classes]`, of the weak view; no gradient.
    threshold: tau in [0, 1]: a scalar, or one per row, as
      `flexmatch_thresholds` gives. May be traced.

  Returns:
    One value an example, 0 for an unsure one. The published loss is the mean
    over the WHOLE batch: a mean over the confident ones alone would take the
    curriculum away. Published weight: 1; threshold 0.95, and 0.9 in TLlib's
    script for domain adaptation.

  Raises:
    ValueError: if the shapes differ or a static threshold is outside [0, 1].
    TypeError: if the logits are not floating-point.

  TLlib keeps a confidence above the threshold, the paper and Dassl one that
  equals it too, as here. Dassl runs the labeled batch through it as well.

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
