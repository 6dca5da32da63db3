"""Conditional domain-adversarial networks (CDAN)."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from kdjax import ops
from kdjax.adaptation.predictions._entropy import entropy_weight


@ops.validate
def cdan_map(
  features: Float[Array, "batch dims"],
  probabilities: Float[Array, "batch classes"],
  *,
  matrices: tuple[Array, Array] | None = None,
  stop_probability_gradient: bool = True,
) -> Float[Array, "batch mapped"]:
  r"""Multilinear map (CDAN): the input of the conditional discriminator.

  .. math::
    h = g \otimes f, \qquad
    h = \frac{(f R_f) \odot (g R_g)}{\sqrt{d}}

  The first map has classes times dims entries. The second, randomized map has d
  entries; the authors' code uses it for classes times dims above 4096.

  Args:
    features: f, `[batch, dims]`.
    probabilities: g, `[batch, classes]`, of the classifier.
    matrices: R_f `[dims, d]` and R_g `[classes, d]` from `cdan_matrices`, for
      the randomized map. They get no gradient.
    stop_probability_gradient: whether the probabilities get no gradient. True
      in all published codes.

  Returns:
    `[batch, classes * dims]`, class by class, or `[batch, d]`. Reverse its
    gradient, apply the discriminator, and pass the logits to `dann_loss`.

  Raises:
    ValueError: if shapes disagree.
    TypeError: if the arrays are not floating-point.

  Examples:
    >>> cdan_map(jnp.array([[1.0, 2.0]]), jnp.array([[0.25, 0.75]]))
    Array([[0.25, 0.5 , 0.75, 1.5 ]], dtype=float32)

  References:
    Long et al., `Conditional adversarial domain adaptation
    <https://arxiv.org/abs/1705.10667>`_, 2018.
  """
  dtype = jnp.promote_types(
    ops.compute_dtype(features), ops.compute_dtype(probabilities)
  )
  features = features.astype(dtype)
  probabilities = probabilities.astype(dtype)
  if stop_probability_gradient:
    probabilities = jax.lax.stop_gradient(probabilities)
  if matrices is None:
    product = probabilities[:, :, None] * features[:, None, :]
    return product.reshape(features.shape[0], -1)
  of_features, of_classes = jax.lax.stop_gradient(matrices)
  width = of_features.shape[-1]
  for name, matrix, rows in (
    ("matrices[0]", of_features, features.shape[1]),
    ("matrices[1]", of_classes, probabilities.shape[1]),
  ):
    if matrix.shape != (rows, width):
      raise ValueError(
        f"cdan_map: {name} has shape {matrix.shape}; expected {(rows, width)}."
      )

  def random(x: Array, matrix: Array) -> Array:
    return jnp.matmul(x, matrix.astype(dtype), precision="highest")

  mapped = random(features, of_features) * random(probabilities, of_classes)
  return mapped / jnp.sqrt(jnp.asarray(width, dtype))


@ops.validate
def cdan_matrices(
  key: Array,
  dims: int,
  num_classes: int,
  *,
  mapped_dims: int = 1024,
  dtype: Any = float,
) -> tuple[Float[Array, "dims mapped"], Float[Array, "classes mapped"]]:
  r"""Random matrices of CDAN: standard normal, drawn once, never trained.

  Save them in the checkpoint, because the discriminator learns on their output
  (TLlib and the authors do not save them).

  Args:
    key: a JAX random key.
    dims: the width of the features.
    num_classes: the number of classes.
    mapped_dims: d, the width of the randomized map.
    dtype: the dtype of the matrices.

  Returns:
    R_f `[dims, mapped_dims]` and R_g `[classes, mapped_dims]` for `cdan_map`.

  Raises:
    ValueError: if a size is not positive.
    TypeError: if a size is not an integer.

  Examples:
    >>> matrices = cdan_matrices(jax.random.key(0), 2, 3, mapped_dims=5)
    >>> [matrix.shape for matrix in matrices]
    [(2, 5), (3, 5)]
    >>> cdan_map(jnp.ones((4, 2)), jnp.ones((4, 3)), matrices=matrices).shape
    (4, 5)

  References:
    Long et al., `Conditional adversarial domain adaptation
    <https://arxiv.org/abs/1705.10667>`_, 2018, section 3.1.
  """
  for name, size in (
    ("dims", dims),
    ("num_classes", num_classes),
    ("mapped_dims", mapped_dims),
  ):
    ops.check_integer(name, size, 1)
  keys = jax.random.split(key)
  return (
    jax.random.normal(keys[0], (dims, mapped_dims), dtype),
    jax.random.normal(keys[1], (num_classes, mapped_dims), dtype),
  )


@ops.validate
def cdan_weights(
  source_probabilities: Float[Array, "source classes"],
  target_probabilities: Float[Array, "target classes"],
  *,
  normalize: str = "joint",
  where_source: Bool[Array, " source"] | None = None,
  where_target: Bool[Array, " target"] | None = None,
  axis_name: str | None = None,
) -> tuple[Float[Array, " source"], Float[Array, " target"]]:
  r"""Entropy conditioning (CDAN+E): larger weights for confident examples.

  .. math::
    w_i \propto 1 + e^{-H(p_i)}, \qquad
    H(p) = -\sum_c p_c \log(p_c + 10^{-5})

  Args:
    source_probabilities: `[source, classes]`, of the classifier.
    target_probabilities: `[target, classes]`.
    normalize: "joint" scales to mean 1 over both domains together (TLlib),
      "domain" to mean 1 over each domain (the authors' PyTorch code).
    where_source: mask of the source examples; masked examples get weight 0.
    where_target: mask of the target examples.
    axis_name: the mapped axis that holds the rest of the batch.

  Returns:
    `[source]` and `[target]`, the `source_weights` and `target_weights` of
    `dann_loss`. Use `scaling="pooled"` there for TLlib's loss of domains of
    equal size, and "mean" for the authors' loss.

  Raises:
    ValueError: if the numbers of classes differ or `normalize` is unknown.
    TypeError: if the probabilities are not floating-point.

  The weights get no gradient, as in TLlib. In the authors' code a gradient
  flows through the entropy and a second reversal.

  Examples:
    >>> sure, unsure = jnp.array([[1.0, 0.0]]), jnp.array([[0.5, 0.5]])
    >>> source, target = cdan_weights(sure, unsure)
    >>> print(f"{source[0]:.4f} {target[0]:.4f}")
    1.1429 0.8571

  References:
    Long et al., `Conditional adversarial domain adaptation
    <https://arxiv.org/abs/1705.10667>`_, 2018, section 3.2.
  """
  ops.check_choice("normalize", normalize, ("joint", "domain"))
  weights, sums, counts = [], [], []
  for probabilities, where in (
    (source_probabilities, where_source),
    (target_probabilities, where_target),
  ):
    rows, mask = ops.masked_rows(probabilities, where)
    weights.append(mask * entropy_weight(rows))
    moments = ops.sum_over_devices(
      (jnp.sum(weights[-1]), jnp.sum(mask)), axis_name
    )
    sums.append(moments[0])
    counts.append(moments[1])
  if normalize == "joint":
    sums, counts = [sum(sums)] * 2, [sum(counts)] * 2
  source, target = (
    weight * count / jnp.where(mass > 0, mass, 1.0)
    for weight, mass, count in zip(weights, sums, counts, strict=True)
  )
  return source, target
