"""The H-divergence of two samples, and a differentiable form of it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from kdjax import ops


def h_divergence_from_errors(
  source_error: ArrayLike, target_error: ArrayLike
) -> Float[Array, "..."]:
  r"""H-divergence from the error rates of the best domain classifier.

  .. math::
    d_{\mathcal H} = \max\bigl(0,
      2 (1 - (\operatorname{err}_S + \operatorname{err}_T))\bigr)

  The clip follows from the definition: H contains the constant classifiers,
  whose errors sum to 1, so a larger sum is not the minimum over H.

  Args:
    source_error: share of source rows that are classified as target, in [0, 1],
      of any shape.
    target_error: share of target rows that are classified as source, of the
      same shape.

  Returns:
    Values in [0, 2], in the shape of the errors.

  Raises:
    ValueError: if a static error is outside [0, 1], or the shapes differ.

  Examples:
    >>> errors = jnp.array([0.0, 0.25, 0.5])
    >>> h_divergence_from_errors(errors, errors)
    Array([2., 1., 0.], dtype=float32)

  References:
    Ben-David et al., `A theory of learning from different domains
    <https://doi.org/10.1007/s10994-009-5152-4>`_, 2010.
  """
  ops.check_range("source_error", source_error, 0.0, 1.0)
  ops.check_range("target_error", target_error, 0.0, 1.0)
  source_error, target_error = map(jnp.asarray, (source_error, target_error))
  if source_error.shape != target_error.shape:
    raise ValueError(
      f"h_divergence_from_errors: target_error has shape "
      f"{target_error.shape}; expected {source_error.shape}, as in "
      "source_error."
    )
  source_error = source_error.astype(ops.compute_dtype(source_error))
  return ops.at_least(2.0 * (1.0 - (source_error + target_error)), 0.0)


@ops.validate
def soft_h_divergence(
  domain_logits_source: Float[Array, " source"] | Float[Array, "source 1"],
  domain_logits_target: Float[Array, " target"] | Float[Array, "target 1"],
  *,
  where_source: Bool[Array, " source"] | None = None,
  where_target: Bool[Array, " target"] | None = None,
  axis_name: str | None = None,
) -> Float[Array, ""]:
  r"""Soft H-divergence: a differentiable surrogate for training.

  .. math::
    \tilde d = 2 \Bigl(1 - \bigl[\operatorname{mean}_{i \in S} \sigma(-z_i)
      + \operatorname{mean}_{j \in T} \sigma(z_j)\bigr]\Bigr)

  The sigmoid replaces the 0-1 error of a discriminator; positive logits mean
  "source". The value is a lower bound of the divergence: the discriminator
  maximizes it, the features minimize it. To train both with one optimizer,
  reverse the gradient of the discriminator's parameters::

    def transfer(features_source, features_target, discriminator):
      discriminator = reverse_gradient(discriminator)  # maximizes
      return soft_h_divergence(
        apply(discriminator, features_source),
        apply(discriminator, features_target),
      )

  The value is not clipped, because a clipped value would give a poor
  discriminator no gradient. Early in training it may be negative. A
  discriminator that separates the domains saturates the sigmoids, and the
  features get no gradient: then train with `dann_loss` and report this value,
  or use a weaker discriminator. The value describes one mini-batch, which a
  discriminator with more dimensions than rows always separates. Report
  `h_divergence` of held-out data instead.

  Args:
    domain_logits_source: `[source]` or `[source, 1]`, the discriminator's
      logits of source examples.
    domain_logits_target: `[target]` or `[target, 1]`, its logits of target
      examples.
    where_source: mask of the source examples.
    where_target: mask of the target examples.
    axis_name: the mapped axis that holds the rest of the batch.

  Returns:
    A scalar in [-2, 2]; 0 with gradient 0 if a domain has no examples.

  Raises:
    ValueError: if a mask and its logits differ in length.

  Examples:
    >>> soft_h_divergence(jnp.array([50.0, 50.0]), jnp.array([0.0]))
    Array(1., dtype=float32)

  References:
    Ben-David et al., `A theory of learning from different domains
    <https://doi.org/10.1007/s10994-009-5152-4>`_, 2010; Ganin et al.,
    `Domain-adversarial training of neural networks
    <https://arxiv.org/abs/1505.07818>`_, 2016, for the reversal.
  """
  means, counts = [], []
  for logits, where in (
    (domain_logits_source, where_source),
    (domain_logits_target, where_target),
  ):
    logits, mask = ops.masked_rows(logits.reshape(-1), where)
    means.append(
      ops.masked_mean(jax.nn.sigmoid(logits), where, axis_name=axis_name)
    )
    counts.append(ops.sum_over_devices(jnp.sum(mask), axis_name))
  # sigma(-z) = 1 - sigma(z), so the constants cancel.
  value = 2.0 * (means[0] - means[1])
  return jnp.where((counts[0] > 0) & (counts[1] > 0), value, 0.0)


@ops.exportable
class HDivergence(NamedTuple):
  """An estimate of the H-divergence; `ridges` is the shape of `ridge`.

  Attributes:
    value: `[*ridges]`, 2 (1 - (source_error + target_error)) clipped at 0.
    source_error: `[*ridges]`, share of held-out source rows that are classified
      as target.
    target_error: `[*ridges]`, share of held-out target rows that are classified
      as source.
    null: `[permutations, *ridges]`, the value for permuted domain labels; None
      without permutations. The p-value of the hypothesis that the domains are
      equal is (1 + number of null values >= value) / (1 + permutations).
  """

  value: Float[Array, " *ridges"]
  source_error: Float[Array, " *ridges"]
  target_error: Float[Array, " *ridges"]
  null: Float[Array, " permutations *ridges"] | None


@ops.validate
def h_divergence(
  source: Float[Array, "source_rows dims"],
  target: Float[Array, "target_rows dims"],
  *,
  ridge: ArrayLike = 1e-2,
  folds: int = 5,
  key: Any | None = None,
  num_permutations: int = 100,
) -> HDivergence:
  r"""H-divergence between two samples, estimated by an exact linear probe.

  .. math::
    d_{\mathcal H} = 2 \Bigl(1 - \min_{\eta \in \mathcal H}
      \bigl[\operatorname{err}_S(\eta) + \operatorname{err}_T(\eta)\bigr]\Bigr)

  Each domain has its own error rate, so the ratio of the sample sizes does not
  matter. The usual proxy A-distance pools the errors and gives 1.6 for equal
  distributions with samples of sizes 1 : 9. H is the set of half-spaces. In
  each fold a logistic regression,

  .. math::
    \min_{w, b} \frac12 \sum_{D \in \{S, T\}} \operatorname{mean}_{i \in D}
      \log\bigl(1 + e^{-y_i (w \cdot x_i + b)}\bigr)
      + \frac{\rho}{2} \lVert w \rVert^2,

  solved to convergence, gives the direction. An exact search over all
  thresholds and both signs on the training rows gives the half-space. The
  held-out rows give the errors. Features are standardized first, with equal
  weight of both domains; the standardization only sets the metric of the ridge.
  A one-dimensional feature needs the search only.

  Args:
    source: `[source_rows, dims]`.
    target: `[target_rows, dims]`; the number of rows may differ.
    ridge: rho > 0, or several values `[ridges]`, solved together. May be
      traced. It is in units of the mean loss, so its meaning does not depend on
      the number of rows: scikit-learn's `C` is 1 / (rho * number of training
      rows), with `class_weight="balanced"`.
    folds: the number of folds. Row i of a domain is held out in fold i mod
      `folds`. With 1 fold the training rows are also the test rows, and the
      estimate is too large (2 for dims >= rows).
    key: a JAX random key, which shuffles the folds and asks for the null
      distribution.
    num_permutations: the number of permutations of the domain labels for the
      null distribution, with a `key` only.

  Returns:
    The estimate, in [0, 2], without gradient; NaN if the input is not finite.
    Call it inside `jax.jit`, with `folds` and `num_permutations` static:
    outside it is compiled at each call.

  Raises:
    ValueError: if a domain has fewer rows than folds, or `ridge` is not above
      0 or has more than one axis.

  Examples:
    >>> source = jnp.linspace(0.0, 1.0, 20)[:, None]
    >>> h_divergence(source, source).value
    Array(0., dtype=float32)
    >>> h_divergence(source, source + 2.0).value
    Array(2., dtype=float32)

  References:
    Ben-David et al., `A theory of learning from different domains
    <https://doi.org/10.1007/s10994-009-5152-4>`_, 2010; the probe's step
    length is from Sun and Tran-Dinh, `Generalized self-concordant functions
    <https://arxiv.org/abs/1703.04599>`_, 2019.
  """
  ops.check_positive("ridge", ridge)
  ops.check_integer("folds", folds, 1)
  ops.check_integer("num_permutations", num_permutations, 0)
  sizes = source.shape[0], target.shape[0]
  if not any(map(ops.is_symbolic, sizes)) and folds > min(sizes):
    raise ValueError(
      f"h_divergence: folds is {folds}; expected a number from 1 to the rows "
      f"of the smaller domain, {min(sizes)}."
    )
  if not source.shape[1]:
    raise ValueError("h_divergence: source has 0 dims; expected at least 1.")
  dtype = jnp.promote_types(
    ops.compute_dtype(source), ops.compute_dtype(target)
  )
  ridge = jnp.asarray(ridge, dtype)
  if ridge.ndim > 1 or not ridge.size:
    raise ValueError(
      f"h_divergence: ridge has shape {ridge.shape}; expected () or [ridges]."
    )

  rows = jnp.concatenate([source.astype(dtype), target.astype(dtype)])
  rows, ridge = jax.lax.stop_gradient((rows, ridge))
  fold = [jnp.arange(size) % folds for size in sizes]
  assignments = jnp.arange(sum(sizes))[None]
  if key is not None:
    if not isinstance(key, jax.Array):
      raise TypeError(
        f"h_divergence: key is {key!r}; expected a JAX random key."
      )
    fold_key, null_key = jax.random.split(key)
    # One key for both domains, so that equal samples have equal folds.
    fold = [jax.random.permutation(fold_key, f) for f in fold]
    permuted = jax.vmap(lambda k: jax.random.permutation(k, assignments[0]))(
      jax.random.split(null_key, num_permutations)
    )
    assignments = jnp.concatenate([assignments, permuted])
  held_out = jnp.concatenate(fold)[None] == jnp.arange(folds)[:, None]

  # The observed labels are the first assignment of one program.
  errors = jax.lax.map(
    lambda order: _errors(rows[order], sizes, held_out, ridge.ravel()),
    assignments,
  )
  errors = errors.reshape(errors.shape[:2] + ridge.shape)
  source_error, target_error = errors[0]
  values = h_divergence_from_errors(errors[:, 0], errors[:, 1])
  with_null = key is not None and num_permutations > 0
  return HDivergence(
    values[0], source_error, target_error, values[1:] if with_null else None
  )


def _errors(
  rows: Float[Array, "rows dims"],
  sizes: tuple[int, int],
  held_out: Bool[Array, "folds rows"],
  ridges: Float[Array, " ridges"],
) -> Float[Array, "domains ridges"]:
  """Returns the held-out error of each domain; the source rows come first."""
  is_source = jnp.arange(rows.shape[0]) < sizes[0]
  training = ~held_out if held_out.shape[0] > 1 else held_out
  if rows.shape[1] == 1:
    scores = jnp.broadcast_to(rows[:, 0], (ridges.size, *held_out.shape))
  else:
    features = ops.standardize_domains(rows, is_source)
    scores = jax.vmap(
      lambda ridge: ops.linear_probe_scores(
        features, is_source, training, ridge
      )
    )(ridges)

  def mistakes(
    scores: Float[Array, " rows"],
    training: Bool[Array, " rows"],
    held_out: Bool[Array, " rows"],
  ) -> Int[Array, " domains"]:
    threshold, source_above = ops.best_threshold(scores, is_source, training)
    wrong = held_out & (((scores > threshold) == source_above) != is_source)
    return jnp.stack([jnp.sum(wrong & is_source), jnp.sum(wrong & ~is_source)])

  over_folds = jax.vmap(mistakes)
  counts = jax.vmap(over_folds, (0, None, None))(scores, training, held_out)
  errors = jnp.sum(counts, 1).T / jnp.array(sizes, rows.dtype)[:, None]
  # Comparisons with NaN are False and would give the errors of no shift.
  return jnp.where(jnp.all(jnp.isfinite(scores)), errors, jnp.nan)
