"""Encoder of text, as BERT and MiniLM."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array

from kdjax import ops
from kdjax.nets import layers
from kdjax.nets._outputs import Outputs
from kdjax.nets.text._attention import (
  ACTIVATIONS,
  INIT,
  Attention,
  AttentionOutputs,
  layer_norm,
  linear,
)
from kdjax.nets.text._explicit_axes import over_any_mesh
from kdjax.nets.text._text_inputs import look_up, read_inputs, text_outputs


@dataclasses.dataclass(frozen=True)
class TextEncoderConfig:
  """The sizes and the form of a `TextEncoder`.

  Attributes:
    vocab_size: the number of tokens.
    width: the units of a hidden state.
    depth: the number of blocks.
    num_heads: the number of attention heads.
    inner_width: the units inside a block's perceptron.
    max_length: the number of positions.
    type_vocab_size: the number of token types (first and second sentence).
    norm_epsilon: the epsilon of the normalizations.
    activation: "gelu", "gelu_tanh", "relu" or "silu".
    pooling: the embedding of a text: "mean" of the valid tokens' last hidden
      states, "first" for the one of the first token, or "pooler" for a layer
      with tanh after that.
    head: the logits: "none", "mlm" for those of the masked tokens, `[batch,
      length, vocab]`, or "classifier" for those of a text.
    num_classes: the number of classes of the classifier.
    pooler: whether the network has a pooler, which the pooling "pooler" and
      the head "classifier" need.
    dropout: the rate in training.

  References:
    Devlin et al., `BERT <https://arxiv.org/abs/1810.04805>`_, 2019.
  """

  vocab_size: int
  width: int = 384
  depth: int = 6
  num_heads: int = 12
  inner_width: int = 1536
  max_length: int = 512
  type_vocab_size: int = 2
  norm_epsilon: float = 1e-12
  activation: str = "gelu"
  pooling: str = "mean"
  head: str = "none"
  num_classes: int = 2
  pooler: bool = False
  dropout: float = 0.0

  def __post_init__(self):
    """Checks the choices."""
    ops.check_choice("activation", self.activation, tuple(ACTIVATIONS))
    ops.check_choice("pooling", self.pooling, ("mean", "first", "pooler"))
    ops.check_choice("head", self.head, ("none", "mlm", "classifier"))
    if self.width % self.num_heads:
      raise ValueError(
        f"width is {self.width}; expected a multiple of num_heads, "
        f"{self.num_heads}."
      )
    needed = self.pooling == "pooler" or self.head == "classifier"
    if needed and not self.pooler:
      raise ValueError(
        f"pooler is False; expected True for pooling {self.pooling!r} and head "
        f"{self.head!r}."
      )


class TextEncoder(nnx.Module):
  """Encoder of text: BERT's form, with MiniLM's sizes by default.

  Features are the hidden states after the embedding and after each block. The
  attention probabilities, the scores before mask and softmax, the queries, keys
  and values of the blocks have the names of their blocks' features. The
  embedding is that of a text, `[batch, width]`. Parameters have `param_dtype`;
  the body computes in `dtype`; scores, probabilities, embedding and logits are
  float32 or wider. A token, a token type or a position that its table does not
  have makes its text NaN, unless it is padding.

  Args:
    config: the sizes.
    dtype: the dtype in which the body computes.
    param_dtype: the dtype of the parameters.
    rngs: random streams for the parameters and for dropout.

  Examples:
    >>> config = TextEncoderConfig(
    ...   100, width=8, depth=2, num_heads=2, inner_width=16
    ... )
    >>> run = lambda tokens: TextEncoder(config, rngs=nnx.Rngs(0))(tokens)
    >>> spec = jax.eval_shape(run, jnp.zeros((3, 5), int))
    >>> list(spec.features), spec.embedding.shape, spec.scores["f1"].shape
    (['f0', 'f1', 'f2'], (3, 8), (3, 2, 5, 5))

  References:
    Devlin et al., `BERT <https://arxiv.org/abs/1810.04805>`_, 2019; Wang et
    al., `MiniLM <https://arxiv.org/abs/2002.10957>`_, 2020.
  """

  def __init__(
    self,
    config: TextEncoderConfig,
    *,
    dtype: DTypeLike = jnp.float32,
    param_dtype: DTypeLike = jnp.float32,
    rngs: nnx.Rngs,
  ):
    self.config, self.dtype = config, jnp.dtype(dtype)
    kinds: Any = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}

    def embed(count: int) -> nnx.Param:
      return nnx.Param(INIT(rngs.params(), (count, config.width), param_dtype))

    self.tokens = embed(config.vocab_size)
    self.positions = embed(config.max_length)
    self.types = embed(config.type_vocab_size)
    self.norm = layer_norm(config.width, config.norm_epsilon, **kinds)
    self.dropout = layers.dropout(config.dropout, rngs)
    self.blocks = nnx.List(
      _Block(config, dtype, param_dtype, rngs) for _ in range(config.depth)
    )
    wide: Any = kinds | {"dtype": layers.at_least_float32(dtype)}
    if config.pooler:
      self.pooler = linear(config.width, config.width, True, *wide.values())
    if config.head == "mlm":
      self.transform = linear(config.width, config.width, True, *wide.values())
      self.transform_norm = layer_norm(
        config.width, config.norm_epsilon, **wide
      )
      self.bias = nnx.Param(jnp.zeros(config.vocab_size, param_dtype))
    elif config.head == "classifier":
      self.classifier = linear(
        config.width, config.num_classes, True, *wide.values()
      )

  def __call__(
    self,
    inputs: ArrayLike | Mapping[str, Any],
    *,
    attention_mask: ArrayLike | None = None,
    token_types: ArrayLike | None = None,
    positions: ArrayLike | None = None,
  ) -> Outputs:
    """Applies the network.

    Args:
      inputs: tokens `[batch, length]`, or a mapping with `"tokens"` and any of
        `"attention_mask"`, `"token_types"` and `"positions"`.
      attention_mask: `[batch, length]`, True or 1 for tokens, False or 0 for
        padding; None takes all.
      token_types: `[batch, length]`; None for zeros.
      positions: `[batch, length]`; None for 0, 1 and so on, also after padding
        on the left, as in `transformers`.
    """
    tokens, given = read_inputs(
      inputs,
      self.config.vocab_size,
      self.config.max_length,
      attention_mask=attention_mask,
      token_types=token_types,
      positions=positions,
    )
    return over_any_mesh(TextEncoder._run, self, tokens, given)

  def _run(self, tokens: Array, given: dict[str, Any]) -> Outputs:
    length = tokens.shape[1]
    valid = given["attention_mask"]
    places = given["positions"]
    if places is None:
      places = jnp.broadcast_to(jnp.arange(length)[None], tokens.shape)
    types = given["token_types"]
    if types is None:
      types = jnp.zeros_like(tokens)
    x = (
      look_up(self.tokens[...], tokens, valid)
      + look_up(self.types[...], types, valid)
      + look_up(self.positions[...], places, valid)
    )
    x = self.dropout(self.norm(x.astype(self.dtype)))
    features, attention = [x], []
    for block in self.blocks:
      x, outputs = block(x, valid[:, None, None, :])
      features.append(x)
      attention.append(outputs)
    last = x.astype(layers.at_least_float32(x.dtype))
    first = pooled = last[:, 0]
    if self.config.pooler:
      pooled = jnp.tanh(self.pooler(first))
    embedding = {"first": first, "pooler": pooled, "mean": _mean(last, valid)}
    return text_outputs(
      self._logits(last, pooled),
      features,
      embedding[self.config.pooling],
      attention,
      token_embeddings=self.tokens[...],
    )

  def _logits(self, last: Array, pooled: Array) -> Array | None:
    if self.config.head == "none":
      return None
    if self.config.head == "classifier":
      return self.classifier(self.dropout(pooled))
    x = ACTIVATIONS[self.config.activation](self.transform(last))
    x = self.transform_norm(x)
    logits = jnp.einsum("blw,vw->blv", x, self.tokens[...].astype(x.dtype))
    return logits + self.bias[...].astype(x.dtype)[None, None]


class _Block(nnx.Module):
  """Attention and a perceptron, each before a normalization of the sum."""

  def __init__(
    self,
    config: TextEncoderConfig,
    dtype: DTypeLike,
    param_dtype: DTypeLike,
    rngs: nnx.Rngs,
  ):
    kinds: Any = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
    width = config.width
    self.attention = Attention(
      width, config.num_heads, dropout=config.dropout, **kinds
    )
    self.norm1 = layer_norm(width, config.norm_epsilon, **kinds)
    self.expand = linear(width, config.inner_width, True, *kinds.values())
    self.contract = linear(config.inner_width, width, True, *kinds.values())
    self.norm2 = layer_norm(width, config.norm_epsilon, **kinds)
    self.dropout = layers.dropout(config.dropout, rngs)
    self.activation = config.activation

  def __call__(self, x: Array, mask: Array) -> tuple[Array, AttentionOutputs]:
    outputs = self.attention(x, mask)
    x = self.norm1(x + self.dropout(outputs.result))
    inside = ACTIVATIONS[self.activation](self.expand(x))
    return self.norm2(x + self.dropout(self.contract(inside))), outputs


def _mean(hidden: Array, valid: Array) -> Array:
  weights = valid.astype(hidden.dtype)[..., None]
  total = jnp.sum(jnp.where(weights > 0, hidden, 0.0), 1)
  return total / jnp.maximum(jnp.sum(weights, 1), 1.0)
