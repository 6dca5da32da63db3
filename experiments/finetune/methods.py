"""The objective and the optimizer of each method of fine-tuning."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from kdjax import finetuning
from kdjax import metrics
from kdjax import objectives
from kdjax import training
from kdjax.objectives import Objective
from kdjax.objectives import combine
from kdjax.objectives import select_supervised
from kdjax.objectives import stateless
from kdjax.ops import masked_mean

cross_entropy = optax.softmax_cross_entropy_with_integer_labels

MOMENTUM = 0.999  # of Bi-Tuning's encoder of keys, as published


class Method(NamedTuple):
  """A row of the table.

  Attributes:
    title: its name in the report.
    start: where the network comes from: fresh, source, or a way of meta-
      learning.
    weights: candidates of its hyper-parameter, the published one first.
    tuned: whether the network is trained on the target.
    norm: of the network's layers: none, batch or stochastic. Methods with any
      are compared with one another only.
  """

  title: str
  start: str = "source"
  weights: tuple[float, ...] = (0.0,)
  tuned: bool = True
  norm: str = "none"


METHODS = {
  "target_only": Method("target-only", "fresh"),
  "prototypes": Method("prototypes", tuned=False),
  "linear_probe": Method("linear probe"),
  "finetune": Method("fine-tuning"),
  "layerwise": Method("layer-wise rates", weights=(1 / 2.6, 0.1, 0.7)),
  "unfreezing": Method("gradual unfreezing", weights=(0.25, 0.1, 0.4)),
  "l2_sp": Method("L2-SP", weights=(0.01, 0.001, 0.1)),
  "delta": Method("DELTA", weights=(0.48, 0.048, 0.0048)),
  "delta_attention": Method(
    "DELTA with attention", weights=(0.48, 0.048, 0.0048)
  ),
  "bss": Method("BSS", weights=(0.001, 0.01, 0.1)),
  "co_tuning": Method("Co-Tuning", weights=(2.3, 0.23, 0.023)),
  "lwf": Method("LwF", weights=(4 / 9, 0.04, 0.004)),
  "bi_tuning": Method("Bi-Tuning", weights=(1.0, 0.1, 0.01)),
  "maml": Method("MAML", "maml"),
  "anil": Method("ANIL", "anil"),
  "reptile": Method("Reptile", "reptile"),
  "prototypical": Method("prototypical nets", "prototypical", tuned=False),
  "target_only_norm": Method("target-only with BN", "fresh", norm="batch"),
  "finetune_norm": Method("fine-tuning with BN", norm="batch"),
  "stochnorm": Method("StochNorm", norm="stochastic"),
}
BASELINES = ("target_only", "prototypes", "linear_probe", "finetune")
NORM_BASELINES = ("target_only_norm", "finetune_norm")


def with_baselines(methods: tuple[str, ...]) -> list[str]:
  """These methods and what they are compared with, in the table's order."""
  wanted = {*BASELINES, *methods}
  if any(METHODS[method].norm != "none" for method in methods):
    wanted |= {*NORM_BASELINES}
  return [method for method in METHODS if method in wanted]


def candidates(method: str, rates: tuple[float, ...]) -> dict[str, jax.Array]:
  """The candidates of a method, those that are published first."""
  return training.grid(weight=METHODS[method].weights, rate=rates)


def make_optimizer(
  method: str, candidate: dict[str, jax.Array], groups: list[str], steps: int
) -> optax.GradientTransformation:
  """Adam with a cosine, and what a method does to it."""
  adam = optax.adam(optax.cosine_decay_schedule(candidate["rate"], steps))
  weight = candidate["weight"]
  match method:
    case "linear_probe" | "anil":
      still = [0.0] * (len(groups) - 1)
      still = training.layerwise_learning_rates(groups[:-1], factors=still)
      return optax.chain(adam, still)
    case "layerwise":
      rates = training.layerwise_learning_rates(groups, decay=weight)
      return optax.chain(adam, rates)
    case "unfreezing":
      every = jnp.maximum(jnp.round(weight * steps).astype(int), 1)
      return training.gradual_unfreezing(adam, groups, every=every)
  return adam


def layer_groups(body: str, params: Any) -> list[str]:
  """Expressions for the layers of a network, from its input to its head."""
  others = sorted(params.keys() - {body, "head"})
  layers = [f"{body}/{i}" for i in params[body]]
  return [f"^student/{name}/" for name in (*layers, *others, "head")]


def delta(attention: Any) -> Objective:
  """DELTA over all features; without attention the behavioural penalty."""

  def init(key, student, teacher):
    del key, student, teacher
    return {}, {"attention": attention}

  def apply(params, state, student, teacher, batch, key):
    del params, key
    losses = [
      finetuning.delta_loss(
        feature,
        teacher.features[name],
        channel_attention=state["attention"].get(name),
      )
      for name, feature in student.features.items()
    ]
    loss = jnp.sum(jnp.stack(losses), 0)
    return masked_mean(loss, batch["mask"]), state, {}

  return Objective(init, apply)


def make_objective(
  method: str, classes: int, weight: Any = 1.0, knowledge: Any = None
) -> Objective:
  """The cross-entropy of the new head and what a method adds to it.

  Weight and knowledge are in the state: to apply it, neither is needed.
  """
  parts = {"ce": (1.0, stateless(cross_entropy, select_supervised))}
  match method:
    case "delta" | "delta_attention":
      parts[method] = weight, delta(knowledge)
    case "bss":
      bss = stateless(
        finetuning.bss_loss, lambda student, *_: (student.embedding,)
      )
      parts[method] = weight, bss
    case "co_tuning":
      if knowledge is None:
        knowledge = jnp.zeros((classes, classes))
      parts[method] = weight, objectives.co_tuning(knowledge)
    case "lwf":
      parts[method] = weight, objectives.lwf()
    case "bi_tuning":
      parts[method] = weight, objectives.bi_tuning(classes)
  return combine(parts)


def make_loss(method: str, forward: training.Forward, classes: int):
  """The loss of a batch, given the teacher and the weight as frozen."""
  loss_fn = training.distillation_loss(
    forward, make_objective(method, classes), forward
  )

  def starting_point(params, state, frozen, batch, key):
    loss, aux = loss_fn(params, state, frozen, batch, key)
    start = frozen["teacher"].params | {"head": None}
    alpha = frozen["weight"] if method == "l2_sp" else 0.0
    # Of the new head DELTA has what L2-SP has.
    loss += finetuning.l2_sp(params["student"], start, alpha=alpha, beta=0.01)
    return loss, aux

  def bi_tuning(params, state, frozen, batch, key):
    # Its teacher is no pretrained network but the student's own average.
    average = optax.incremental_update(
      jax.lax.stop_gradient(params["student"]), state["average"], 1 - MOMENTUM
    )
    teacher = training.Variables(average, state["student"])
    frozen = frozen | {"teacher": teacher}
    loss, (moved, metrics) = loss_fn(params, state, frozen, batch, key)
    return loss, (moved | {"average": average}, metrics)

  def batch_statistics(params, state, frozen, batch, key):
    # They must not know the images held out: others stand in for these.
    draw_key, key = jax.random.split(key)
    mask, images = batch["mask"], batch["image"]
    others = jnp.where(mask, 0.0, -jnp.inf)
    others = jax.random.categorical(draw_key, others, shape=mask.shape)
    places = jnp.where(mask, jnp.arange(mask.size), others)
    batch = batch | {"image": images[places]}
    return loss_fn(params, state, frozen, batch, key)

  if METHODS[method].norm != "none":
    return batch_statistics
  match method:
    case "l2_sp" | "delta" | "delta_attention":
      return starting_point
    case "bi_tuning":
      return bi_tuning
  return loss_fn


def ask_teacher(
  method: str,
  forward: training.Forward,
  teacher: training.Variables,
  batch: dict[str, jax.Array],
  *,
  body: str,
  classes: int,
) -> Any:
  """The knowledge of a method on the teacher and the labels at its start.

  Co-Tuning: the relationship of the classes. DELTA: by channel, how much the
  labels would miss it, with the nearest prototype as the fitted head.
  """
  labels, mask = batch["label"], batch["mask"]
  options = {"num_classes": classes, "where": mask}

  def look(params: Any) -> Any:
    variables = training.Variables(params, teacher.state)
    return forward(variables, batch["image"], train=False, key=None)[0]

  before = look(teacher.params)
  match method:
    case "co_tuning":
      answers = jax.nn.softmax(before.logits)
      return finetuning.co_tuning_targets(answers, labels, **options)
    case "delta_attention":
      prototypes = finetuning.class_prototypes(
        before.embedding, labels, **options
      )

      def loss(params):
        logits = finetuning.prototypical_logits(
          look(params).embedding, prototypes
        )
        return masked_mean(cross_entropy(logits, labels), mask)

      def loss_without(layer, channel):
        off = {
          name: array.at[..., channel].set(0)
          for name, array in teacher.params[body][layer].items()
        }
        layers = teacher.params[body] | {layer: off}
        return loss(teacher.params | {body: layers})

      attention = {}
      for name, layer in zip(
        before.features, teacher.params[body], strict=True
      ):
        channels = jnp.arange(before.features[name].shape[-1])
        losses = jax.vmap(loss_without, (None, 0))(layer, channels)
        attention[name] = finetuning.delta_channel_attention(
          losses - loss(teacher.params)
        )
      return attention
  return {}


def answer(
  forward: training.Forward, variables: training.Variables, images: Any
) -> Any:
  """A network's outputs, in evaluation."""
  return forward(variables, images, train=False, key=None)[0]


def accuracy_of(
  forward: training.Forward, variables: training.Variables, part: Any
) -> jax.Array:
  """The accuracy of a network's predictions, image by image."""
  logits = answer(forward, variables, part["image"]).logits
  return metrics.accuracy(logits, part["label"])
