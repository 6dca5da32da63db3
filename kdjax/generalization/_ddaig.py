"""Deep domain-adversarial image generation (DDAIG)."""

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from kdjax import ops


@ops.validate
def ddaig(
  inputs: Float[Array, "batch ..."],
  perturbation: Float[Array, "batch ..."],
  *,
  weight: ArrayLike = 0.3,
  bounds: tuple[float, float] | None = None,
) -> Float[Array, "batch ..."]:
  r"""Deep domain-adversarial image generation (DDAIG): perturbs the inputs.

  .. math:: x' = x + \lambda G(x)

  Args:
    inputs: `[batch, ...]`.
    perturbation: G(x), of the same shape: the output of a generator, in [-1, 1]
      (tanh). `ddaig_generator_loss` trains the generator.
    weight: \lambda. May be traced.
    bounds: the lowest and the highest value of an input, to which results are
      clipped; None does not clip.

  Returns:
    The perturbed inputs, of the same shape and dtype. To train the label
    network, stop their gradient and use `augmented_loss`. Train the domain
    network on `inputs` alone. Published: weight 0.3, no bounds (Dassl).

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
      f"{inputs.shape}, the shape of inputs."
    )
  x = inputs.astype(ops.compute_dtype(inputs))
  scale = ops.as_number("weight", weight, x.dtype)
  perturbed = x + scale * perturbation.astype(x.dtype)
  if bounds is not None:
    if not isinstance(bounds, list | tuple) or len(bounds) != 2:
      raise ValueError(f"ddaig: bounds is {bounds!r}; expected (low, high).")
    perturbed = jnp.clip(perturbed, *bounds)
  return perturbed.astype(inputs.dtype)


@ops.validate
def ddaig_generator_loss(
  label_logits: Float[Array, "*batch classes"],
  labels: Int[Array, "*batch"],
  domain_logits: Float[Array, "*batch domains"],
  domains: Int[Array, "*batch"],
) -> Float[Array, "*batch"]:
  r"""Deep domain-adversarial image generation (DDAIG): the generator's loss.

  .. math::
    \ell = H(y, \operatorname{softmax}(F(x')))
         - H(d, \operatorname{softmax}(D(x')))

  The label network F still recognizes a perturbed input x'; the domain network
  D does not.

  Args:
    label_logits: `[*batch, classes]`, the logits of F.
    labels: `[*batch]`, integers.
    domain_logits: `[*batch, domains]`, the logits of D.
    domains: `[*batch]`, the domain of each example, integers.

  Returns:
    One value an example, without lower bound. Use its gradient for the
    generator only. Published weights: 1 and -1.

  Raises:
    ValueError: if shapes do not fit.
    TypeError: if logits are not floating-point or labels are not integers.

  Examples:
    >>> zero = jnp.zeros(1, int)
    >>> ddaig_generator_loss(jnp.zeros((1, 2)), zero, jnp.zeros((1, 2)), zero)
    Array([0.], dtype=float32)

  References:
    Zhou et al., `Deep domain-adversarial image generation for domain
    generalization <https://arxiv.org/abs/2003.06054>`_, 2020.
  """
  return ops.cross_entropy(label_logits, labels) - ops.cross_entropy(
    domain_logits, domains
  )
