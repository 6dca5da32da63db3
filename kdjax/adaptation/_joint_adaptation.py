"""The H-divergence as a term of a training objective."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from kdjax.ops import masked_mean
from kdjax.ops._collectives import total
from kdjax.ops._rows import masked_rows
from kdjax.ops._softmax import compute_dtype
from kdjax.ops._validation import as_number
from kdjax.ops._validation import check_choice
from kdjax.ops._validation import check_positive
from kdjax.ops._validation import check_range
from kdjax.ops._validation import validate


def h_divergence_from_errors(
  source_error: ArrayLike, target_error: ArrayLike
) -> Float[Array, "..."]:
  r"""H-divergence from the error rates of the best domain classifier.

  .. math::
    d_{\mathcal H} = \max\bigl(0,
      2 (1 - (\operatorname{err}_S + \operatorname{err}_T))\bigr)

  The clip is no repair: H holds the constant classifiers, whose two errors add
  up to 1, so a larger sum was not the minimum.

  Args:
    source_error: share of source rows taken for target, in [0, 1], any shape.
    target_error: share of target rows taken for source, of the same shape.

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
  check_range("source_error", source_error, 0.0, 1.0)
  check_range("target_error", target_error, 0.0, 1.0)
  source_error, target_error = map(jnp.asarray, (source_error, target_error))
  if source_error.shape != target_error.shape:
    raise ValueError(
      f"h_divergence_from_errors: target_error has shape "
      f"{target_error.shape}; expected {source_error.shape}, as in "
      "source_error."
    )
  source_error = source_error.astype(compute_dtype(source_error))
  return jnp.maximum(2.0 * (1.0 - (source_error + target_error)), 0.0)


@validate
def soft_h_divergence(
  domain_logits_source: Float[Array, " source"] | Float[Array, "source 1"],
  domain_logits_target: Float[Array, " target"] | Float[Array, "target 1"],
  *,
  where_source: Bool[Array, " source"] | None = None,
  where_target: Bool[Array, " target"] | None = None,
  axis_name: str | None = None,
) -> Float[Array, ""]:
  r"""Soft H-divergence: the differentiable surrogate, for training.

  .. math::
    \tilde d = 2 \Bigl(1 - \bigl[\operatorname{mean}_{i \in S} \sigma(-z_i)
      + \operatorname{mean}_{j \in T} \sigma(z_j)\bigr]\Bigr)

  The sigmoid stands for the 0-1 error of a discriminator whose positive logits
  say "source". The value is a lower bound that the discriminator raises and
  the features lower. To minimise it over the features with one optimizer while
  the value keeps its sign, reverse the gradient of the discriminator's
  parameters::

    def transfer(features_source, features_target, discriminator):
      discriminator = reverse_gradient(discriminator)  # it ascends
      return soft_h_divergence(
        apply(discriminator, features_source),
        apply(discriminator, features_target),
      )

  It is not clipped (a clip would leave a bad discriminator without gradient),
  so early in training it may be negative. A discriminator that separates the
  domains saturates the sigmoids and no gradient is left for the features:
  train with :func:`dann_loss` there and use this for the value, or keep the
  discriminator weak. It measures the mini-batch it gets, on which a
  discriminator with more dimensions than rows is always right; report
  :func:`h_divergence` of held-out data.

  Args:
    domain_logits_source: `[source]` or `[source, 1]`, the discriminator's
      logits of source examples.
    domain_logits_target: `[target]` or `[target, 1]`, of target examples.
    where_source: which source examples count.
    where_target: which target examples count.
    axis_name: the mapped axis that holds the rest of the batch.

  Returns:
    A scalar in [-2, 2]; 0 with gradient 0 if a domain has no example.

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
    logits, mask = masked_rows(logits.reshape(-1), where)
    means.append(
      masked_mean(jax.nn.sigmoid(logits), where, axis_name=axis_name)
    )
    counts.append(total(jnp.sum(mask), axis_name))
  # sigma(-z) = 1 - sigma(z), and the ones cancel.
  value = 2.0 * (means[0] - means[1])
  return jnp.where((counts[0] > 0) & (counts[1] > 0), value, 0.0)


@validate
def jda_loss(
  task_losses: Float[Array, " source"],
  divergence: Float[Array, ""],
  *,
  num_target: ArrayLike,
  num_source: ArrayLike | None = None,
  weight: ArrayLike = 1.0,
  normalize: str = "all",
  where: Bool[Array, " source"] | None = None,
  axis_name: str | None = None,
) -> Float[Array, ""]:
  r"""Joint domain adaptation objective: task loss plus domain divergence.

  .. math::
    L = \frac{1}{n_S + n_T} \sum_{i=1}^{n_S} \ell_i
        + \lambda \, d_{\mathcal H}(S, T)

  Only source examples have labels, so the sum has n_S terms and 1/(n_S + n_T)
  is not their mean: it scales the task by n_S / (n_S + n_T). At n_S = n_T the
  task halves, and a lambda counts twice what it does in the codes that
  minimise "mean cross-entropy + lambda * transfer" (TLlib, DeepDA, Dassl);
  halve theirs to get the same minimiser. `normalize="labelled"` divides by
  n_S and takes their lambda as it is.

  Not to be confused with Joint Distribution Adaptation (Long et al., 2013), a
  closed-form transform that shares the initials.

  Args:
    task_losses: `[source]`, one loss a labelled example of this device.
    divergence: the divergence of the whole batch, a scalar: the same on
      every device and never summed over them. To train, one with a gradient,
      such as :func:`soft_h_divergence`; :func:`h_divergence` has none.
    num_target: n_T, the number of target examples of the global batch.
    num_source: n_S of the global batch; by default it is counted, over
      `where` and `axis_name`.
    weight: lambda.
    normalize: "all" for 1/(n_S + n_T), the formula above, or "labelled" for
      1/n_S.
    where: which examples count.
    axis_name: the mapped axis that holds the rest of `task_losses`.

  Returns:
    A scalar.

  Raises:
    ValueError: if `normalize` is unknown, or a static count is not above 0.

  Examples:
    >>> losses, divergence = jnp.array([1.0, 3.0]), jnp.array(0.5)
    >>> jda_loss(losses, divergence, num_target=2)
    Array(1.5, dtype=float32)
    >>> jda_loss(losses, divergence, num_target=2, normalize="labelled")
    Array(2.5, dtype=float32)

  References:
    Ben-David et al., `Analysis of representations for domain adaptation
    <https://papers.nips.cc/paper/2983>`_, 2006, whose bound it minimises.
  """
  check_choice("normalize", normalize, ("all", "labelled"))
  check_positive("num_target", num_target)
  if num_source is not None:
    check_positive("num_source", num_source)
  task_losses, mask = masked_rows(task_losses, where)
  task, count = total((jnp.sum(task_losses), jnp.sum(mask)), axis_name)
  if num_source is not None:
    count = jnp.asarray(num_source, task.dtype)
  if normalize == "all":
    count = count + jnp.asarray(num_target, task.dtype)
  weight = as_number("weight", weight, task.dtype)
  return task / jnp.maximum(count, 1.0) + weight * divergence
