"""Soft neighborhood density (SND)."""

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from kdjax import adaptation, ops


@ops.validate
def snd_score(
  target_features: Float[Array, "batch dims"],
  *,
  temperature: ArrayLike = 0.05,
  chunk_size: int | None = 1024,
  where: Bool[Array, " batch"] | None = None,
  axis_name: str | None = None,
) -> Float[Array, ""]:
  r"""Soft neighborhood density (SND): entropy of similarities to neighbors.

  .. math::
    s = \operatorname{mean}_i H(q_i), \qquad
    q_{ij} = \frac{\exp(\hat z_i \cdot \hat z_j / T)}
                  {\sum_{k \neq i} \exp(\hat z_i \cdot \hat z_k / T)}, \quad
    j \neq i, \qquad \hat z = z / \lVert z \rVert

  Args:
    target_features: `[batch, dims]`, z. The published choice is the
      PROBABILITIES of the classes, `softened_softmax(logits)`. Rows are
      normalized to length 1 here; a row of zeros stays zero.
    temperature: T > 0. May be traced.
    chunk_size: the number of rows of the similarity matrix that are in memory
      at a time, in the backward pass too; a static integer. None keeps the
      whole matrix.
    where: mask of the examples.
    axis_name: the mapped axis that holds the rest of the batch; rows are
      gathered.

  Returns:
    A scalar in [0, log(B - 1)], higher is better; 0 for fewer than three
    examples. Compare models on the same number of examples. The score may also
    increase for a collapsed model.

  Raises:
    ValueError: if a static temperature is not above 0 or `chunk_size` is not
      positive.

  skada replaces the similarity of an example to itself by -1 / T instead of
  leaving it out, which adds e^(-2 / T) times the weight of the closest
  neighbor.

  Examples:
    >>> print(f"{snd_score(jnp.ones((5, 3))):.4f}")  # log 4
    1.3863

  References:
    Saito et al., `Tune it the right way: unsupervised validation of domain
    adaptation via soft neighborhood density
    <https://arxiv.org/abs/2108.10860>`_, 2021.
  """
  rows, mask = ops.masked_rows(target_features, where)
  scale = ops.row_temperature(temperature, rows[0], -1)
  norms = ops.safe_norm(rows, keepdims=True)
  rows = rows / jnp.where(norms > 0, norms, 1.0)
  others = ops.gather_batch(rows, axis_name)
  counted = ops.gather_batch(mask, axis_name) > 0

  def entropy(part: tuple[Array, Array]) -> Float[Array, " rows"]:
    own, places = part
    similarities = jnp.matmul(own, others.T, precision="highest") / scale
    neighbor = places[:, None] != jnp.arange(counted.size)[None]
    neighbor &= counted[None]
    return adaptation.entropy_loss(jnp.where(neighbor, similarities, -jnp.inf))

  places = ops.gathered_positions(mask.size, axis_name)
  entropies = ops.in_chunks(entropy, (rows, places), chunk_size)
  sums, count = ops.sum_over_devices(
    (jnp.sum(mask * entropies), jnp.sum(mask)), axis_name
  )
  return sums / jnp.maximum(count, 1)
