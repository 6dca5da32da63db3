"""Objectives of adaptation that take more than one loss, and their batches."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from kdjax import adaptation
from kdjax import data as kdata
from kdjax import objectives
from kdjax import training
from kdjax import transforms
from kdjax.objectives import Objective
from kdjax.objectives import combine
from kdjax.objectives import select_supervised
from kdjax.objectives import stateless
from kdjax.ops import masked_mean

cross_entropy = optax.softmax_cross_entropy_with_integer_labels


class Setting(NamedTuple):
  """The numbers that an objective may depend on.

  Attributes:
    weight: a factor of the published weight; it ends up in the state, so one
      program trains all weights.
    steps: of the whole training.
    hidden: units of the hidden layers of discriminators and added heads.
    targets: how many unlabelled images there are.
  """

  weight: Any
  steps: int
  hidden: tuple[int, ...]
  targets: int


def task(setting: Setting) -> Objective:
  """The cross-entropy of labelled images."""
  del setting
  return stateless(cross_entropy, select_supervised)


def beside_task(
  *parts: tuple[float, Callable[[Setting], Objective]], fixed: int = 0
) -> Callable[[Setting], Objective]:
  """The cross-entropy of the source, and parts with their published weights.

  Args:
    *parts: (published weight, objective of a setting).
    fixed: how many of the first parts keep their published weight.

  Returns:
    The objective of a setting.
  """

  def build(setting: Setting) -> Objective:
    weighted = {
      f"transfer_{i}": (
        weight * (1.0 if i < fixed else setting.weight),
        objective(setting),
      )
      for i, (weight, objective) in enumerate(parts)
    }
    return combine({"task": (1.0, task(setting))} | weighted)

  return build


def dann(setting: Setting) -> Objective:
  """DANN with its published weight."""
  return objectives.dann(
    hidden=setting.hidden,
    schedule=training.reversal_schedule(setting.steps),
  )


def joint_adaptation(setting: Setting) -> Objective:
  """The formula L_JDA, with a ramp of its weight."""
  return objectives.jda(
    hidden=setting.hidden,
    weight=setting.weight,
    schedule=training.reversal_schedule(setting.steps),
  )


def layers(source: Any, target: Any, batch: Any) -> Any:
  """The embeddings and the predicted classes of both domains."""
  del batch
  return tuple(
    [x.embedding, jax.nn.softmax(x.logits)] for x in (source, target)
  )


joint_mmd = functools.partial(
  adaptation.jmmd,
  bandwidth_factors=[(0.125, 0.25, 0.5, 1.0, 2.0), None],
  bandwidths=[None, (0.92,)],
)


def m3sda(source, target, *, where_source, where_target, axis_name):
  """M3SDA's moments, of one source."""
  return adaptation.m3sda_loss(
    [source],
    target,
    where_sources=[where_source],
    where_target=where_target,
    axis_name=axis_name,
  )


def feature_norms(norms: Callable[..., Any]) -> Callable[..., Any]:
  """The sum over both domains of a loss of feature norms."""

  def loss(source, target, *, where_source, where_target, axis_name):
    del axis_name
    return norms(source, where_source) + norms(target, where_target)

  return loss


def sliced(setting: Setting) -> Objective:
  """Sliced Wasserstein along directions drawn anew at every step."""
  del setting

  def apply(params, state, source, target, batch, key):
    del params
    value = adaptation.sliced_wasserstein(
      key,
      source.embedding,
      target.embedding,
      where_source=batch["mask"],
      where_target=batch["target"]["mask"],
    )
    return value, state, {}

  return Objective(lambda *_: ({}, {}), apply)


def shot(setting: Setting) -> Objective:
  """SHOT: no source, the classifier stays, labels by centroids of all."""

  def init(key, source, target):
    del key, source, target
    labels = jnp.zeros(setting.targets, jnp.int32)
    return {}, {"labels": labels, "weight": jnp.asarray(setting.weight, float)}

  def apply(params, state, outputs, teacher, batch, key):
    del params, teacher, key
    kernel, bias = jax.lax.stop_gradient(outputs.classifier)
    logits = outputs.embedding @ kernel + bias[None]
    known = adaptation.information_maximization_loss(
      logits, where=batch["mask"]
    )
    pseudo = cross_entropy(logits, state["labels"][batch["index"]])
    pseudo = masked_mean(pseudo, batch["mask"])
    return known + 0.3 * state["weight"] * pseudo, state, {}

  return Objective(init, apply)


def renew_labels(forward, state, images):
  """Labels every target image by its nearest centroid."""
  outputs, _ = forward(state.student, images, train=False, key=None)
  labels = adaptation.centroid_pseudo_labels(outputs.embedding, outputs.logits)
  own = state.state["objective"] | {"labels": labels}
  return state._replace(state=state.state | {"objective": own})


def nothing(setting: Setting) -> Objective:
  """No loss at all: only batch statistics move."""
  del setting
  return stateless(lambda logits: 0 * logits[:, 0], lambda s, t, b: (s.logits,))


def fourier(forward, variables, batch, key):
  """FDA: source images with the target's amplitudes of low frequencies."""
  del forward, variables, key
  source, target = (batch[k]["image"] for k in ("source", "target"))
  images = transforms.fourier_domain_adaptation(
    source.astype(jnp.float32), target.astype(jnp.float32), half_width=1
  )
  return batch | {"source": batch["source"] | {"image": images}}


def mix(forward, variables, batch, key):
  """MixMatch: guessed labels, then mixtures with images of either domain."""
  first, second, order_key, ratio_key = jax.random.split(key, 4)
  source, target = batch["source"], batch["target"]
  views = [
    kdata.random_crop(k, target["image"], padding=1) for k in (first, second)
  ]
  logits = jnp.stack(
    [forward(variables, x, train=False, key=None)[0].logits for x in views]
  )
  guess = adaptation.guess_labels(jax.lax.stop_gradient(logits))
  known = jax.nn.one_hot(source["label"], guess.shape[-1])
  images = jnp.concatenate([source["image"], *views]).astype(jnp.float32)
  targets = jnp.concatenate([known, guess, guess])
  order = jax.random.permutation(order_key, len(images))
  ratio = jax.random.beta(ratio_key, 0.75, 0.75, (len(images),))
  ratio = jnp.maximum(ratio, 1 - ratio)

  def blend(x):
    share = ratio.reshape(-1, *[1] * (x.ndim - 1))
    return share * x + (1 - share) * x[order]

  images, targets = blend(images), blend(targets)
  own = slice(len(known)), slice(len(known), len(known) + len(guess))
  mixed = [{"image": images[rows], "soft": targets[rows]} for rows in own]
  return {"source": source | mixed[0], "target": target | mixed[1]}


def mixmatch(setting: Setting) -> Objective:
  """MixMatch's two losses of mixed images."""
  ramp = setting.steps

  def apply(params, state, source, target, batch, key):
    del params, key
    known = optax.softmax_cross_entropy(source.logits, batch["soft"])
    guessed = adaptation.mixmatch_loss(target.logits, batch["target"]["soft"])
    weight = state["weight"] * adaptation.linear_ramp_up(
      state["step"], length=ramp
    )
    loss = masked_mean(known, batch["mask"]) + weight * masked_mean(
      guessed, batch["target"]["mask"]
    )
    return loss, state | {"step": state["step"] + 1}, {}

  weight = 75.0 * jnp.asarray(setting.weight, float)
  step = jnp.zeros((), jnp.int32)
  return Objective(lambda *_: ({}, {"step": step, "weight": weight}), apply)


def flexmatch(setting: Setting) -> Objective:
  """FlexMatch, which remembers every target image."""
  return objectives.flexmatch(setting.targets)


def weighted_task(setting: Setting) -> Objective:
  """The cross-entropy of the source, image by image weighted."""
  del setting

  def loss(logits, labels, weights):
    return weights * cross_entropy(logits, labels)

  return stateless(
    loss, lambda s, t, batch: (s.logits, batch["label"], batch["weight"])
  )
