"""CrossGrad: inputs perturbed towards other domains."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from kdjax.ops import as_fraction
from kdjax.ops import as_number
from kdjax.ops import check_choice
from kdjax.ops import check_positive
from kdjax.ops import compute_dtype
from kdjax.ops import sum_over_devices
from kdjax.ops import validate


@validate
def crossgrad(
  loss_fn: Callable[[Array], Array],
  inputs: Float[Array, "batch ..."],
  *,
  epsilon: ArrayLike = 1.0,
  clip: ArrayLike = 0.1,
  scaling: str = "mean",
  where: Bool[Array, " batch"] | None = None,
  axis_name: str | None = None,
) -> Float[Array, "batch ..."]:
  r"""CrossGrad: inputs moved along the gradient of another task's loss.

  .. math::
    x' = x + \epsilon \operatorname{clip}(\nabla_x \ell(x), -c, c)

  The label network learns from inputs moved by the domain network's loss, and
  the other way round; each weighs old and new by `augmented_loss`::

    moved = crossgrad(lambda x: domain_losses(x, domains), inputs)
    loss = augmented_loss(label_losses(inputs), label_losses(moved))

  Args:
    loss_fn: the loss of each example, `[batch, ...] -> [batch]`.
    inputs: `[batch, ...]`.
    epsilon: the length of the step. May be traced.
    clip: c, above 0; infinite for the paper's formula. May be traced.
    scaling: whose gradient is clipped: of the "mean" over the batch (Dassl), so
      that epsilon grows with the batch until the clip binds, or of the "sum",
      each example's own loss (the paper).
    where: `[batch]`, which examples count, of the mean.
    axis_name: the mapped axis that holds the rest of the batch.

  Returns:
    Moved inputs, of the same shape and dtype, without gradient. Published:
    epsilon 1 and clip 0.1 for both networks (Dassl).

  Raises:
    ValueError: if `scaling` is unknown or a static clip is not above 0.

  Dassl's names are by the network that learns: `EPS_F` scales the domain
  network's gradient.

  Examples:
    >>> inputs = jnp.array([[1.0], [2.0]])
    >>> crossgrad(lambda x: 0.03 * x[:, 0] ** 2, inputs, scaling="sum")
    Array([[1.06],
           [2.1 ]], dtype=float32)

  References:
    Shankar et al., `Generalizing across domains via cross-gradient training
    <https://arxiv.org/abs/1804.10745>`_, 2018.
  """
  check_choice("scaling", scaling, ("mean", "sum"))
  if not (isinstance(clip, float) and clip == jnp.inf):
    check_positive("clip", clip)
  keep = jnp.ones(inputs.shape[:1], bool) if where is None else where

  def summed(inputs: Array) -> Float[Array, ""]:
    losses = loss_fn(inputs)
    if losses.shape != keep.shape:
      raise ValueError(
        f"crossgrad: loss_fn returned shape {losses.shape}; expected one value "
        f"an example, {keep.shape}."
      )
    return jnp.sum(jnp.where(keep, losses, 0.0))

  dtype = compute_dtype(inputs)
  gradients = jax.grad(summed)(inputs).astype(dtype)
  if scaling == "mean":
    count = sum_over_devices(jnp.sum(keep, dtype=dtype), axis_name)
    gradients = gradients / jnp.maximum(count, 1)
  limit = as_number("clip", clip, dtype)
  step = as_number("epsilon", epsilon, dtype)
  moved = inputs.astype(dtype) + step * jnp.clip(gradients, -limit, limit)
  return jax.lax.stop_gradient(moved.astype(inputs.dtype))


@validate
def augmented_loss(
  losses: Float[Array, "*batch"],
  augmented_losses: Float[Array, "*batch"],
  *,
  alpha: ArrayLike = 0.5,
) -> Float[Array, "*batch"]:
  r"""Augmented loss: of an example and of its perturbed copy.

  .. math:: (1 - \alpha)\, \ell(x) + \alpha\, \ell(x')

  Args:
    losses: `[*batch]`, of the inputs as they are.
    augmented_losses: `[*batch]`, of the perturbed inputs.
    alpha: in [0, 1]; 0 while a generator warms up. May be traced.

  Returns:
    One value an example. Published alpha: 0.5, for both networks of CrossGrad
    and for DDAIG's label network (Dassl), there after 3 epochs at 0 on PACS and
    Office-Home.

  Raises:
    ValueError: if the shapes differ or a static alpha is outside [0, 1].

  Examples:
    >>> augmented_loss(jnp.array([1.0]), jnp.array([3.0]))
    Array([2.], dtype=float32)

  References:
    Shankar et al., `Generalizing across domains via cross-gradient training
    <https://arxiv.org/abs/1804.10745>`_, 2018.
  """
  dtype = jnp.promote_types(
    compute_dtype(losses), compute_dtype(augmented_losses)
  )
  share = as_fraction("alpha", alpha, dtype)
  return (1 - share) * losses.astype(dtype) + share * augmented_losses.astype(
    dtype
  )
