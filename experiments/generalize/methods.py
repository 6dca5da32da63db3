"""The methods of generalization as learners with a hyper-parameter to sweep."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from experiments.generalize import networks
from kdjax import data as kdata
from kdjax import methods as kmethods
from kdjax import metrics, training
from kdjax.methods import Row, Search

METHODS = ("erm", *(x for x in kmethods.names("generalization") if x != "erm"))
# Empirical risk minimization on the target itself: the upper bound.
TARGET_ONLY = "target_only"
NAMES = {name: kmethods.describe(name).title for name in METHODS}
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


def row_of(name: str) -> Row:
  """The row of a method."""
  return kmethods.describe("erm" if name == TARGET_ONLY else name)


def search_of(name: str) -> Search:
  """The values of a method's hyper-parameter."""
  return row_of(name).search or NOTHING


def make_learner(
  name: str, setting: Setting, trial: dict[str, Any], key: Any = None
) -> training.Learner:
  """The learner of a method, whose student starts with the weights of a key."""
  row = row_of(name)
  options: dict[str, Any] = {}
  if row.tuned:
    options[row.tuned] = trial["weight"]
  if row.anneal:
    options["anneal_steps"] = trial["anneal"]
  if name in ("mixstyle", "efdmix"):
    # DomainBed's network and the MLP have no stages.
    options["after"] = (networks.STEMS[setting.config.network],)
    options["num_domains"] = setting.domains
  student = networks.make_network(
    setting.config, setting.shape, setting.classes, key
  )
  method = kmethods.create("erm" if name == TARGET_ONLY else name, **options)
  return training.generalize(
    student,
    method,
    optax.adam(trial["learning_rate"]),
    others={x: OTHERS[x](setting) for x in row.networks},
    views={view: VIEWS[view] for view in row.views},
    metrics={"accuracy": metrics.accuracy},
  )


def harder(key: jax.Array, batch: Any) -> jax.Array:
  """Images shifted by up to an eighth of their side, a square blackened."""
  keys = jax.random.split(key)
  images = batch["image"]
  side = images.shape[1]
  images = kdata.random_crop(keys[0], images, padding=side // 8)
  return kdata.cutout(keys[1], images, size=side // 4)


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
