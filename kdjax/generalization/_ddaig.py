"""Deep domain-adversarial image generation (DDAIG)."""

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from kdjax.ops import as_number
from kdjax.ops import compute_dtype
from kdjax.ops import cross_entropy
from kdjax.ops import validate


@validate
def ddaig(
  inputs: Float[Array, "batch ..."],
  perturbation: Float[Array, "batch ..."],
  *,
  weight: ArrayLike = 0.3,
  bounds: tuple[float, float] | None = None,
) -> Float[Array, "batch ..."]:
  r"""Domain-adversarial image generation (DDAIG): the perturbed inputs.

  .. math:: x' = x + \lambda G(x)

  Args:
    inputs: `[batch, ...]`.
    perturbation: G(x), of the same shape: a generator's output in [-1, 1]
      (tanh), trained by `ddaig_generator_loss`.
    weight: \lambda. May be traced.
    bounds: the lowest and the highest value of an input; None for no bounds.

  Returns:
    Perturbed inputs, of the same shape and dtype. For the label network's step
    stop their gradient and weigh them by `augmented_loss`; the domain
    network learns from `inputs` alone. Published: weight 0.3, no bounds
    (Dassl).

  Raises:
    ValueError: if the shapes differ.

  Examples:
    >>> ddaig(jnp.array([0.5]), jnp.array([1.0]), bounds=(0.0, 0.75))
    Array([0.75], dtype=float32)

  References:
    Zhou et al., `Deep domain-adversarial image generation for domain
    generalization <https://arxiv.org/abs/2003.06054>`_, 2020.
  """
  if inputs.shape != perturbation.shape:
    raise ValueError(
      f"ddaig: perturbation has shape {perturbation.shape}; expected "
      f"{inputs.shape}, as in inputs."
    )
  x = inputs.astype(compute_dtype(inputs))
  share = as_number("weight", weight, x.dtype)
  moved = x + share * perturbation.astype(x.dtype)
  if bounds is not None:
    moved = jnp.clip(moved, *bounds)
  return moved.astype(inputs.dtype)


@validate
def ddaig_generator_loss(
  label_logits: Float[Array, "*batch classes"],
  labels: Int[Array, "*batch"],
  domain_logits: Float[Array, "*batch domains"],
  domains: Int[Array, "*batch"],
) -> Float[Array, "*batch"]:
  r"""DDAIG's generator loss: the class stays, the domain is lost.

  .. math::
    \ell = H(y, \operatorname{softmax}(F(x')))
         - H(d, \operatorname{softmax}(D(x')))

  Args:
    label_logits: `[*batch, classes]`, F of the perturbed inputs.
    labels: `[*batch]`, integers.
    domain_logits: `[*batch, domains]`, D of the perturbed inputs.
    domains: `[*batch]`, integers.

  Returns:
    One value an example; not bounded below. It trains the generator only.
    Published weights: 1 and -1.

  Raises:
    ValueError: if shapes do not fit.
    TypeError: if logits are not floating-point or labels no integers.

  Examples:
    >>> zero = jnp.zeros(1, int)
    >>> ddaig_generator_loss(jnp.zeros((1, 2)), zero, jnp.zeros((1, 2)), zero)
    Array([0.], dtype=float32)

  References:
    Zhou et al., `Deep domain-adversarial image generation for domain
    generalization <https://arxiv.org/abs/2003.06054>`_, 2020.
  """
  return cross_entropy(label_logits, labels) - cross_entropy(
    domain_logits, domains
  )
