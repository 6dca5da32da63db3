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
from kdjax.methods._objective import Metrics, Objective, loss_metric, widen


def mixmatch(steps: ArrayLike, *, weight: ArrayLike = 75.0) -> Objective:
  r"""MixMatch's two losses of the mixtures of `mixmatch_batch`.

  .. math::
    \ell = H(y, p) + w \min(t / N, 1)\, \lVert q - p \rVert^2 / C

  with soft labels y of the source's part and q of the target's.

  Args:
    steps: N, over which the weight of the guessed labels rises.
    weight: w, kept in the state.

  Returns:
    An objective which includes the task; w is 75 in the authors' script for
    CIFAR-10.

  Raises:
    ValueError: from `apply`, if the batch has no soft labels.

  References:
    Berthelot et al., `MixMatch: a holistic approach to semi-supervised
    learning <https://arxiv.org/abs/1905.02249>`_, 2019.
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
    guessed = adaptation.mixmatch_loss(
      read("target_logits"), read("target_soft")
    )
    ramp = adaptation.linear_ramp_up(state["step"], length=steps)
    mask = read("where_source")
    loss = ops.masked_mean(known, mask, axis_name=axis_name) + (
      state["weight"] * ramp
    ) * ops.masked_mean(guessed, read("where_target"), axis_name=axis_name)
    state = state | {"step": state["step"] + 1}
    return loss, state, loss_metric(loss, {"mask": mask})

  return Objective(init, apply)


def mixmatch_batch(
  augment: Callable[[Array, Any], Any],
  *,
  alpha: ArrayLike = 0.75,
  temperature: ArrayLike = 0.5,
  on: str = "image",
) -> Callable[..., Any]:
  """MixMatch's batch: mixtures of labeled and unlabeled images.

  The labels of the target are guessed from two views of each image, by the
  student in evaluation mode. Then all images, and their labels, are mixed with
  those of others in a random order.

  Args:
    augment: `(key, images) -> images`, makes the views.
    alpha: of the Beta distribution of the mixtures.
    temperature: of the sharpening of the guessed labels.
    on: the entry that holds the images.

  Returns:
    `prepare` for `kdjax.training.adapt`. It adds `"soft"` to both parts
    of the batch. On several devices images are mixed with those of the same
    device.

  References:
    Berthelot et al., `MixMatch: a holistic approach to semi-supervised
    learning <https://arxiv.org/abs/1905.02249>`_, 2019, algorithm 1.
  """

  def prepare(key: Array, batch: Any, run: Callable[..., Any]) -> Any:
    first, second, order_key, ratio_key = jax.random.split(key, 4)
    source, target = batch["source"], batch["target"]
    views = [augment(k, target[on]) for k in (first, second)]
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
    own = slice(len(known)), slice(len(known), len(known) + len(guess))
    mixed = [{on: images[rows], "soft": labels[rows]} for rows in own]
    parts = {"source": {**source, **mixed[0]}, "target": {**target, **mixed[1]}}
    return {**batch, **parts}

  return prepare
