"""Fine-tuning on images: the layers of a network and the past's knowledge."""

from typing import Any

import jax
import jax.numpy as jnp

from experiments.frame.finetuning import answer
from kdjax import finetuning, metrics, training
from kdjax.ops import cross_entropy, masked_mean


def layer_groups(body: str, params: Any) -> list[str]:
  """Expressions for the layers of a network, from its input to its head."""
  others = sorted(params.keys() - {body, "head"})
  layers = [f"{body}/{i}" for i in params[body]]
  return [f"^student/{name}/" for name in (*layers, *others, "head")]


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
    return answer(forward, teacher._replace(params=params), batch["image"])

  before = look(teacher.params)
  if method == "co_tuning":
    answers = jax.nn.softmax(before.logits)
    return finetuning.co_tuning_targets(answers, labels, **options)
  if method != "delta_attention":
    return {}
  prototypes = finetuning.class_prototypes(before.embedding, labels, **options)

  def loss(params):
    embedding = look(params).embedding
    logits = finetuning.prototypical_logits(embedding, prototypes)
    return masked_mean(cross_entropy(logits, labels), mask)

  def loss_without(layer, channel):
    arrays = teacher.params[body][layer]
    off = {name: x.at[..., channel].set(0) for name, x in arrays.items()}
    layers = teacher.params[body] | {layer: off}
    return loss(teacher.params | {body: layers})

  attention = {}
  for name, layer in zip(before.features, teacher.params[body], strict=True):
    channels = jnp.arange(before.features[name].shape[-1])
    losses = jax.vmap(loss_without, (None, 0))(layer, channels)
    gaps = losses - loss(teacher.params)
    attention[name] = finetuning.delta_channel_attention(gaps)
  return attention


def accuracy_of(forward: Any, variables: Any, part: Any) -> jax.Array:
  """The accuracy of a network's predictions, image by image."""
  logits = answer(forward, variables, part["image"]).logits
  return metrics.accuracy(logits, part["label"])
