"""The H-divergence of two samples, estimated by a probe solved exactly."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from kdjax.adaptation import _probe
from kdjax.adaptation._joint_adaptation import h_divergence_from_errors
from kdjax.ops._softmax import compute_dtype
from kdjax.ops._validation import check_integer
from kdjax.ops._validation import check_positive
from kdjax.ops._validation import validate


class HDivergence(NamedTuple):
  """An estimate of the H-divergence; `ridges` is `ridge`'s own shape.

  Attributes:
    value: `[*ridges]`, 2 (1 - (source_error + target_error)) clipped at 0.
    source_error: `[*ridges]`, share of held-out source rows taken for target.
    target_error: `[*ridges]`, share of held-out target rows taken for source.
    null: `[permutations, *ridges]`, the value under permuted domain labels;
      None without permutations. The p-value of "the domains are equal" is
      (1 + the number of null values >= value) / (1 + permutations).

  References:
    Ben-David et al., `A theory of learning from different domains
    <https://doi.org/10.1007/s10994-009-5152-4>`_, 2010.
  """

  value: Float[Array, " *ridges"]
  source_error: Float[Array, " *ridges"]
  target_error: Float[Array, " *ridges"]
  null: Float[Array, " permutations *ridges"] | None


@validate
def h_divergence(
  source: Float[Array, "source_rows dims"],
  target: Float[Array, "target_rows dims"],
  *,
  ridge: ArrayLike = 1e-2,
  folds: int = 5,
  key: Any | None = None,
  permutations: int = 100,
) -> HDivergence:
  r"""H-divergence between two samples, by an exact linear probe.

  .. math::
    d_{\mathcal H} = 2 \Bigl(1 - \min_{\eta \in \mathcal H}
      \bigl[\operatorname{err}_S(\eta) + \operatorname{err}_T(\eta)\bigr]\Bigr)

  Each domain has its own error rate, so the ratio of the sample sizes does not
  matter; the usual proxy A-distance pools them and calls equal samples of size
  1 : 9 far apart (1.6). H is the half-spaces. Per fold, a logistic regression,

  .. math::
    \min_{w, b} \frac12 \sum_{D \in \{S, T\}} \operatorname{mean}_{i \in D}
      \log\bigl(1 + e^{-y_i (w \cdot x_i + b)}\bigr)
      + \frac{\rho}{2} \lVert w \rVert^2,

  solved to convergence, gives the direction; an exact search over all
  thresholds and both polarities of the training rows gives the half-space; the
  held-out rows give the errors. Features are standardised beforehand (each
  domain counting half; this sets only the metric of the ridge). A
  one-dimensional feature needs no probe and the search alone decides.

  Args:
    source: `[source_rows, dims]`.
    target: `[target_rows, dims]`; the number of rows may differ.
    ridge: rho > 0, or `[ridges]` of them, solved together; may be traced. In
      units of the mean loss, so its meaning does not change with the number
      of rows: scikit-learn's `C` is 1 / (rho * number of training rows), with
      `class_weight="balanced"`.
    folds: row i of a domain is held out in fold i mod `folds`. With 1 the
      rows are scored by a probe that has seen them: the in-sample minimum,
      which is too large (2 as soon as dims >= rows).
    key: shuffles the folds, and adds the null distribution.
    permutations: how many times the domain labels are permuted, if there is a
      `key`.

  Returns:
    The estimate, in [0, 2], which no gradient leaves. NaN where the input is
    not finite. Wrap the call in `jax.jit` with `folds` and `permutations`
    static, or it is compiled each time.

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
  check_positive("ridge", ridge)
  check_integer("folds", folds, 1)
  check_integer("permutations", permutations, 0)
  sizes = source.shape[0], target.shape[0]
  if folds > min(sizes):
    raise ValueError(
      f"h_divergence: folds is {folds}; expected a number from 1 to the rows "
      f"of the smaller domain, {min(sizes)}."
    )
  if not source.shape[1]:
    raise ValueError("h_divergence: source has 0 dims; expected at least 1.")
  dtype = jnp.promote_types(compute_dtype(source), compute_dtype(target))
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
      raise TypeError(f"h_divergence: key is {key!r}; expected a PRNG key.")
    fold_key, null_key = jax.random.split(key)
    # One key for both, so that equal samples stay in step.
    fold = [jax.random.permutation(fold_key, f) for f in fold]
    permuted = jax.vmap(lambda k: jax.random.permutation(k, assignments[0]))(
      jax.random.split(null_key, permutations)
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
  with_null = key is not None and permutations > 0
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
    features = _probe.standardize(rows, is_source)
    scores = jax.vmap(
      lambda ridge: _probe.probe_scores(features, is_source, training, ridge)
    )(ridges)

  def mistakes(
    scores: Float[Array, " rows"],
    training: Bool[Array, " rows"],
    held_out: Bool[Array, " rows"],
  ) -> Int[Array, " domains"]:
    threshold, source_above = _probe.best_threshold(scores, is_source, training)
    wrong = held_out & (((scores > threshold) == source_above) != is_source)
    return jnp.stack([jnp.sum(wrong & is_source), jnp.sum(wrong & ~is_source)])

  over_folds = jax.vmap(mistakes)
  counts = jax.vmap(over_folds, (0, None, None))(scores, training, held_out)
  errors = jnp.sum(counts, 1).T / jnp.array(sizes, rows.dtype)[:, None]
  # Comparisons with NaN are False, which would read as "no shift".
  return jnp.where(jnp.all(jnp.isfinite(scores)), errors, jnp.nan)
