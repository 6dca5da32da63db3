"""Self-training on confident predictions: pseudo-label, FixMatch and UDA."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from kdjax.ops import masked_mean
from kdjax.ops import softened_softmax
from kdjax.ops._cross_entropy import cross_entropy
from kdjax.ops._divergences import forward_kl
from kdjax.ops._rows import masked_rows
from kdjax.ops._softmax import compute_dtype
from kdjax.ops._softmax import row_temperature
from kdjax.ops._validation import as_share
from kdjax.ops._validation import check_choice
from kdjax.ops._validation import validate


@validate
def pseudo_label_loss(
  logits: Float[Array, "*batch classes"],
  pseudo_logits: Float[Array, "*batch classes"] | None = None,
  *,
  threshold: ArrayLike = 0.95,
) -> Float[Array, "*batch"]:
  r"""Pseudo-labels: cross-entropy with one's own confident predictions.

  .. math::
    \ell_i = \mathbb 1[\max_c q_{ic} \ge \tau]\; H(\hat y_i, p_i), \qquad
    \hat y_i = \operatorname*{argmax}_c q_{ic}

  with p the softmax of `logits` and q that of `pseudo_logits`.

  Args:
    logits: `[*batch, classes]`, which learn. A class at -inf is masked.
    pseudo_logits: `[*batch, classes]`, which give the labels and get no
      gradient; by default the logits themselves.
    threshold: tau in [0, 1], the least probability that counts: a scalar, or
      one per row. May be traced. Lee's method has none (0).

  Returns:
    One value an example, 0 for an unsure one: the published loss is the mean
    over the whole batch, unsure examples included. Published: weight 1 and
    threshold 0.95 (TLlib's semi-supervised script), no threshold and a weight
    that rises to 3 (Lee).

  Raises:
    ValueError: if the shapes differ or a static threshold is outside [0, 1].
    TypeError: if the logits are not floating-point.

  TLlib keeps a confidence above the threshold, the paper of FixMatch and Dassl
  one that equals it too, as here.

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
      :func:`flexmatch_thresholds` gives. May be traced.

  Returns:
    One value an example, 0 for an unsure one. The published loss is the mean
    over the WHOLE batch: a mean over the confident ones alone would take the
    curriculum away. Published weight: 1; threshold 0.95, and 0.9 in TLlib's
    script for domain adaptation.

  Raises:
    ValueError: if the shapes differ or a static threshold is outside [0, 1].
    TypeError: if the logits are not floating-point.

  TLlib keeps a confidence above the threshold, the paper and Dassl one that
  equals it too, as here. Dassl runs the labelled batch through it as well.

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


@validate
def uda_loss(
  strong_logits: Float[Array, "batch classes"],
  weak_logits: Float[Array, "batch classes"],
  *,
  threshold: ArrayLike = 0.7,
  temperature: ArrayLike = 0.85,
  sharpen: str = "student",
  average: str = "confident",
  where: Bool[Array, " batch"] | None = None,
  axis_name: str | None = None,
) -> Float[Array, ""]:
  r"""Unsupervised data augmentation (UDA): consistency of two views.

  .. math::
    \ell = \frac{\sum_i m_i \, \mathrm{KL}(q_i \Vert p_i)}
                {\max(\sum_i m_i, 1)}, \qquad
    m_i = \mathbb 1[\max_c \mathrm{softmax}(z^w_i)_c \ge \tau]

  Which side the temperature T < 1 divides is where codes differ:

  - `sharpen="student"` (TLlib): q = softmax(z^w), p = softmax(z^s / T), so the
    strong view's logits come out T times as large as the weak view's.
  - `sharpen="teacher"` (the paper): q = softmax(z^w / T), p = softmax(z^s).

  Args:
    strong_logits: `[batch, classes]`, z^s of the strong view; they learn.
    weak_logits: `[batch, classes]`, z^w of the weak view; no gradient.
    threshold: tau in [0, 1], on the weak view's confidence at T = 1. May be
      traced.
    temperature: T > 0. May be traced.
    sharpen: "student" or "teacher".
    average: "confident" divides by the number of confident examples (TLlib),
      "all" by the number of all examples (the authors' code).
    where: which examples count.
    axis_name: the mapped axis that holds the rest of the batch.

  Returns:
    A scalar; 0 with gradient 0 if nothing counts or nothing is confident.
    Published: weight 1, with threshold 0.7 and temperature 0.85 (TLlib);
    threshold 0.8 and temperature 0.4 on the teacher's side with "all" (the
    authors, for CIFAR-10).

  Raises:
    ValueError: if the shapes differ, an option is unknown, or a static
      temperature or threshold is out of range.
    TypeError: if the logits are not floating-point.

  Examples:
    >>> strong = jnp.zeros((2, 2))
    >>> weak = jnp.array([[0.0, 4.0], [0.0, 0.1]])
    >>> print(f"{uda_loss(strong, weak):.4f}")
    0.6031
    >>> print(f"{uda_loss(strong, weak, average='all'):.4f}")
    0.3015

  References:
    Xie et al., `Unsupervised data augmentation for consistency training
    <https://arxiv.org/abs/1904.12848>`_, 2020.
  """
  check_choice("sharpen", sharpen, ("student", "teacher"))
  check_choice("average", average, ("confident", "all"))
  strong, mask = masked_rows(strong_logits, where)
  weak, _ = masked_rows(jax.lax.stop_gradient(weak_logits), where)
  scale = row_temperature(temperature, strong, -1)
  ones = jnp.ones_like(scale)
  student, teacher = (scale, ones) if sharpen == "student" else (ones, scale)
  divergences = forward_kl(weak / teacher, strong / student, 1.0)
  confident = is_confident(weak, threshold) & (mask > 0)
  if average == "confident":
    return masked_mean(divergences, confident, axis_name=axis_name)
  return masked_mean(
    jnp.where(confident, divergences, 0.0), where, axis_name=axis_name
  )


def confident_cross_entropy(
  logits: Float[Array, "*batch classes"],
  pseudo_logits: Float[Array, "*batch classes"],
  threshold: ArrayLike,
) -> Float[Array, "*batch"]:
  """Returns the cross-entropy with confident labels a row, 0 for others."""
  pseudo_logits = jax.lax.stop_gradient(pseudo_logits)
  confident = is_confident(pseudo_logits, threshold)
  losses = cross_entropy(logits, jnp.argmax(pseudo_logits, -1))
  return jnp.where(confident, losses, 0.0)


def is_confident(
  logits: Float[Array, "*batch classes"], threshold: ArrayLike
) -> Bool[Array, "*batch"]:
  """Returns whether the largest probability of a row reaches a threshold."""
  confidence = jnp.max(softened_softmax(logits), -1)
  least = as_share(
    "threshold", threshold, compute_dtype(logits), shape=confidence.shape
  )
  return confidence >= least
