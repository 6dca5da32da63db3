"""The methods that `experiments.adapt` compares, as learners and new images."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import optax

from experiments.adapt import data as adapt_data
from experiments.adapt.data import Data
from kdjax import data as kdata
from kdjax import methods, training

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
NAMES = {name: methods.PRESETS[name].title for name in GROUP_OF}
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
  "strong": strong_view,
  "strong_2": functools.partial(strong_view, number=2),
}
# Options for small images and networks.
OPTIONS = {"cdan_random": {"mapped": 256}}
PREPARATIONS = {"fda": {"half_width": 1}, "mixmatch": {"augment": shifted}}
COMPONENTS = {
  name: {"num_components": 30}
  for name in ("subspace_alignment", "tca", "jda_map")
}


def make_optimizer(name: str, config: Any) -> optax.GradientTransformation:
  """Adam with a cosine, and the average that some methods learn from."""
  optimizer = optax.adam(
    optax.cosine_decay_schedule(config.learning_rate, config.steps),
    b1=0.5,  # adversaries need a short memory
  )
  if methods.PRESETS[name].training == "parameter_ema":
    return optax.chain(optimizer, training.parameter_ema(AVERAGE))
  return optimizer


def make_learner(
  name: str,
  config: Any,
  student: training.Model,
  targets: int,
  factor: Any = 1.0,
) -> training.Learner:
  """The learner of a method."""
  row = methods.PRESETS[name]
  options: dict[str, Any] = dict(OPTIONS.get(name, {}))
  if row.tuned:
    published = row.search.default if row.search else row.weight
    options[row.tuned] = factor * published
  options |= {"num_examples": targets, "steps": config.steps}
  objective = methods.preset(name, hidden=(config.discriminator,), **options)
  teacher = student if "source" in row.networks else None
  return training.adapt(
    student,
    objective,
    make_optimizer(name, config),
    teacher="average" if "average" in row.networks else teacher,
    domains=row.domains,
    # With BatchNorm, a joint forward pass means joint statistics.
    joint=config.joint_forward,
    views={view: VIEWS[view] for view in row.views},
    passes=row.passes,
    prepare=row.prepare and row.prepare(**PREPARATIONS[name]),
  )


def change_of(name: str) -> Callable[[Data], Data] | None:
  """The change that a method makes to images before training, or None."""
  row = methods.PRESETS[name]
  if row.reweight is not None:
    return functools.partial(adapt_data.weigh, weigh=row.reweight)
  if row.transform is None:
    return None
  fit, options = row.transform, COMPONENTS.get(name, {})

  def change(data: Data) -> Data:
    labels = data.train["source"]["label"]
    known = {"source_labels": labels, "num_classes": data.classes}
    read = inspect.signature(fit).parameters
    known = options | {k: v for k, v in known.items() if k in read}
    return adapt_data.transform(data, functools.partial(fit, **known))

  return change
