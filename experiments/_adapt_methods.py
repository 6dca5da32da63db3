"""What each method of adaptation minimises."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from kdjax import adaptation
from kdjax.objectives import Objective
from kdjax.ops import masked_mean
from kdjax.ops import reverse_gradient


def init_discriminator(key: jax.Array, width: int, hidden: int):
  """The parameters of a discriminator with one hidden layer."""
  keys = jax.random.split(key)
  init = jax.nn.initializers.he_normal()
  return {
    "hidden": (init(keys[0], (width, hidden)), jnp.zeros(hidden)),
    "logit": (init(keys[1], (hidden, 1)), jnp.zeros(1)),
  }


def discriminate(params, embeddings):
  """One logit an example; positive ones say source."""
  (a, b), (c, d) = params["hidden"], params["logit"]
  return jax.nn.relu(embeddings @ a + b[None]) @ c + d[None]


def transfer_objective(method: str, config: Any, weight=1.0) -> Objective:
  """The task's loss on the source plus what draws the domains together.

  The discriminator is a parameter of the objective, the weight is in its
  state: one program trains all weights.
  """

  def init(key, source, target):
    del target
    params = {}
    if method in ("dann", "jda"):
      width = source.embedding.shape[-1]
      params = init_discriminator(key, width, config.discriminator)
    step = jnp.zeros((), jnp.int32)
    return params, {"step": step, "weight": jnp.asarray(weight, jnp.float32)}

  def apply(discriminator, state, source, target, batch, key):
    del key
    mask, target_mask = batch["mask"], batch["target"]["mask"]
    masks = {"where_source": mask, "where_target": target_mask}
    embeddings = source.embedding, target.embedding
    tasks = optax.softmax_cross_entropy_with_integer_labels(
      source.logits, batch["label"]
    )
    weight = state["weight"]
    # Adversaries get their say by and by, as in the DANN paper.
    ramp = 2 / (1 + jnp.exp(-10 * state["step"] / config.steps)) - 1
    match method:
      case "dann":
        # The weight is on the reversed gradient: the discriminator itself
        # learns at full speed.
        reversed_ = reverse_gradient(embeddings, weight * ramp)
        logits = [discriminate(discriminator, x) for x in reversed_]
        transfer = adaptation.dann_loss(*logits, **masks)
        loss = masked_mean(tasks, mask) + transfer
      case "jda":
        # The same logits for both players; the discriminator's gradient is
        # reversed, so that it raises the divergence that the student lowers.
        adversary = reverse_gradient(discriminator)
        logits = [discriminate(adversary, x) for x in embeddings]
        transfer = adaptation.soft_h_divergence(*logits, **masks)
        loss = adaptation.jda_loss(
          tasks,
          transfer,
          num_target=jnp.sum(target_mask),
          weight=weight * ramp,
          where=mask,
        )
      case _:
        distance = {"mmd": adaptation.mmd, "coral": adaptation.coral_loss}
        transfer = distance[method](*embeddings, **masks)
        loss = masked_mean(tasks, mask) + weight * transfer
    return loss, state | {"step": state["step"] + 1}, {}

  return Objective(init, apply)
