"""TextBrewer's intermediate matches and configuration, as an objective."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import distillation, language, nets, ops
from kdjax.methods._modular import modular
from kdjax.methods._objective import Objective, combine, stateless

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


_CONFIG: dict[str, Any] = {
  "temperature": 4.0,
  "temperature_scheduler": None,
  "hard_label_weight": 0.0,
  "hard_label_weight_scheduler": None,
  "kd_loss_type": "ce",
  "kd_loss_weight": 1.0,
  "kd_loss_weight_scheduler": None,
  "probability_shift": False,
  "intermediate_matches": None,
  "is_caching_logits": False,
}
_TEMPERATURES: dict[str, Callable[..., Array]] = {
  "flsw": distillation.flsw_temperature,
  "cwsm": distillation.cwsm_temperature,
}


def textbrewer(
  config: Mapping[str, Any], *, steps: int | None = None
) -> Objective:
  """TextBrewer's distillation from the fields of its `DistillationConfig`.

  Args:
    config: `temperature`, `temperature_scheduler` (None, "constant", ["flsw",
      beta, gamma] or ["cwsm", beta]), `hard_label_weight`, `kd_loss_type` ("ce"
      or "mse"), `kd_loss_weight`, the schedulers of both weights (None,
      "linear_decay" or "linear_growth"), `probability_shift` and
      `intermediate_matches`; the defaults are TextBrewer's. `is_caching_logits`
      has no effect: `kdjax.data.write_teacher_cache` is the cache.
    steps: the number of steps of the training, for the schedulers of weights.

  Returns:
    An objective with the metrics of its parts, `"ce"`, `"kd"` and `"matches"`.

  Raises:
    ValueError: if a field is unknown or has an unknown value, a scheduler of
      weights has no `steps`, or nothing has a weight.

  As there, "ce" is a cross-entropy without T^2, temperatures spread around the
  mean of the valid rows, here of all devices, and a scheduler of weights
  replaces the weight after the first step, by a share that goes from 1 to 0 or
  from 0 to 1.

  References:
    Yang et al., `TextBrewer <https://arxiv.org/abs/2002.12620>`_, 2020.
  """
  unknown = config.keys() - _CONFIG.keys()
  if unknown:
    raise ValueError(
      f"textbrewer: config has {sorted(unknown)}; expected some of "
      f"{', '.join(_CONFIG)}."
    )
  fields = _CONFIG | dict(config)
  ops.check_choice("kd_loss_type", fields["kd_loss_type"], ("ce", "mse"))
  scheduler = fields["temperature_scheduler"]
  scheduler = [scheduler] if isinstance(scheduler, str | None) else scheduler
  name = scheduler[0] or "constant"
  ops.check_choice("temperature_scheduler", name, ("constant", *_TEMPERATURES))

  numbers: dict[str, Any] = dict(
    zip(("beta", "gamma"), scheduler[1:], strict=False)
  )

  def rows(
    student_logits: Array,
    teacher_logits: Array,
    labels: Array | None = None,
    *,
    temperature: ArrayLike,
  ) -> Array:
    teacher = jax.lax.stop_gradient(_shifted(teacher_logits, labels))
    if fields["kd_loss_type"] == "ce":
      return soft_cross_entropy(
        student_logits, teacher, temperature=temperature
      )
    scale = jnp.asarray(temperature)
    scale = jnp.expand_dims(scale, -1) if scale.ndim else scale
    return jnp.mean(jnp.square((student_logits - teacher) / scale), -1)

  def scheduled(
    student_logits: Array,
    teacher_logits: Array,
    labels: Array | None = None,
    *,
    temperature: ArrayLike,
    where: Array,
    axis_name: str | None,
  ) -> Array:
    where = jnp.any(where, tuple(range(student_logits.ndim - 1, where.ndim)))
    temperatures = _TEMPERATURES[name](
      student_logits,
      _shifted(teacher_logits, labels),
      temperature=temperature,
      where=where,
      axis_name=axis_name,
      **numbers,
    )
    # Padding has no bound on its temperature, and may not make a gradient NaN.
    temperatures = jnp.where(where, temperatures, temperature)
    values = rows(
      student_logits, teacher_logits, labels, temperature=temperatures
    )
    return ops.masked_mean(values, where, axis_name=axis_name)

  names = ["student_logits", "teacher_logits"]
  if fields["probability_shift"]:
    names.append("labels")
  soft = stateless(
    rows if name == "constant" else scheduled,
    tuple(names),
    temperature=fields["temperature"],
  )
  hard = stateless(ops.cross_entropy, ("logits", "labels"))
  parts: dict[str, Any] = {}
  for part, key, objective in (
    ("kd", "kd_loss_weight", soft),
    ("ce", "hard_label_weight", hard),
  ):
    kind = fields[f"{key}_scheduler"]
    if not fields[key] and kind is None:
      continue
    weight = fields[key]
    if kind is not None:
      ops.check_choice(
        f"{key}_scheduler", kind, ("linear_decay", "linear_growth")
      )
      if steps is None:
        raise ValueError(
          f"textbrewer: {key}_scheduler is {kind!r}; expected steps, the "
          "number of steps of the training."
        )
      weight = _replaced(weight, language.weight_schedule(kind, steps))
    parts[part] = weight, objective
  if fields["intermediate_matches"]:
    matches = intermediate_matches(fields["intermediate_matches"])
    parts["matches"] = 1.0, matches
  if not parts:
    raise ValueError("textbrewer: all weights are 0; expected one above 0.")
  return combine(parts)


def _shifted(teacher_logits: Array, labels: Array | None) -> Array:
  if labels is None:
    return teacher_logits
  return language.probability_shift(teacher_logits, labels)


def _replaced(
  weight: float, share: Callable[[ArrayLike], Array]
) -> Callable[[ArrayLike], Array]:
  """Returns the weight in the first step, the share in all others."""
  return lambda step: jnp.where(jnp.asarray(step) == 0, weight, share(step))


def soft_cross_entropy(
  student_logits: Array, teacher_logits: Array, *, temperature: Any = 1.0
) -> Array:
  """Returns H(P, Q) of each row, at a temperature, without T^2."""
  teacher = jax.lax.stop_gradient(teacher_logits)
  probabilities = ops.softened_softmax(teacher, temperature=temperature)
  log_probs = ops.log_softened_softmax(student_logits, temperature=temperature)
  used = probabilities != 0
  return -jnp.sum(probabilities * jnp.where(used, log_probs, 0.0), -1)


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
