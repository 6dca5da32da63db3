"""One table of methods: every method of every area, as its authors weigh it.

The rows of an area stand beside its objectives; the table is their union.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import distillation, ops
from kdjax.methods._objective import Objective, Schedule, combine, stateless
from kdjax.methods._preset import Preset
from kdjax.methods.adaptation import _presets as adaptation_presets
from kdjax.methods.collaboration import _presets as collaboration_presets
from kdjax.methods.continual import _presets as continual_presets
from kdjax.methods.cross_modal import _presets as cross_modal_presets
from kdjax.methods.distillation import _presets as distillation_presets
from kdjax.methods.distillation._published_pairs import of_pair
from kdjax.methods.federated import _presets as federated_presets
from kdjax.methods.finetuning import _presets as finetuning_presets
from kdjax.methods.generalization import _presets as generalization_presets
from kdjax.methods.language import _presets as language_presets


def _union(*tables: Mapping[str, Preset]) -> dict[str, Preset]:
  rows: dict[str, Preset] = {}
  for table in tables:
    twice = rows.keys() & table.keys()
    if twice:
      raise ValueError(f"PRESETS: {sorted(twice)} in two areas; expected one.")
    rows |= table
  return rows


PRESETS: dict[str, Preset] = _union(
  distillation_presets.PRESETS,
  adaptation_presets.PRESETS,
  generalization_presets.PRESETS,
  finetuning_presets.PRESETS,
  continual_presets.PRESETS,
  collaboration_presets.PRESETS,
  federated_presets.PRESETS,
  cross_modal_presets.PRESETS,
  language_presets.PRESETS,
)
"""Every method of every area by its name, as rows of `Preset`.

Names are unique over the areas. Where two areas have a method of one name, that
of domain generalization begins with `dg_`: `dg_coral` beside `coral`, `dg_mmd`
beside `mmd`, `dg_dael` beside `dael`. The closed-form maps end with `_map`
where a trained method has the name: `coral_map`, `jda_map`.
"""


def preset(
  name: str,
  *,
  pair: tuple[str, str] | None = None,
  initialization: bool = False,
  weight: ArrayLike | None = None,
  **options: Any,
) -> Objective:
  """Objective of a method with its published weights.

  Args:
    name: a name of `PRESETS`.
    pair: the names of the teacher and of the student. The authors of DKD,
      CAT-KD, logit standardization and SDD set weights for each pair of the
      CIFAR-100 tables; other pairs and methods have the row's.
    initialization: whether it is for the stage before, of those methods that
      have one (AB, FSP, FT); `kdjax.training.hand_over` goes on
      from there. AB and FSP are nothing else: afterwards labels alone teach.
    weight: of the method, instead of the published one; it may be traced. Of
      a method that includes its task it is the weight beside that task.
    **options: hyper-parameters of the method instead of the published ones,
      and the facts of the run that it needs: `num_examples` (for memory banks),
      `labels` `[num_examples]` (CRD draws its negatives from other classes),
      `steps_per_epoch` (warm-ups and curricula), `steps` of the whole training
      (ramps of adversaries), `num_classes`, `hidden` (units of the hidden
      layers of the perceptrons that a method adds), `relationship` (of classes,
      Co-Tuning), `attention` (to channels, DELTA), `past_classes` (of earlier
      tasks), `importance` (of parameters, EWC and SI), `prototypes` (FedProto),
      `class_centers` (ReFilled), `teacher_classes` (amalgamation). Every method
      takes all facts of the run, and ignores those that it does not need.

  Returns:
    An objective with the metrics `"loss"`, `"ce/loss"`, `"kd/loss"` and
    `"<name>/loss"`, as far as they have a weight.

  Raises:
    ValueError: if there is no preset of that name, it has no stage before or
      no such hyper-parameter, or needs an option and does not get it.

  Examples:
    >>> objective = preset("kd")
    >>> params, state = objective.init(jax.random.key(0), {})
    >>> state["weights"]
    {'ce': Array(0.1, dtype=float32), 'kd': Array(0.9, dtype=float32)}

  References:
    The sources of the weights are in the table.
  """
  if name not in PRESETS:
    raise ValueError(
      f"preset: name is {name!r}; expected one of {', '.join(sorted(PRESETS))}."
    )
  row = PRESETS[name]
  published_weight, published = of_pair(name, pair, row.weight)
  weight = published_weight if weight is None else weight
  run = {k: options.pop(k, None) for k in RUN_OPTIONS}
  if initialization:
    if row.initialization is None:
      raise ValueError(f"preset: {name} has no stage before; expected False.")
    return _build(row.initialization, name, run, published | options)
  parts: dict[str, tuple[ArrayLike | Schedule, Objective]] = {}
  if row.cross_entropy:
    parts["ce"] = row.cross_entropy, stateless(ops.cross_entropy, _SUPERVISED)
  if row.kd:
    temperature = row.temperature
    if row.method is None:
      temperature = options.pop("temperature", temperature)
    soft = stateless(distillation.soft_target_loss, temperature=temperature)
    parts["kd"] = row.kd, soft
  if row.method is None and options:
    raise ValueError(
      f"preset: {name} has no {', '.join(options)}; expected "
      f"{'temperature' if row.kd else 'no hyper-parameter'}."
    )
  if row.method is not None:
    options = published | options
    if "weight" in inspect.signature(row.method).parameters:
      options["weight"], weight = weight, 1.0
    method = _build(row.method, name, run, options)
    parts[name] = _warmup(name, row, weight, run["steps_per_epoch"]), method
  return combine(parts)


# The facts of a run that a method may need, and the reason for errors.
RUN_OPTIONS = {
  "num_examples": "keeps a row for each example",
  "num_classes": "keeps a row for each class",
  "steps_per_epoch": "counts epochs",
  "steps": "has a ramp over the whole training",
  "labels": "",
  "hidden": "",
  "relationship": "relates the classes of both tasks",
  "attention": "weighs channels",
  "past_classes": "",
  "importance": "",
  "prototypes": "compares embeddings with prototypes of classes",
  "class_centers": "compares embeddings with centers of classes",
  "teacher_classes": "has teachers of different classes",
}
_SUPERVISED = ("logits", "labels")


def _build(
  factory: Callable[..., Objective],
  name: str,
  run: Mapping[str, Any],
  hyperparameters: Mapping[str, Any],
) -> Objective:
  """Calls a method's factory with the options that it has parameters for."""
  parameters = inspect.signature(factory).parameters
  options = dict(hyperparameters)
  for option, need in RUN_OPTIONS.items():
    if option not in parameters:
      continue
    if run[option] is not None:
      options[option] = run[option]
    elif parameters[option].default is inspect.Parameter.empty:
      raise ValueError(f"preset: {name} {need}; expected {option}.")
  return factory(**options)


def _warmup(
  name: str, row: Preset, weight: ArrayLike, steps_per_epoch: int | None
) -> ArrayLike | Schedule:
  if not row.warmup_epochs:
    return weight
  if steps_per_epoch is None:
    raise ValueError(
      f"preset: {name} warms up over {row.warmup_epochs} epochs; expected "
      "steps_per_epoch."
    )

  def schedule(step: Array) -> Array:
    epoch = step // steps_per_epoch + row.first_epoch
    return jnp.minimum(epoch / row.warmup_epochs, 1.0) * weight

  return schedule
