"""Methods of fine-tuning: their optimizers, learners and candidates."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from experiments.frame import plots
from kdjax import methods as kmethods
from kdjax import metrics, training

# Baselines by their names in the library; for prototypes nothing is trained.
BASELINES = {
  "target_only": "from_scratch",
  "prototypes": None,
  "linear_probe": "linear_probe",
  "finetune": "finetune",
}
# With batch normalization, for comparison with StochNorm.
NORM_BASELINES = {
  "target_only_norm": "from_scratch",
  "finetune_norm": "finetune",
}
KNOWN_AS = BASELINES | NORM_BASELINES
CHOICES = tuple(
  name for name in kmethods.names("finetuning") if name not in KNOWN_AS.values()
)
METHODS = (*KNOWN_AS, *CHOICES)
NAMES = {
  "target_only": "target-only",
  "prototypes": "prototypes",
  "target_only_norm": "target-only with BN",
  "finetune_norm": "fine-tuning with BN",
}
NAMES |= {x: kmethods.describe(x).title for x in METHODS if x not in NAMES}
# Values that are tried beside the published ones.
TRIED = {
  "layerwise": (0.1, 0.7),
  "unfreezing": (0.1, 0.4),
  "l2_sp": (0.001, 0.1),
  "delta": (0.048, 0.0048),
  "delta_attention": (0.048, 0.0048),
  "bss": (0.01, 0.1),
  "co_tuning": (0.23, 0.023),
  "lwf": (0.04, 0.004),
  "bi_tuning": (0.1, 0.01),
}
# One color for the origin of a network's initial weights.
ORIGINS = {
  "fresh weights": plots.RED,
  "baselines": plots.DARK,
  "pretrained": plots.BLUE,
  "meta-learned": plots.GREEN,
}
# Methods of which the head alone is trained on the target.
HEAD_ALONE = ("linear_probe", "anil")
# Methods that train on the target's labels alone, from weights of their own,
# or by another optimizer or network than fine-tuning, which come from here.
LABELS_ALONE = (
  *HEAD_ALONE,
  "layerwise",
  "unfreezing",
  "stochnorm",
  "maml",
  "reptile",
)
# Layers are unfrozen after this part of the steps each: there are no epochs.
UNFREEZE = 0.25
MOMENTUM = 0.999  # of Bi-Tuning's encoder of keys, as published


def row_of(method: str) -> kmethods.Row:
  """The row of a method or of a baseline; of prototypes that of fine-tuning."""
  return kmethods.describe(KNOWN_AS.get(method, method) or "finetune")


def start_of(method: str) -> str:
  """Where its network comes from: fresh, source, or a way of meta-learning."""
  row = row_of(method)
  if row.start == "past":
    return "source"
  return "fresh" if method.startswith("target_only") else method


def origin_of(method: str) -> str:
  """The origin of a network's initial weights."""
  start = start_of(method)
  if start == "fresh":
    return "fresh weights"
  if method in (*BASELINES, "finetune_norm"):
    return "baselines"
  return "pretrained" if start == "source" else "meta-learned"


def is_trained(method: str) -> bool:
  """Whether the network is trained on the target."""
  return method not in ("prototypes", "prototypical")


def norm_of(method: str) -> str:
  """The normalization of the network: none, batch or stochastic."""
  if method in NORM_BASELINES:
    return "batch"
  return "stochastic" if method == "stochnorm" else "none"


def with_baselines(methods: tuple[str, ...]) -> list[str]:
  """Methods and their baselines, those with a norm last."""
  wanted = {*BASELINES, *methods}
  if any(norm_of(method) != "none" for method in methods):
    wanted |= {*NORM_BASELINES}
  rows = [method for method in METHODS if method in wanted]
  return sorted(rows, key=lambda method: norm_of(method) != "none")


def candidates(
  method: str,
  rates: tuple[float, ...],
  tried: Mapping[str, tuple[float, ...]] = TRIED,
) -> dict[str, jax.Array]:
  """The candidates of a method, those that are published first."""
  weights = (0.0,)
  if method in tried:
    row = row_of(method)
    published = row.search.default if row.search else row.weight
    first = UNFREEZE if method == "unfreezing" else published
    weights = first, *tried[method]
  return training.grid(weight=weights, rate=rates)


def make_optimizer(
  method: str,
  candidate: dict[str, jax.Array],
  groups: list[str],
  steps: int,
  *,
  body: Any = None,
) -> Any:
  """Adam with a cosine, as a method changes it.

  The rate of all groups but the last, the head's, is `body` times the head's if
  given, except under layer-wise rates, which fall by a factor of their own.
  """
  adam = optax.adam(optax.cosine_decay_schedule(candidate["rate"], steps))
  weight = candidate["weight"]
  if body is not None and method not in ("layerwise", *HEAD_ALONE):
    factors = [body] * (len(groups) - 1)
    slower = kmethods.layerwise_learning_rates(groups[:-1], factors=factors)
    adam = optax.chain(adam, slower)
  match method:
    case "layerwise":
      rates = kmethods.layerwise_learning_rates(groups, decay=weight)
      return optax.chain(adam, rates)
    case _ if method in HEAD_ALONE:
      still = [0.0] * (len(groups) - 1)
      still = kmethods.layerwise_learning_rates(groups[:-1], factors=still)
      return optax.chain(adam, still)
    case "unfreezing":
      every = jnp.maximum(jnp.round(weight * steps).astype(int), 1)
      return kmethods.gradual_unfreezing(adam, groups, every=every)
    case "bi_tuning":
      return optax.chain(adam, kmethods.parameter_ema(MOMENTUM))
  return adam


def make_learner(
  method: str,
  student: training.Model,
  past: training.Model,
  optimizer: optax.GradientTransformation,
  *,
  classes: int,
  weight: Any = None,
  knowledge: Any = None,
  on: str = "image",
) -> training.Learner:
  """The learner of a method, which adds to the new head's cross-entropy.

  Only `init` needs its weight and its knowledge: the relationship of Co-Tuning,
  or the attention of DELTA. The networks see the entry `on` of a batch.
  """
  unknown = knowledge is None
  name = KNOWN_AS.get(method) or method
  known = kmethods.create(
    "finetune" if method in LABELS_ALONE else name,
    weight=weight,
    num_classes=classes,
    relationship=jnp.zeros((classes, classes)) if unknown else knowledge,
    attention={} if unknown else knowledge,
  )
  prepare = None if norm_of(method) == "none" else replace_held_out
  return training.finetune(
    student,
    past if "past" in known.needs.networks else None,
    # `make_optimizer` and the frame's networks have these changes already.
    known._replace(optimizer=None, network=None, prepare=prepare),
    optimizer,
    on=on,
    metrics={"accuracy": metrics.accuracy},
  )


def replace_held_out(key: jax.Array, batch: Any, run: Any) -> Any:
  """Lets others stand in for held-out images, unknown to batch statistics."""
  del run
  mask = batch["mask"]
  others = jnp.where(mask, 0.0, -jnp.inf)
  others = jax.random.categorical(key, others, shape=mask.shape)
  places = jnp.where(mask, jnp.arange(mask.size), others)
  return batch | {"image": batch["image"][places]}


def answer(forward: Any, variables: Any, inputs: Any) -> Any:
  """The outputs of a network, in evaluation."""
  return forward(variables, inputs, train=False, key=None)[0]
