"""TextBrewer's distillation by its configuration."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import distillation, language, ops
from kdjax.methods._combine import combine
from kdjax.methods._objective import Objective, stateless
from kdjax.methods.language._intermediate_matches import intermediate_matches
from kdjax.methods.language._row_kinds import row
from kdjax.methods.language._tinybert import soft_cross_entropy

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


def _textbrewer(
  config: Mapping[str, Any] | None = None, *, steps: int | None = None
) -> Objective:
  """By the fields of TextBrewer's `DistillationConfig`, or by its defaults.

  They are `temperature`, `temperature_scheduler` (None, "constant", ["flsw",
  beta, gamma] or ["cwsm", beta]), `hard_label_weight`, `kd_loss_type` ("ce" or
  "mse"), `kd_loss_weight`, the schedulers of both weights (None, "linear_decay"
  or "linear_growth", over `steps`), `probability_shift` and
  `intermediate_matches`. `is_caching_logits` has no effect:
  `kdjax.data.write_teacher_cache` is the cache.

  As there, "ce" is a cross-entropy without T^2, temperatures spread around the
  mean of the valid rows, here of all devices, and a scheduler of weights
  replaces the weight after the first step, by a share that goes from 1 to 0 or
  from 0 to 1.

  References:
    Yang et al., `TextBrewer <https://arxiv.org/abs/2002.12620>`_, 2020.
  """
  config = {} if config is None else config
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


ROWS = {
  "textbrewer": row(
    "TextBrewer, Yang 2020",
    "soft predictions, labels and chosen layers, by a configuration",
    _textbrewer,
    tuned="",
    source="TextBrewer, DistillationConfig",
  ),
}
