"""Cross-gradient training (CrossGrad): inputs perturbed across domains."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from kdjax import ops


@ops.validate
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
  r"""Cross-gradient training (CrossGrad): perturbs inputs by a loss's gradient.

  .. math::
    x' = x + \epsilon \operatorname{clip}(\nabla_x \ell(x), -c, c)

  The label network is trained on inputs that the domain network's loss
  perturbs; the domain network on inputs that the label network's loss perturbs.
  Both combine clean and perturbed inputs by `augmented_loss`::

    perturbed = crossgrad(lambda x: domain_losses(x, domains), inputs)
    loss = augmented_loss(label_losses(inputs), label_losses(perturbed))

  Args:
    loss_fn: the loss of each example, `[batch, ...] -> [batch]`.
    inputs: `[batch, ...]`.
    epsilon: the step size. May be traced.
    clip: c, above 0; infinite for the paper's formula. May be traced.
    scaling: the loss that is differentiated. "mean": the mean over the
      batch, whose gradients shrink as the batch grows (Dassl). "sum": the loss
      of each example (the paper).
    where: `[batch]`, True for the examples in the mean.
    axis_name: the mapped axis that holds the rest of the batch.

  Returns:
    The perturbed inputs, of the same shape and dtype, without gradient.
    Published: epsilon 1 and clip 0.1 for both networks (Dassl).

  Raises:
    ValueError: if `scaling` is unknown, a static clip is not above 0 or
      `loss_fn` does not return one value an example.

  Dassl names each step size after the network that is trained: `EPS_F`, of the
  label network F, scales the gradient of the domain network.

  Examples:
    >>> inputs = jnp.array([[1.0], [2.0]])
    >>> crossgrad(lambda x: 0.03 * x[:, 0] ** 2, inputs, scaling="sum")
    Array([[1.06],
           [2.1 ]], dtype=float32)

  References:
    Shankar et al., `Generalizing across domains via cross-gradient training
    <https://arxiv.org/abs/1804.10745>`_, 2018.
  """
  ops.check_choice("scaling", scaling, ("mean", "sum"))
  if not (isinstance(clip, float) and clip == jnp.inf):
    ops.check_positive("clip", clip)
  keep = jnp.ones(inputs.shape[:1], bool) if where is None else where

  def total_loss(inputs: Array) -> Float[Array, ""]:
    losses = loss_fn(inputs)
    if losses.shape != keep.shape:
      raise ValueError(
        f"crossgrad: loss_fn returned shape {losses.shape}; expected one value "
        f"an example, {keep.shape}. Remove the reduction over the batch."
      )
    return jnp.sum(jnp.where(keep, losses, 0.0))

  dtype = ops.compute_dtype(inputs)
  gradients = jax.grad(total_loss)(inputs).astype(dtype)
  if scaling == "mean":
    count = ops.sum_over_devices(jnp.sum(keep, dtype=dtype), axis_name)
    gradients = gradients / jnp.maximum(count, 1)
  limit = ops.as_number("clip", clip, dtype)
  ops.check_range("epsilon", epsilon, 0.0, math.inf)
  step = ops.as_number("epsilon", epsilon, dtype)
  perturbed = inputs.astype(dtype) + step * jnp.clip(gradients, -limit, limit)
  return jax.lax.stop_gradient(perturbed.astype(inputs.dtype))


@ops.validate
def augmented_loss(
  losses: Float[Array, "*batch"],
  augmented_losses: Float[Array, "*batch"],
  *,
  alpha: ArrayLike = 0.5,
) -> Float[Array, "*batch"]:
  r"""Augmented loss: averages the losses of clean and perturbed inputs.

  .. math:: (1 - \alpha)\, \ell(x) + \alpha\, \ell(x')

  Args:
    losses: `[*batch]`, the losses of the clean inputs.
    augmented_losses: `[*batch]`, the losses of the perturbed inputs.
    alpha: the weight of the perturbed inputs, in [0, 1]; 0 while a generator is
      warmed up. May be traced.

  Returns:
    One value an example. Published alpha (Dassl): 0.5 for both networks of
    CrossGrad and for the label network of DDAIG. On PACS and Office-Home, DDAIG
    uses 0 for the first 3 epochs.

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
    ops.compute_dtype(losses), ops.compute_dtype(augmented_losses)
  )
  share = ops.as_fraction("alpha", alpha, dtype)
  return (1 - share) * losses.astype(dtype) + share * augmented_losses.astype(
    dtype
  )
