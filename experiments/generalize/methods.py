"""The step of each method of generalization, and its swept hyper-parameter.

Defaults and ranges are DomainBed's where it has the method, else those of its
paper. Each method has one hyper-parameter of its own beside the learning rate.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from experiments.generalize import losses as losses
from experiments.generalize.losses import Lesson
from experiments.generalize.losses import mean_loss
from experiments.generalize.losses import penalized
from experiments.generalize.networks import Network
from kdjax import generalization

ADAM = optax.scale_by_adam()


class Search(NamedTuple):
  """The default of a hyper-parameter, and where others are drawn from."""

  default: float
  low: float
  high: float
  linear: bool = False  # else the logarithm is uniform

  def at(self, share: jax.Array) -> jax.Array:
    """The value at a share in [0, 1] of the range."""
    if self.linear:
      return self.low + share * (self.high - self.low)
    return self.low * (self.high / self.low) ** share


class Method(NamedTuple):
  """One row of the table.

  Attributes:
    title: as papers write it.
    update: `(params, moments, lesson) -> params, moments, state`.
    swept: the hyper-parameter, in words.
    search: its values.
    anneal: the part of the steps that comes before it counts.
    before: what it is until then.
    init: `(key, setting) -> parameters beside the network's, state`.
    predict: `(network, params, images) -> logits`.
  """

  title: str
  update: Callable[..., tuple[Any, Any, Any]]
  swept: str = ""
  search: Search = Search(0.0, 0.0, 0.0, linear=True)
  anneal: Search | None = None
  before: float = 0.0
  init: Callable[[jax.Array, losses.Setting], tuple[Any, Any]] = (
    lambda key, setting: ({}, {})
  )
  predict: Callable[[Network, Any, jax.Array], jax.Array] = (
    lambda network, params, images: network.logits(params["network"], images)
  )


def adam_step(rate: jax.Array) -> Callable[..., tuple[Any, Any]]:
  """A step of Adam: `(gradients, moments, params) -> params, moments`."""

  def step(gradients: Any, moments: Any, params: Any) -> tuple[Any, Any]:
    updates, moments = ADAM.update(gradients, moments)
    updates = jax.tree.map(lambda x: -rate * x, updates)
    return optax.apply_updates(params, updates), moments

  return step


def descend(loss: Callable[[Any, Lesson], tuple[jax.Array, Any]]):
  """An update along the gradient of a loss."""

  def update(params: Any, moments: Any, lesson: Lesson):
    gradients, state = jax.grad(loss, has_aux=True)(params, lesson)
    step = adam_step(lesson.learning_rate)
    return *step(gradients, moments, params), state

  return update


def masked(mask: Callable[..., Any]):
  """An update along the domains' gradients where a mask keeps them."""

  def update(params: Any, moments: Any, lesson: Lesson):
    _, gradients = generalization.domain_gradients(
      lambda params, batch: mean_loss(lesson.network, params, batch),
      params,
      (lesson.images, lesson.labels),
    )
    gradients = mask(gradients, threshold=lesson.weight)
    step = adam_step(lesson.learning_rate)
    return *step(gradients, moments, params), lesson.state

  return update


def fish(params: Any, moments: Any, lesson: Lesson):
  """Adam goes from domain to domain, the student a part of its way."""
  result = generalization.fish(
    lambda params, batch: mean_loss(lesson.network, params, batch),
    params,
    (lesson.images, lesson.labels),
    inner_update=adam_step(lesson.learning_rate),
    inner_state=moments,
    meta_step_size=lesson.weight,
  )
  return result.params, result.state, lesson.state


def mldg(params: Any, lesson: Lesson) -> tuple[jax.Array, Any]:
  """A step on all domains but one must help on that one.

  With a single domain that is the domain itself.
  """
  order = jax.random.permutation(lesson.key, len(lesson.labels))
  batches = lesson.images, lesson.labels
  train, test = (
    jax.tree.map(lambda x, part=part: x[part], batches)
    for part in (order[1:] if len(order) > 1 else order, order[:1])
  )
  loss = generalization.mldg(
    lambda params, batch: mean_loss(lesson.network, params, batch),
    params,
    train,
    test,
    inner_update=adam_step(lesson.learning_rate),
    inner_state=ADAM.init(params),
    beta=lesson.weight,
    first_order=True,
  )
  return loss, lesson.state


PENALTY, ALPHA, TENTH = "penalty", "alpha", Search(0.1, 0.01, 10.0)
AROUND_ONE = Search(1.0, 0.1, 10.0)
LONG_RANGE = {"low": 0.1, "high": 1e5}
ANNEAL = Search(0.1, 2e-4, 2.0)

METHODS = {
  "erm": Method("ERM", descend(losses.erm)),
  "irm": Method(
    "IRM",
    descend(penalized(losses.irm)),
    PENALTY,
    Search(100.0, **LONG_RANGE),
    ANNEAL,
    before=1.0,
  ),
  "vrex": Method(
    "V-REx",
    descend(penalized(losses.vrex)),
    PENALTY,
    Search(10.0, **LONG_RANGE),
    ANNEAL,
    before=1.0,
  ),
  "group_dro": Method(
    "GroupDRO",
    descend(losses.group_dro),
    "step size",
    Search(0.01, 0.001, 0.1),
    init=losses.init_group_dro,
  ),
  "fishr": Method(
    "Fishr",
    descend(losses.fishr),
    PENALTY,
    Search(1000.0, 10.0, 1e4),
    Search(0.3, 0.0, 1.0, linear=True),
    init=losses.init_fishr,
  ),
  "sd": Method(
    "SD", descend(penalized(losses.sd)), PENALTY, Search(0.1, 1e-5, 0.1)
  ),
  "rsc": Method(
    "RSC",
    descend(losses.rsc),
    "share muted",
    Search(1 / 3, 0.0, 0.5, linear=True),
  ),
  "andmask": Method(
    "ANDMask",
    masked(generalization.andmask),
    "threshold",
    Search(1.0, 0.5, 1.0, linear=True),
  ),
  "sandmask": Method(
    "SANDMask",
    masked(generalization.sandmask),
    "threshold",
    Search(0.5, 0.0, 1.0, linear=True),
  ),
  "coral": Method(
    "CORAL", descend(penalized(losses.coral)), PENALTY, AROUND_ONE
  ),
  "mmd": Method("MMD", descend(penalized(losses.mmd)), PENALTY, AROUND_ONE),
  "mixup": Method(
    "Mixup", descend(losses.mixup), ALPHA, Search(0.2, 0.1, 10.0)
  ),
  "domainmix": Method(
    "DomainMix", descend(losses.domainmix), ALPHA, AROUND_ONE
  ),
  "mixstyle": Method(
    "MixStyle",
    descend(losses.mixed_styles(generalization.mixstyle)),
    ALPHA,
    Search(0.1, 0.1, 1.0),
  ),
  "efdmix": Method(
    "EFDMix",
    descend(losses.mixed_styles(generalization.efdmix)),
    ALPHA,
    Search(0.1, 0.1, 1.0),
  ),
  "sagnet": Method(
    "SagNet",
    descend(losses.sagnet),
    "adversary",
    TENTH,
    init=losses.init_sagnet,
  ),
  "mldg": Method("MLDG", descend(mldg), "beta", AROUND_ONE),
  "fish": Method("Fish", fish, "part of the way", Search(0.5, 0.05, 0.5)),
  "crossgrad": Method(
    "CrossGrad",
    descend(losses.crossgrad),
    "epsilon",
    AROUND_ONE,
    init=losses.init_crossgrad,
  ),
  "ddaig": Method(
    "DDAIG",
    descend(losses.ddaig),
    "perturbation",
    Search(0.3, 0.1, 1.0),
    init=losses.init_ddaig,
  ),
  "dael": Method(
    "DAEL-DG",
    descend(losses.dael),
    "consistency",
    AROUND_ONE,
    init=losses.init_dael,
    predict=losses.predict_by_experts,
  ),
  "difex": Method(
    "DIFEX",
    descend(losses.difex),
    "its three terms",
    Search(0.1, 0.001, 1.0),
    init=losses.init_difex,
  ),
}

# Empirical risk minimization on the target itself: what could be hoped for.
TARGET_ONLY = "target_only"
ROWS = METHODS | {TARGET_ONLY: Method("Target-only", METHODS["erm"].update)}


def draw_trials(name: str, config: Any, key: jax.Array) -> dict[str, jax.Array]:
  """A seed's trials: `[trials]` of each hyper-parameter, the defaults first.

  Learning rates are the same for all methods.
  """
  method = ROWS[name]
  rates = Search(1e-3, *config.learning_rates)
  searches = rates, method.search, method.anneal or Search(0.0, 0.0, 0.0, True)
  drawn = []
  for i, search in enumerate(searches):
    shares = jax.random.uniform(jax.random.fold_in(key, i), (config.trials,))
    drawn.append(search.at(shares).at[0].set(search.default))
  rate, weight, anneal = drawn
  if method.anneal is None:
    anneal = jnp.full_like(anneal, -1.0)
  steps = jnp.round(anneal * config.steps).astype(jnp.int32)
  return {"learning_rate": rate, "weight": weight, "anneal": steps}
