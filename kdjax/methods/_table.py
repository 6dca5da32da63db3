"""One table of methods: every method of every area, whole."""

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import distillation, ops
from kdjax.methods._combine import combine
from kdjax.methods._forms import is_frozen, make_passes
from kdjax.methods._method import Method, Needs
from kdjax.methods._nearest import nearest
from kdjax.methods._objective import NO_LOSS, Objective, Schedule, stateless
from kdjax.methods._row import Row
from kdjax.methods.distillation._published_pairs import of_pair


def _collect() -> dict[str, Row]:
  """The rows of all files of this package, each its `ROWS`."""
  package = importlib.import_module("kdjax.methods")
  rows: dict[str, Row] = {}
  for module in pkgutil.walk_packages(package.__path__, "kdjax.methods."):
    own = getattr(importlib.import_module(module.name), "ROWS", {})
    twice = rows.keys() & own.keys()
    if twice:
      raise ValueError(f"{module.name}: ROWS has {sorted(twice)} once more.")
    rows |= own
  order = list(dict.fromkeys(row.area for row in rows.values()))
  return dict(sorted(rows.items(), key=lambda x: order.index(x[1].area)))


_rows: dict[str, Row] = {}


def _all() -> dict[str, Row]:
  if not _rows:
    _rows.update(_collect())
  return _rows


def names(area: str | None = None) -> tuple[str, ...]:
  """The names of all methods, or of those of an area.

  Names are unique over the areas. Where two areas have a method of one name,
  that of domain generalization begins with `dg_`: `dg_coral` beside `coral`.
  Closed-form maps end with `_map` where a trained method has the name:
  `coral_map`, `jda_map`.

  Args:
    area: the room of the losses, such as "adaptation".

  Returns:
    Names for `create` and `describe`.

  Raises:
    ValueError: if no method is of this area.

  Examples:
    >>> "mldg" in names("generalization")
    True
  """
  areas = dict.fromkeys(row.area for row in _all().values())
  if area is not None and area not in areas:
    raise ValueError(
      f"names: area is {area!r}; expected {nearest(area, areas)}."
    )
  return tuple(k for k, row in _all().items() if area in (None, row.area))


def describe(name: str) -> Row:
  """The row of a method: what it is, its published values, what it needs.

  Args:
    name: of the method.

  Returns:
    Its `Row`.

  Raises:
    ValueError: if there is no method of this name.

  Examples:
    >>> describe("fish").title
    'Fish'
  """
  if name not in _all():
    raise ValueError(f"name is {name!r}; expected {nearest(name, _all())}.")
  return _all()[name]


def create(
  name: str,
  *,
  pair: tuple[str, str] | None = None,
  weight: ArrayLike | None = None,
  **options: Any,
) -> Method:
  """The whole published method, with its published weights.

  Args:
    name: one of `names()`.
    pair: the names of the teacher and of the student. The authors of DKD,
      CAT-KD, logit standardization and SDD set weights for each pair of the
      CIFAR-100 tables; other pairs and methods have the row's.
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
    A `Method`, whose objective has the metrics `"loss"`, `"ce/loss"`,
    `"kd/loss"` and `"<name>/loss"`, as far as they have a weight.

  Raises:
    ValueError: if there is no method of that name, it has no such
      hyper-parameter, or needs a fact and does not get it.

  Examples:
    >>> method = create("kd")
    >>> params, state = method.objective.init(jax.random.key(0), {})
    >>> state["weights"]
    {'ce': Array(0.1, dtype=float32), 'kd': Array(0.9, dtype=float32)}

  References:
    The sources of the weights are in the rows.
  """
  try:
    row = describe(name)
  except ValueError as error:
    raise ValueError(f"create: {error}") from None
  published_weight, published = of_pair(name, pair, row.weight)
  weight = published_weight if weight is None else weight
  run = {k: options.pop(k, None) for k in RUN_OPTIONS}
  before = {}
  if row.start == "source":
    before["source"] = create("source_only")
  if row.initialization is not None:
    taken = inspect.signature(row.initialization).parameters
    own = {k: options[k] for k in options if k in taken}
    if row.make is None:
      for k in own:
        options.pop(k)
    stage = _build(row.initialization, name, run, published | own)
    passes = make_passes(row.area, row.networks, row.domains, row.views)
    needs = Needs(tuple(filter(is_frozen, row.networks)))
    stage_name = "initialization"
    before[stage_name] = stage._replace(
      passes=passes | dict(stage.passes),
      needs=needs,
      name=f"{name}/{stage_name}",
    )
  parts: dict[str, tuple[ArrayLike | Schedule, Objective]] = {}
  if row.cross_entropy:
    parts["ce"] = row.cross_entropy, stateless(ops.cross_entropy, _SUPERVISED)
  if row.kd:
    temperature = row.temperature
    if row.make is None:
      temperature = options.pop("temperature", temperature)
    loss = distillation.soft_target_loss
    parts["kd"] = row.kd, stateless(loss, temperature=temperature)
  method = Method()
  if row.make is None:
    for option in options:
      has = "only temperature" if row.kd else "none"
      raise ValueError(
        f"create: {name} has no hyper-parameter {option!r}; expected {has}."
      )
  else:
    options = published | options
    if "weight" in inspect.signature(row.make).parameters:
      options["weight"], weight = weight, 1.0
    method = _build(row.make, name, run, options)
    if method.objective is not None:
      steps_per_epoch = run["steps_per_epoch"]
      scheduled = _warmup(name, row, weight, steps_per_epoch)
      parts[name] = scheduled, method.objective
  passes = make_passes(row.area, row.networks, row.domains, row.views)
  passes |= method.passes
  ran = {row_.network for row_ in passes.values() if row_.train}
  trained = {*ran, *method.needs.trained}
  frozen = [x for x in row.networks if x not in trained]
  return method._replace(
    objective=combine(parts) if parts else NO_LOSS,
    passes=passes,
    before=before | dict(method.before),
    needs=method.needs._replace(
      networks=tuple(frozen),
      views=tuple(dict.fromkeys((*row.views, *method.needs.views))),
      start="past" if row.start == "past" else "",
    ),
    name=name,
  )


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
  factory: Callable[..., Any],
  name: str,
  run: Mapping[str, Any],
  hyperparameters: Mapping[str, Any],
) -> Method:
  """Calls a method's factory with the options that it has parameters for."""
  parameters = inspect.signature(factory).parameters
  options = dict(hyperparameters)
  for option, need in RUN_OPTIONS.items():
    if option not in parameters:
      continue
    if run[option] is not None:
      options[option] = run[option]
    elif parameters[option].default is inspect.Parameter.empty:
      raise ValueError(
        f"create: {name} {need}; expected {option}, as in "
        f"create({name!r}, {option}=...)."
      )
  _check_options(name, parameters, options)
  made = factory(**options)
  return made if isinstance(made, Method) else Method(made)


def _check_options(
  name: str, parameters: Mapping[str, Any], options: Mapping[str, Any]
) -> None:
  """Raises ValueError for an option that a factory has no parameter for."""
  kinds = [p.kind.name for p in parameters.values()]
  known = [k for k in parameters if k not in RUN_OPTIONS]
  if "VAR_KEYWORD" in kinds:
    return  # It checks them itself.
  for option in options:
    if option not in parameters:
      raise ValueError(
        f"create: {name} has no hyper-parameter {option!r}; expected "
        f"{nearest(option, known)}."
      )


def _warmup(
  name: str, row: Row, weight: ArrayLike, steps_per_epoch: int | None
) -> ArrayLike | Schedule:
  if not row.warmup_epochs:
    return weight
  if steps_per_epoch is None:
    raise ValueError(
      f"create: {name} warms up over {row.warmup_epochs} epochs; expected "
      "steps_per_epoch."
    )

  def schedule(step: Array) -> Array:
    epoch = step // steps_per_epoch + row.first_epoch
    return jnp.minimum(epoch / row.warmup_epochs, 1.0) * weight

  return schedule
