"""The outputs of a network."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from kdjax import ops


@ops.exportable
class Outputs(NamedTuple):
  """The outputs of a network for a batch of images or texts.

  A loss selects features by name. JAX sorts the keys of a dict at every jit,
  vmap and grad, so the sorted names must be in the order from shallow to deep.
  The names of kdjax's networks are `f0`, `f1`, and so on, padded with zeros for
  more than ten features.

  Attributes:
    logits: `[batch, classes]`, or `[batch, length, vocab]` of a language
      model.
    features: the activations from shallow to deep: `[batch, height, width,
      channels]`, `[batch, units]` for an MLP or `[batch, tokens, width]` for a
      transformer.
    embedding: `[batch, dims]`, the input of the classifier, or `[batch, length,
      width]`, that of a language model's head; None if the network does not
      return it.
    preactivations: the features before their activation, by the same names, or
      None.
    normalizations: the mean and the standard deviation of each pre-activation,
      `[channels]` each, that its batch normalization sets: the bias and the
      absolute value of the scale. Or None.
    attention: the attention probabilities of each layer, `[batch, heads,
      queries, keys]`, or None.
    classifier: the kernel `[dims, classes]` and the bias `[classes]` of the
      classifier, for methods that apply it to other embeddings, or None.
    heads: the outputs of each head by its name, for a network with several
      heads, or None.
    params: the parameters of the network, for methods that compare them, or
      None.
    scores: the attention scores before mask and softmax, by the names of
      `attention`, or None.
    queries: the queries of each layer, `[batch, heads, tokens, head_width]`, or
      None.
    keys: the keys of each layer, of as many heads as the layer has for keys, or
      None.
    values: the values of each layer, as the keys, or None.
    token_embeddings: `[vocab, width]`, the table of a network of text, or None.
    cache: the keys and values to continue a text with, or None.
    logit_softcap: the soft cap c of the classifier, whose logits are c tanh(z /
      c), or None.

  Examples:
    >>> import jax.numpy as jnp
    >>> outputs = Outputs(jnp.zeros((2, 10)), {"f0": jnp.ones((2, 3))}, None)
    >>> list(outputs.features)
    ['f0']

  References:
    Tian et al., `RepDistiller <https://github.com/HobbitLong/RepDistiller>`_,
    whose models return the same list of features.
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
  scores: dict[str, Array] | None = None
  queries: dict[str, Array] | None = None
  keys: dict[str, Array] | None = None
  values: dict[str, Array] | None = None
  token_embeddings: Array | None = None
  cache: Any = None
  logit_softcap: Any = None


def assemble(
  head: Any,
  embedding: Array,
  features: Sequence[Array],
  *,
  preactivations: Sequence[Array] = (),
  norms: Sequence[Any] = (),
  attention: Sequence[Array] = (),
) -> Outputs:
  """Applies the head and names the features; the stem has no norm."""
  named = functools.partial(name_layers, len(features))
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


def name_layers(count: int, values: Sequence[Any]) -> dict[str, Any]:
  """Names the last of `count` values so that sorted names are in order."""
  width = len(str(count - 1))
  first = count - len(values)
  return {f"f{i:0{width}}": value for i, value in enumerate(values, first)}
