"""Every method as its authors weigh it, in one table."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax.distillation import pkt_loss
from kdjax.distillation import rkd_loss
from kdjax.distillation import soft_target_loss
from kdjax.distillation import sp_loss
from kdjax.objectives._contrastive import crd
from kdjax.objectives._factors import factor_transfer
from kdjax.objectives._factors import factor_transfer_pretraining
from kdjax.objectives._objective import Objective
from kdjax.objectives._objective import Schedule
from kdjax.objectives._objective import combine
from kdjax.objectives._objective import stateless
from kdjax.objectives._regressors import ab
from kdjax.objectives._regressors import fitnet
from kdjax.objectives._regressors import ofd
from kdjax.objectives._relations import cc
from kdjax.objectives._relations import crd_in_batch
from kdjax.objectives._relations import irg
from kdjax.objectives._relations import itrd
from kdjax.objectives._relations import select_last_stage
from kdjax.objectives._review import review_kd
from kdjax.objectives._select import Selector
from kdjax.objectives._select import select_embeddings
from kdjax.objectives._select import select_logits
from kdjax.objectives._select import select_supervised
from kdjax.objectives._stage_maps import at
from kdjax.objectives._stage_maps import fsp
from kdjax.objectives._stage_maps import kdsvd
from kdjax.objectives._stage_maps import nst
from kdjax.ops._cross_entropy import cross_entropy


class Preset(NamedTuple):
  """Preset: a method, and what its authors add to it with which weights.

  The loss is `cross_entropy * H(y, q) + kd * T^2 KL + weight * method`.

  Attributes:
    method: makes the method's objective, from `axis_name`, `num_examples` if
      it keeps one row an example, and hyper-parameters; None if there is
      nothing but cross-entropy and KD.
    weight: of the method.
    cross_entropy: weight of the cross-entropy with the labels.
    kd: weight of the soft-target loss beside the method.
    temperature: of that soft-target loss.
    warmup_epochs: over how many epochs the method's weight grows linearly.
    first_epoch: the number of the first one: 1 starts at 1 / warmup_epochs,
      0 at nothing.
    views: the other views of each image that the method sees, by name.
    initialization: the objective of a stage before, or None. Parts of the same
      name in both stages keep their variables.
    initialization_epochs: how long that stage takes.
    source: where the weights come from.

  References:
    Tian et al., `RepDistiller <https://github.com/HobbitLong/RepDistiller>`_,
    whose command line has these three weights.
  """

  method: Callable[..., Objective] | None
  weight: float = 1.0
  cross_entropy: float = 1.0
  kd: float = 0.0
  temperature: float = 4.0
  warmup_epochs: int = 0
  first_epoch: int = 1
  views: tuple[str, ...] = ()
  initialization: Callable[..., Objective] | None = None
  initialization_epochs: int = 0
  source: str = ""


def preset(
  name: str,
  *,
  steps_per_epoch: int | None = None,
  num_examples: int | None = None,
  axis_name: str | None = None,
  **hyperparameters: ArrayLike,
) -> Objective:
  """Objective of a method with its published weights.

  Args:
    name: a name of :data:`PRESETS`.
    steps_per_epoch: in which warm-ups count.
    num_examples: how many training examples there are, for memory banks.
    axis_name: the mapped axis that holds the rest of the batch.
    **hyperparameters: of the method, instead of the published ones.

  Returns:
    An objective with the metrics `"loss"`, `"ce/loss"`, `"kd/loss"` and
    `"<name>/loss"`, as far as they have a weight.

  Raises:
    ValueError: if there is no preset of that name, or it needs the steps of an
      epoch or the number of examples and does not get them.

  Examples:
    >>> objective = preset("kd")
    >>> params, state = objective.init(jax.random.key(0), None, None)
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
  parts: dict[str, tuple[ArrayLike | Schedule, Objective]] = {}
  if row.cross_entropy:
    labels = stateless(cross_entropy, select_supervised, axis_name=axis_name)
    parts["ce"] = row.cross_entropy, labels
  if row.kd:
    soft = stateless(
      soft_target_loss,
      axis_name=axis_name,
      temperature=row.temperature,
    )
    parts["kd"] = row.kd, soft
  if row.method:
    method = build(
      row.method,
      name,
      num_examples=num_examples,
      axis_name=axis_name,
      **hyperparameters,
    )
    parts[name] = _warmup(name, row, steps_per_epoch), method
  return combine(parts)


def build(
  factory: Callable[..., Objective],
  name: str,
  *,
  num_examples: int | None = None,
  axis_name: str | None = None,
  **hyperparameters: Any,
) -> Objective:
  """Calls a method's factory with what it has parameters for."""
  if "num_examples" in inspect.signature(factory).parameters:
    if num_examples is None:
      raise ValueError(
        f"preset: {name} keeps a row for each example; expected num_examples."
      )
    hyperparameters["num_examples"] = num_examples
  return factory(axis_name=axis_name, **hyperparameters)


def lift(
  loss: Callable[..., Any],
  select: Selector = select_logits,
  **defaults: ArrayLike,
) -> Callable[..., Objective]:
  """A factory of a pure loss's objective, with published defaults."""

  def factory(
    *, axis_name: str | None = None, **hyperparameters: ArrayLike
  ) -> Objective:
    values = defaults | hyperparameters
    return stateless(loss, select, axis_name=axis_name, **values)

  return factory


def _warmup(
  name: str, row: Preset, steps_per_epoch: int | None
) -> ArrayLike | Schedule:
  if not row.warmup_epochs:
    return row.weight
  if steps_per_epoch is None:
    raise ValueError(
      f"preset: {name} warms up over {row.warmup_epochs} epochs; expected "
      "steps_per_epoch."
    )

  def schedule(step: Array) -> Array:
    epoch = step // steps_per_epoch + row.first_epoch
    return row.weight * jnp.minimum(epoch / row.warmup_epochs, 1.0)

  return schedule


_REPDISTILLER = "RepDistiller, scripts/run_cifar_distill.sh"
_MDISTILLER = "mdistiller, configs/cifar100"

PRESETS: dict[str, Preset] = {
  "scratch": Preset(None, source="cross-entropy alone"),
  "kd": Preset(None, cross_entropy=0.1, kd=0.9, source=_REPDISTILLER),
  "fitnet": Preset(fitnet, 100.0, source=_REPDISTILLER),
  "at": Preset(at, 1000.0, source=_REPDISTILLER),
  "nst": Preset(nst, 50.0, source=_REPDISTILLER),
  "fsp": Preset(
    None,
    initialization=fsp,
    initialization_epochs=30,
    source=_REPDISTILLER,
  ),
  "ab": Preset(
    None,
    initialization=ab,
    initialization_epochs=30,
    source=_REPDISTILLER,
  ),
  "ft": Preset(
    functools.partial(factor_transfer, form="attention_maps"),
    200.0,
    initialization=factor_transfer_pretraining,
    initialization_epochs=30,
    source=_REPDISTILLER,
  ),
  "kdsvd": Preset(kdsvd, source=_MDISTILLER),
  "ofd": Preset(ofd, 1e-3, source=_MDISTILLER),
  "review_kd": Preset(review_kd, 5.0, warmup_epochs=20, source=_MDISTILLER),
  "rkd": Preset(
    lift(rkd_loss, select_embeddings, distance_weight=25.0, angle_weight=50.0),
    source=_REPDISTILLER,
  ),
  "pkt": Preset(
    lift(pkt_loss, select_embeddings), 30000.0, source=_REPDISTILLER
  ),
  "cc": Preset(
    functools.partial(cc, form="adjacent"), 0.02, source=_REPDISTILLER
  ),
  "sp": Preset(lift(sp_loss, select_last_stage), 3000.0, source=_REPDISTILLER),
  "irg": Preset(irg, source="Knowledge-Distillation-Zoo, train_kd.py"),
  "itrd": Preset(itrd, source="ITRD, train_student.py"),
  "crd": Preset(crd, 0.8, source=_REPDISTILLER),
  "crd+kd": Preset(crd, 0.8, kd=1.0, source=_REPDISTILLER),
  "crd_in_batch": Preset(crd_in_batch, source="none published"),
}
