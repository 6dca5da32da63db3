"""The joint domain adaptation objective (JDA): task and H-divergence."""

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from kdjax import ops


@ops.validate
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

  Only source examples have labels. The sum therefore has n_S terms, and the
  factor 1/(n_S + n_T) scales their mean by n_S / (n_S + n_T). For n_S = n_T the
  task loss is halved, and lambda has twice the effect that it has in codes with
  "mean cross-entropy + lambda * transfer" (TLlib, DeepDA, Dassl): halve their
  lambda for the same minimizer. `normalize="labelled"` divides by n_S, and
  their lambda applies unchanged.

  Joint Distribution Adaptation (Long et al., 2013), a closed-form transform,
  has the same initials; see `transforms.joint_distribution_adaptation`.

  Args:
    task_losses: `[source]`, the losses of the labeled examples of this device.
    divergence: the divergence of the whole batch, a scalar that is equal on all
      devices and is not summed over them. Training needs a divergence with a
      gradient, such as `soft_h_divergence`; `h_divergence` has none.
    num_target: n_T, the number of target examples in the global batch.
    num_source: n_S of the global batch. By default the number of unmasked
      examples over all devices.
    weight: lambda. May be traced.
    normalize: "all" for 1/(n_S + n_T), the formula above, or "labelled" for
      1/n_S.
    where: mask of the examples.
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
    <https://papers.nips.cc/paper/2983>`_, 2006, whose bound it minimizes.
  """
  ops.check_choice("normalize", normalize, ("all", "labelled"))
  ops.check_positive("num_target", num_target)
  if num_source is not None:
    ops.check_positive("num_source", num_source)
  task_losses, mask = ops.masked_rows(task_losses, where)
  task, count = ops.sum_over_devices(
    (jnp.sum(task_losses), jnp.sum(mask)), axis_name
  )
  if num_source is not None:
    count = jnp.asarray(num_source, task.dtype)
  if normalize == "all":
    count = count + jnp.asarray(num_target, task.dtype)
  weight = ops.as_number("weight", weight, task.dtype)
  return task / jnp.maximum(count, 1.0) + weight * divergence
