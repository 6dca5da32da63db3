"""The methods of generalization as learners with a hyper-parameter to sweep."""

import functools
import inspect
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from experiments.generalize import networks
from kdjax import data as kdata
from kdjax import methods, metrics, training
from kdjax.methods import Preset, Search

METHODS = tuple(
  name for name, row in methods.PRESETS.items() if row.area == "generalization"
)
# Empirical risk minimization on the target itself: the upper bound.
TARGET_ONLY = "target_only"
NAMES = {name: methods.PRESETS[name].title for name in METHODS}
NAMES[TARGET_ONLY] = "Target-only"
NOTHING = Search(0.0, 0.0, 0.0, linear=True)


class Setting(NamedTuple):
  """The sizes on which a method's networks depend."""

  config: Any
  domains: int
  classes: int
  shape: tuple[int, int, int]  # of an image

  def batch(self) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes of a batch."""
    size = self.domains, self.config.batch_size
    return {
      "image": jax.ShapeDtypeStruct((*size, *self.shape), jnp.float32),
      "label": jax.ShapeDtypeStruct(size, jnp.int32),
      "mask": jax.ShapeDtypeStruct(size, jnp.bool_),
    }


def row_of(name: str) -> Preset:
  """The row of a method."""
  return methods.PRESETS["erm" if name == TARGET_ONLY else name]


def search_of(name: str) -> Search:
  """The values of a method's hyper-parameter."""
  return row_of(name).search or NOTHING


def make_learner(
  name: str, setting: Setting, trial: dict[str, Any], key: Any = None
) -> training.Learner:
  """The learner of a method."""
  row, shape = row_of(name), setting.shape
  rate, tuned, anneal = (
    trial[k] for k in ("learning_rate", "weight", "anneal")
  )

  def read_by(factory: Any) -> Any:
    return inspect.signature(factory).parameters if factory else {}

  def made(factory: Any) -> Any:
    """Calls a factory of the row with the hyper-parameters that it has."""
    known = {"inner": optax.adam(rate), row.tuned: tuned}
    read = read_by(factory)
    return factory and factory(**{k: v for k, v in known.items() if k in read})

  options = {}
  if row.tuned == "weight" or row.tuned in read_by(row.method):
    options[row.tuned] = tuned
  if row.anneal:
    options["anneal_steps"] = anneal
  optimizer = optax.sgd(1.0) if row.goes else optax.adam(rate)
  if row.training == "restart_at":
    optimizer = training.restart_at(optimizer, anneal)
  change = None
  if row.training == "mixed_styles":
    change = functools.partial(
      training.mixed_styles,
      after=[networks.STEMS[setting.config.network]],
      way=name,
      num_domains=setting.domains,
      alpha=tuned,
    )
  student = networks.make_network(
    setting.config, shape, setting.classes, change
  )
  if key is not None:
    student = training.Model(student.forward, student.init(key))
  return training.generalize(
    student,
    methods.preset("erm" if name == TARGET_ONLY else name, **options),
    optimizer,
    others={x: OTHERS[x](setting) for x in row.networks},
    views={view: VIEWS[view] for view in row.views},
    passes=row.passes,
    prepare=made(row.prepare),
    rule=made(row.rule),
    metrics={"accuracy": metrics.accuracy},
  )


def harder(key: jax.Array, batch: Any) -> jax.Array:
  """Images shifted by up to an eighth of their side, a square blackened."""
  keys = jax.random.split(key)
  images = batch["image"]
  side = images.shape[2]
  flat = images.reshape(-1, *images.shape[2:])
  flat = kdata.random_crop(keys[0], flat, padding=side // 8)
  flat = kdata.cutout(keys[1], flat, size=side // 4)
  return flat.reshape(images.shape)


VIEWS = {"strong": harder}
# The networks that are trained beside a student.
OTHERS = {
  "judge": lambda x: networks.make_network(x.config, x.shape, x.domains),
  "phases": lambda x: networks.make_network(x.config, x.shape, x.classes),
  "generator": lambda x: networks.make_generator(x.config, x.shape),
}


def draw_trials(name: str, config: Any, key: jax.Array) -> dict[str, jax.Array]:
  """A seed's trials `[trials]`, the defaults first; methods share the rates."""
  row = row_of(name)
  rates = Search(1e-3, *config.learning_rates)
  searches = rates, search_of(name), row.anneal or NOTHING

  def draw(i: int, search: Search) -> jax.Array:
    shares = jax.random.uniform(jax.random.fold_in(key, i), (config.trials,))
    return at(search, shares).at[0].set(search.default)

  rate, weight, anneal = map(draw, range(3), searches)
  if row.anneal is None:
    anneal = jnp.full_like(anneal, -1.0)
  steps = jnp.round(anneal * config.steps).astype(jnp.int32)
  return {"learning_rate": rate, "weight": weight, "anneal": steps}


def at(search: Search, share: jax.Array) -> jax.Array:
  """The value at a share in [0, 1] of a range."""
  assert search.low is not None
  assert search.high is not None
  if search.linear:
    return search.low + share * (search.high - search.low)
  return search.low * (search.high / search.low) ** share
