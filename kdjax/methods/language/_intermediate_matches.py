"""TextBrewer's intermediate matches, as an objective."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from kdjax import distillation, language, nets, ops
from kdjax.methods._modular import modular
from kdjax.methods._objective import Objective

_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
  "linear": lambda x: x,
  "relu": jax.nn.relu,
  "tanh": jnp.tanh,
}
_FEATURES = {"hidden": "features", "attention": "scores"}
# Names of TextBrewer -> the loss; those of two layers on each side last.
_PAIRS = {
  "gram": distillation.gram_loss,
  "fsp": distillation.gram_loss,
  "mmd": language.token_mmd_loss,
  "nst": language.token_mmd_loss,
}
_LOSSES: dict[str, Callable[..., Array]] = {
  "attention_mse": distillation.attention_mse_loss,
  "attention_mse_sum": lambda s, t, m, **options: (
    distillation.attention_mse_loss(
      jnp.sum(s, 1, keepdims=True), jnp.sum(t, 1, keepdims=True), m, **options
    )
  ),
  "attention_ce": distillation.attention_ce_loss,
  "attention_ce_mean": lambda s, t, m, **options: (
    distillation.attention_ce_loss(
      jnp.mean(s, 1, keepdims=True), jnp.mean(t, 1, keepdims=True), m, **options
    )
  ),
  "hidden_mse": distillation.hidden_mse_loss,
  "cos": distillation.cosine_embedding_loss,
  "pkd": distillation.pkd_loss,
  **_PAIRS,
}
_ROWS = ("pkd", "gram", "fsp")
_KEYS = ("layer_T", "layer_S", "feature", "loss", "weight", "proj")


def intermediate_matches(matches: Sequence[Mapping[str, Any]]) -> Objective:
  """Intermediate matches (TextBrewer): losses between chosen layers.

  A match is a dict of TextBrewer's `intermediate_matches`, such as

    {"layer_T": 8, "layer_S": 2, "feature": "hidden", "loss": "hidden_mse",
     "weight": 1, "proj": ["linear", 384, 768]}

  Hidden states count from the embedding, 0. Attention scores count with the
  hidden state that their block writes, from 1 on, as in TextBrewer's published
  lists. A projection is a linear layer from the student's width, with "relu" or
  "tanh" after it; the sizes of a dict are checked, and may be left out:
  `["linear"]`. The mask of tokens is the batch's `"attention_mask"`. Without
  one, attention_mse and attention_mse_sum read scores up to -100 as 0, and
  attention_ce and attention_ce_mean count all; TextBrewer's functions then take
  scores up to -1e-3, nearly half of all scores, for those of padding.

  Args:
    matches: the dicts. `loss` is one of attention_mse, attention_mse_sum,
      attention_ce, attention_ce_mean, hidden_mse, cos, pkd, gram (fsp), mmd
      (nst). The last two compare pairs of layers, `"layer_S": [1, 1]`.

  Returns:
    An objective; its loss is the sum of the matches times their weights.

  Raises:
    ValueError: if a dict has an unknown entry, loss or feature; from `init`, if
      there is no such layer, or a width does not fit.

  The fourth entry of `proj`, options of an optimizer's group, has no effect:
  name the group in the optimizer instead.

  References:
    Yang et al., `TextBrewer <https://arxiv.org/abs/2002.12620>`_, 2020.
  """
  matches = [dict(match) for match in matches]
  for match in matches:
    unknown = match.keys() - set(_KEYS)
    missing = {"layer_T", "layer_S", "feature", "loss"} - match.keys()
    if unknown or missing:
      raise ValueError(
        f"intermediate_matches: a match has the entries {sorted(match)}; "
        f"expected {', '.join(_KEYS[:4])}, and perhaps weight and proj."
      )
    ops.check_choice("loss", match["loss"], tuple(_LOSSES))
    ops.check_choice("feature", match["feature"], tuple(_FEATURES))
    pair = match["loss"] in _PAIRS
    for side in ("layer_S", "layer_T"):
      if pair != isinstance(match[side], Sequence):
        wanted = "two numbers" if pair else "a number"
        raise ValueError(
          f"intermediate_matches: {side} is {match[side]!r}; expected {wanted} "
          f"for {match['loss']!r}."
        )
    if match.get("proj"):
      ops.check_choice("proj", match["proj"][0], tuple(_ACTIVATIONS))

  def build(
    student: nets.Outputs, teacher: nets.Outputs, rngs: nnx.Rngs
  ) -> nnx.Module:
    projectors = []
    for match in matches:
      ours = _layers("student", student, match["feature"], match["layer_S"])
      theirs = _layers("teacher", teacher, match["feature"], match["layer_T"])
      if not match.get("proj"):
        continue
      sizes = [ours[0].shape[-1], theirs[0].shape[-1]]
      given = list(match["proj"][1:3])
      if given and given != sizes:
        raise ValueError(
          f"intermediate_matches: proj is {match['proj']!r}; expected the "
          f"widths of student and teacher, {sizes}."
        )
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
    mask = batch.get("attention_mask")
    where = example_mask(batch)
    projectors = iter(parts["projectors"])
    total = jnp.zeros(())
    for match in matches:
      ours = _layers("student", student, match["feature"], match["layer_S"])
      theirs = _layers("teacher", teacher, match["feature"], match["layer_T"])
      if match.get("proj"):
        project = next(projectors)
        activate = _ACTIVATIONS[match["proj"][0]]
        ours = [activate(project(x)) for x in ours]
      if match["loss"] in ("attention_ce", "attention_ce_mean"):
        # The softmax is over all keys: as BERT, keep away from padding.
        ours, theirs = ([_away(x, mask) for x in y] for y in (ours, theirs))
      sides = (ours, theirs)
      if match["loss"] not in _PAIRS:
        sides = (ours[0], theirs[0])
      function = _LOSSES[match["loss"]]
      if match["loss"] in _ROWS:
        value = ops.masked_mean(
          function(*sides, mask), where, axis_name=axis_name
        )
      else:
        value = function(*sides, mask, where=where, axis_name=axis_name)
      total += match.get("weight", 1.0) * value
    return total

  return modular(build, loss)


def _away(scores: Array, mask: Any) -> Array:
  """Returns scores less 1e4 where the key is padding."""
  if mask is None:
    return scores
  return scores - jnp.where(mask.astype(bool), 0.0, 1e4)[:, None, None, :]


def example_mask(batch: Any) -> Array:
  """Returns the mask of examples, also of a mask of tokens."""
  mask = batch["mask"]
  return jnp.any(mask, tuple(range(1, mask.ndim)))


def _layers(
  role: str, outputs: nets.Outputs, feature: str, layers: Any
) -> list[Any]:
  """Returns the layers of a match, by their numbers."""
  arrays = getattr(outputs, _FEATURES[feature])
  if not arrays:
    raise ValueError(
      f"intermediate_matches: {role} has no {_FEATURES[feature]}; expected "
      "those of a transformer, such as nets.TextEncoder."
    )
  by_number = {int(name[1:]): array for name, array in arrays.items()}
  numbers = layers if isinstance(layers, Sequence) else [layers]
  for number in numbers:
    if number not in by_number:
      raise ValueError(
        f"intermediate_matches: {role} has no {feature} {number}; expected one "
        f"of {min(by_number)} to {max(by_number)}."
      )
  return [by_number[number] for number in numbers]
