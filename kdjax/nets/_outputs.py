"""What every network returns."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array


class Outputs(NamedTuple):
  """What a teacher or student returns for a batch of images.

  The features are returned, not hooked: a loss picks what it compares by name.
  JAX rebuilds a dict in the order of its sorted keys whenever it crosses jit,
  vmap or grad, so names must sort from shallow to deep. The networks here call
  them `f0`, `f1`, ..., zero-padded where there are more than ten.

  Attributes:
    logits: `[batch, classes]`.
    features: activations from shallow to deep, `[batch, height, width,
      channels]`, `[batch, units]` for an MLP or `[batch, tokens, width]` for
      a transformer.
    embedding: `[batch, dimension]`, what the classifier head sees, or None if
      the network has none.
    preactivations: the features as they were before their activation, by the
      same names, or None.
    normalizations: of each feature the (mean, standard deviation), `[channels]`
      each, that the batch normalization before its activation gives the
      pre-activations: its bias and the size of its scale; or None.
    attention: the attention probabilities of each layer, `[batch, heads,
      queries, keys]`, or None.
    classifier: the head's kernel `[dimension, classes]` and bias `[classes]`,
      for methods that apply it elsewhere, or None.
    heads: the outputs of each head, by its name, of a network that has
      several; or None.
    params: the network's parameters, for penalties of them; a learner puts
      them here, a network need not.

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
  preactivations: dict[str, Array] | None = None
  normalizations: dict[str, tuple[Array, Array]] | None = None
  attention: dict[str, Array] | None = None
  classifier: tuple[Array, Array] | None = None
  heads: dict[str, "Outputs"] | None = None
  params: Any = None


def assemble(
  head: Any,
  embedding: Array,
  features: Sequence[Array],
  *,
  preactivations: Sequence[Array] = (),
  norms: Sequence[Any] = (),
  attention: Sequence[Array] = (),
) -> Outputs:
  """Applies the head and names what the layers gave; the stem has no norm."""
  named = functools.partial(_named, len(features))
  return Outputs(
    logits=head(embedding),
    features=named(features),
    embedding=embedding,
    preactivations=named(preactivations) or None,
    normalizations=named(
      [(norm.bias[...], jnp.abs(norm.scale[...])) for norm in norms]
    )
    or None,
    attention=named(attention) or None,
    classifier=(head.kernel[...], head.bias[...]),
  )


def _named(count: int, values: Sequence[Any]) -> dict[str, Any]:
  """Names the last of `count` so that the sorted names keep their order."""
  width = len(str(count - 1))
  first = count - len(values)
  return {f"f{i:0{width}}": value for i, value in enumerate(values, first)}
