"""Published distillations of BERT: TinyBERT, DistilBERT, MiniLM, PKD."""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from kdjax import distillation, language, nets, ops
from kdjax.methods._modular import modular
from kdjax.methods._objective import Objective, stateless
from kdjax.methods.language._intermediate_matches import (
  example_mask,
  soft_cross_entropy,
)


def tinybert_layers() -> Objective:
  """TinyBERT's first stage: attention scores and hidden states of all layers.

  The mean squared errors of the scores before the softmax and of the hidden
  states, with the embedding, between the student's layer m and the teacher's
  layer m k. One linear layer projects all hidden states of the student; between
  equal widths there is none.

  Returns:
    An objective; its published weight is 1.

  Raises:
    ValueError: from `init`, if a network has no attention scores, or the
      teacher's number of layers is no multiple of the student's.

  The published code has no mask of tokens; here padding does not count, where
  the batch has an `"attention_mask"`.

  References:
    Jiao et al., `TinyBERT <https://arxiv.org/abs/1909.10351>`_, 2020.
  """

  def build(
    student: nets.Outputs, teacher: nets.Outputs, rngs: nnx.Rngs
  ) -> nnx.Module:
    ours, theirs = _hidden("tinybert", student, teacher)
    sizes = ours[0].shape[-1], theirs[0].shape[-1]
    projectors = []
    if sizes[0] != sizes[1]:
      projectors.append(
        nnx.Linear(*sizes, kernel_init=nnx.initializers.normal(0.02), rngs=rngs)
      )
    return nnx.Dict(projectors=nnx.List(projectors))

  def loss(
    parts: Any,
    student: nets.Outputs,
    teacher: nets.Outputs,
    batch: Any,
    *,
    axis_name: str | None,
  ) -> Array:
    options = {"where": example_mask(batch), "axis_name": axis_name}
    mask = batch.get("attention_mask")
    ours, theirs = _hidden("tinybert", student, teacher)
    layers = language.layer_map(len(ours) - 1, len(theirs) - 1)
    scores, teacher_scores = (
      list((x.scores or {}).values()) for x in (student, teacher)
    )
    total = jnp.zeros(())
    for a, b in zip(ours, (0, *(i + 1 for i in layers)), strict=True):
      for project in parts["projectors"]:
        a = project(a)
      total += distillation.hidden_mse_loss(a, theirs[b], mask, **options)
    for a, b in zip(scores, layers, strict=True):
      total += distillation.attention_mse_loss(
        a, teacher_scores[b], mask, **options
      )
    return total

  return modular(build, loss)


def tinybert() -> Objective:
  """TinyBERT's second stage: the soft cross-entropy of the predictions.

  Returns:
    An objective; its published weight is 1, at temperature 1. As in the
    published code, the cross-entropy is divided by the number of classes.

  References:
    Jiao et al., `TinyBERT <https://arxiv.org/abs/1909.10351>`_, 2020.
  """

  def loss(student_logits: Array, teacher_logits: Array) -> Array:
    value = soft_cross_entropy(student_logits, teacher_logits)
    return value / student_logits.shape[-1]

  return stateless(loss)


def distilbert() -> Objective:
  """DistilBERT's third part: the cosine of the last hidden states.

  Returns:
    An objective; its published weight is 1, beside 5 times the soft targets at
    temperature 2 and 2 times the cross-entropy of the masked tokens.

  References:
    Sanh et al., `DistilBERT <https://arxiv.org/abs/1910.01108>`_, 2019.
  """

  def loss(
    student: nets.Outputs,
    teacher: nets.Outputs,
    batch: Any,
    *,
    where: Array,
    axis_name: str | None,
  ) -> Array:
    del where  # a mask of examples or of tokens
    ours, theirs = _hidden("distilbert", student, teacher)
    return distillation.cosine_embedding_loss(
      ours[-1],
      theirs[-1],
      batch.get("attention_mask"),
      where=example_mask(batch),
      axis_name=axis_name,
    )

  return stateless(loss)


def minilm() -> Objective:
  """MiniLM: attention and value relations of the last layers.

  Returns:
    An objective; its published weight is 1, and labels add nothing.

  Raises:
    ValueError: from `apply`, if a network has no attention scores or values, or
      the numbers of heads differ.

  References:
    Wang et al., `MiniLM <https://arxiv.org/abs/2002.10957>`_, 2020.
  """

  def loss(student: nets.Outputs, teacher: nets.Outputs, batch: Any) -> Array:
    scores = [_last("minilm", x, "scores") for x in (student, teacher)]
    values = [_last("minilm", x, "values") for x in (student, teacher)]
    return distillation.minilm_loss(
      scores[0],
      scores[1],
      batch.get("attention_mask"),
      student_values=values[0],
      teacher_values=values[1],
    )

  return stateless(loss)


def minilm_v2(
  *, relation_heads: int = 48, teacher_layer: int = -1
) -> Objective:
  """MiniLMv2: relations of queries, keys and values, split into equal heads.

  Args:
    relation_heads: the number of relation heads, a divisor of both widths; the
      authors take 48 for base-size teachers and 64 for large ones.
    teacher_layer: the teacher's layer; the authors take the last one of a base
      model, and the fourth from the end, -4, of a large one.

  Returns:
    An objective; its published weight is 1, and labels add nothing.

  Raises:
    ValueError: from `apply`, if a network has no queries, or a width is no
      multiple of `relation_heads`.

  References:
    Wang et al., `MiniLMv2 <https://arxiv.org/abs/2012.15828>`_, 2021.
  """

  def loss(student: nets.Outputs, teacher: nets.Outputs, batch: Any) -> Array:
    sides = [
      [
        _joined(_last("minilm_v2", x, field, layer))
        for field in ("queries", "keys", "values")
      ]
      for x, layer in ((student, -1), (teacher, teacher_layer))
    ]
    return distillation.minilm_v2_loss(
      sides[0],
      sides[1],
      batch.get("attention_mask"),
      relation_heads=relation_heads,
    )

  return stateless(loss)


def pkd(*, kind: str = "skip") -> Objective:
  """Patient knowledge distillation (PKD): first tokens of several layers.

  Args:
    kind: "skip" for every k-th layer or "last" for the last ones; the last
      layer of the student is not compared.

  Returns:
    An objective; its published weight is 10 to 1000, by task.

  Raises:
    ValueError: if the kind is unknown; from `apply`, if the widths differ.

  The published code divides the sum over the layers by their number, as here.

  References:
    Sun, Cheng, Gan and Liu, `Patient knowledge distillation for BERT model
    compression <https://arxiv.org/abs/1908.09355>`_, 2019.
  """
  ops.check_choice("kind", kind, ("skip", "last"))

  def loss(student: nets.Outputs, teacher: nets.Outputs) -> Array:
    ours, theirs = _hidden("pkd", student, teacher)
    count, depth = len(ours) - 1, len(theirs) - 1
    if kind == "skip":
      layers = language.layer_map(count, depth, "skip")
    else:
      layers = tuple(range(depth - count, depth - 1))
    values = [
      distillation.pkd_loss(ours[i + 1], theirs[layer + 1])
      for i, layer in enumerate(layers)
    ]
    return sum(values, jnp.zeros(ours[0].shape[0])) / max(len(values), 1)

  return stateless(loss)


def _hidden(
  name: str, student: nets.Outputs, teacher: nets.Outputs
) -> tuple[list[Any], list[Any]]:
  """Returns the hidden states of all layers, the embedding first."""
  sides = []
  for role, outputs in (("student", student), ("teacher", teacher)):
    hidden = list(outputs.features.values())
    if not outputs.scores or len(hidden) != len(outputs.scores) + 1:
      raise ValueError(
        f"{name}: {role} has no attention scores; expected a transformer, such "
        "as nets.TextEncoder."
      )
    sides.append(hidden)
  return sides[0], sides[1]


def _last(
  name: str, outputs: nets.Outputs, field: str, layer: int = -1
) -> Array:
  arrays = getattr(outputs, field)
  if not arrays:
    raise ValueError(
      f"{name}: a network has no {field}; expected a transformer, such as "
      "nets.TextEncoder."
    )
  return list(arrays.values())[layer]


def _joined(heads: Array) -> Array:
  """Returns `[batch, tokens, width]` of `[batch, heads, tokens, width]`."""
  batch, _, tokens, _ = heads.shape
  return jnp.swapaxes(heads, 1, 2).reshape(batch, tokens, -1)
