"""The methods that `experiments.adapt` compares, as learners and new images."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import optax

from experiments.adapt import data as adapt_data
from experiments.adapt.data import Data
from kdjax import data as kdata
from kdjax import methods as kmethods
from kdjax import training

BOUNDS = ("source_only", "target_only")
# Methods for two closed sets of images, in the groups of the report.
GROUPS = {
  "bounds": BOUNDS,
  "discrepancy": (
    *("mmd", "jmmd", "lmmd", "coral", "cmd", "m3sda", "afn", "hafn", "rsd"),
    *("sinkhorn", "sliced_wasserstein", "deepjdot"),
  ),
  "adversarial": (
    *("dann", "cdan", "cdan_entropy", "cdan_random", "bsp", "jda", "adda"),
    *("mcd", "mdd"),
  ),
  "predictions": ("entropy", "bnm", "mcc", "information", "shot", "mme"),
  "self-training": (
    *("cdac", "pseudo_label", "fixmatch", "uda", "flexmatch", "mean_teacher"),
    *("pi_model", "self_ensembling", "dst", "confusion_consistency"),
    "mixmatch",
  ),
  "inputs": ("fda", "adabn"),
  "instance weights": (
    *("kmm", "kliep", "ulsif", "rulsif", "discriminator_ratio"),
  ),
  "closed-form maps": (
    *("coral_map", "linear_ot", "subspace_alignment", "gfk", "tca", "jda_map"),
  ),
}
GROUP_OF = {name: group for group, names in GROUPS.items() for name in names}
CHOICES = tuple(name for name in GROUP_OF if name not in BOUNDS)
NAMES = {name: kmethods.describe(name).title for name in GROUP_OF}
AVERAGE = 0.99  # of the mean teacher, over runs of some hundred steps


def shifted(key: jax.Array, images: Any) -> Any:
  """Images moved by up to a pixel."""
  return kdata.random_crop(key, images, padding=1)


def strong_view(key: jax.Array, batch: Any, *, number: int = 0) -> Any:
  """Images moved by up to a pixel, and a square of each blackened."""
  key = jax.random.fold_in(key, number)
  images = shifted(key, batch["image"])
  size = images.shape[1] // 4
  return kdata.cutout(jax.random.fold_in(key, 1), images, size=size)


VIEWS = {
  "weak": lambda key, batch: shifted(key, batch["image"]),
  "strong": strong_view,
  "strong_2": functools.partial(strong_view, number=2),
}
# Options for small images and networks.
OPTIONS: dict[str, dict[str, Any]] = {
  "cdan_random": {"mapped": 256},
  "fda": {"half_width": 1},
  "subspace_alignment": {"num_components": 30},
  "tca": {"num_components": 30},
  "jda_map": {"num_components": 30},
}


def make_method(
  name: str, config: Any, targets: int, factor: Any = 1.0
) -> kmethods.Method:
  """The method of a name, for so many target images."""
  row = kmethods.describe(name)
  options: dict[str, Any] = dict(OPTIONS.get(name, {}))
  if row.tuned:
    published = row.search.default if row.search else row.weight
    options[row.tuned] = factor * published
  method = kmethods.create(
    name,
    hidden=(config.discriminator,),
    num_examples=targets,
    steps=config.steps,
    **options,
  )
  if "average" in row.networks:
    average = kmethods.parameter_ema(AVERAGE)
    method = method._replace(optimizer=lambda x: optax.chain(x, average))
  return method._replace(
    before={}
  )  # Students start with source-only's weights.


def make_learner(
  name: str,
  config: Any,
  student: training.Model,
  targets: int,
  factor: Any = 1.0,
) -> training.Learner:
  """The learner of a method."""
  method = make_method(name, config, targets, factor)
  optimizer = optax.adam(
    optax.cosine_decay_schedule(config.learning_rate, config.steps),
    b1=0.5,  # adversaries need a short memory
  )
  return training.adapt(
    student,
    method,
    optimizer,
    teacher=student if "teacher" in method.needs.networks else None,
    # With BatchNorm, a joint forward pass means joint statistics.
    joint=config.joint_forward,
    views={view: VIEWS[view] for view in method.needs.views},
    augment=shifted if name == "mixmatch" else None,
  )


def change_of(name: str) -> Callable[[Data], Data] | None:
  """The change that a method makes to images before training, or None."""
  changes = {
    "instance weights": adapt_data.weigh,
    "closed-form maps": adapt_data.transform,
  }
  apply = changes.get(GROUP_OF[name])
  if apply is None:
    return None

  def change(data: Data) -> Data:
    options = OPTIONS.get(name, {})
    method = kmethods.create(name, num_classes=data.classes, **options)
    assert method.data is not None
    return apply(data, method.data)

  return change
