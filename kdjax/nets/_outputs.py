"""What every network returns."""

from typing import NamedTuple

from jaxtyping import Array


class Outputs(NamedTuple):
  """What a teacher or student returns for a batch of images.

  The features are returned, not hooked: a loss picks what it compares by name.
  JAX rebuilds a dict in the order of its sorted keys whenever it crosses jit,
  vmap or grad, so names must sort from shallow to deep. The networks here call
  them ``f0``, ``f1``, ..., zero-padded where there are more than ten.

  Attributes:
    logits: `[batch, classes]`.
    features: activations from shallow to deep, `[batch, height, width,
      channels]`, or `[batch, units]` for an MLP.
    embedding: `[batch, dimension]`, what the classifier head sees, or None if
      the network has none.

  Examples:
    >>> import jax.numpy as jnp
    >>> outputs = Outputs(jnp.zeros((2, 10)), {"f0": jnp.ones((2, 3))}, None)
    >>> list(outputs.features)
    ['f0']

  References:
    Tian et al., `RepDistiller <https://github.com/HobbitLong/RepDistiller>`_,
    whose models return the same list of features when asked to.
  """

  logits: Array
  features: dict[str, Array]
  embedding: Array | None


def named_features(features: list[Array]) -> dict[str, Array]:
  """Names features so that the sorted names keep their order."""
  width = len(str(len(features) - 1))
  return {f"f{i:0{width}}": feature for i, feature in enumerate(features)}
