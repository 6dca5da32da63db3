"""MixMatch: guessed labels, and mixtures of all images."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import adaptation, ops
from kdjax.methods._binding import resolve
from kdjax.methods._method import Method
from kdjax.methods._objective import Metrics, Objective, loss_metric, widen
from kdjax.methods.adaptation._row_kinds import row


def _mixmatch(
  steps: ArrayLike,
  *,
  weight: ArrayLike = 75.0,
  alpha: ArrayLike = 0.75,
  temperature: ArrayLike = 0.5,
) -> Method:
  """Cross-entropy with mixed labels, and squared errors of guessed ones.

  The labels of the target are guessed from two views of each image: the batch's
  own and `"weak"`. The student trains on mixtures of both and of the source.
  `weight` rises over `steps`; it is 75 in the authors' script for CIFAR-10.
  """

  def init(key: Array, specs: Any) -> tuple[Any, Any]:
    del key, specs
    step = jnp.zeros((), jnp.int32)
    return {}, {"step": step, "weight": jnp.asarray(weight, float)}

  def apply(
    params: Any,
    state: Any,
    outputs: Any,
    batch: Any,
    key: Array,
    *,
    axis_name: str | None = None,
  ) -> tuple[Array, Any, Metrics]:
    del params, key

    def read(name: str) -> Any:
      return widen(resolve("mixmatch", name, outputs, batch))

    known = optax.softmax_cross_entropy(
      read("source_logits"), read("source_soft")
    )
    views = ("target", "soft"), ("target_weak", "soft_weak")
    guessed: Any = sum(
      adaptation.mixmatch_loss(read(f"{role}_logits"), read(f"target_{name}"))
      for role, name in views
    )
    guessed = guessed / len(views)
    ramp = adaptation.linear_ramp_up(state["step"], length=steps)
    mask = read("where_source")
    loss = ops.masked_mean(known, mask, axis_name=axis_name) + (
      state["weight"] * ramp
    ) * ops.masked_mean(guessed, read("where_target"), axis_name=axis_name)
    state = state | {"step": state["step"] + 1}
    return loss, state, loss_metric(loss, {"mask": mask})

  prepare = _mixtures(alpha, temperature)
  return Method(Objective(init, apply), prepare=prepare)


def _mixtures(alpha: ArrayLike, temperature: ArrayLike) -> Callable[..., Any]:
  """Mixes all images and labels; the target's are guessed from two views.

  On several devices images are mixed with those of the same device.
  """

  def prepare(
    key: Array, batch: Any, run: Callable[..., Any], *, on: str = "image"
  ) -> Any:
    order_key, ratio_key = jax.random.split(key)
    source, target = batch["source"], batch["target"]
    views = [target[on], target["weak"]]
    logits = jnp.stack([run("student", x).logits for x in views])
    guess = adaptation.guess_labels(
      jax.lax.stop_gradient(logits), temperature=temperature
    )
    known = jax.nn.one_hot(source["label"], guess.shape[-1])
    images = jnp.concatenate([source[on], *views]).astype(jnp.float32)
    labels = jnp.concatenate([known, guess, guess])
    order = jax.random.permutation(order_key, len(images))
    ratio = jax.random.beta(ratio_key, alpha, alpha, (len(images),))
    ratio = jnp.maximum(ratio, 1 - ratio)

    def blend(x: Array) -> Array:
      share = ratio.reshape(-1, *[1] * (x.ndim - 1))
      return share * x + (1 - share) * x[order]

    images, labels = blend(images), blend(labels)
    size, more = len(known), len(guess)
    first, second = slice(size, size + more), slice(size + more, None)
    mixed = {on: images[:size], "soft": labels[:size]}
    guessed = {
      on: images[first],
      "soft": labels[first],
      "weak": images[second],
      "soft_weak": labels[second],
    }
    parts = {"source": {**source, **mixed}, "target": {**target, **guessed}}
    return {**batch, **parts}

  return prepare


ROWS = {
  "mixmatch": row(
    "MixMatch",
    "guessed labels, and mixtures of all images",
    _mixmatch,
    weight=75.0,
    cross_entropy=0.0,
    views=("weak",),
    source="authors",
  ),
}
