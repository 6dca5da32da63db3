"""Trains the peers of all seeds of a method as one program."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.collaborate import methods
from experiments.frame import commands, rounds
from kdjax import training

CHUNK = 500  # images that are evaluated at once


def train(job: Any) -> dict[str, dict[str, np.ndarray]]:
  """Trains all methods; returns scores on test images `[rounds, seeds]`."""
  names = (methods.INDEPENDENT, *job.config.methods, methods.ALL_LABELS)
  return {name: train_method(name, job) for name in names}


def train_method(name: str, job: Any) -> dict[str, np.ndarray]:
  """Trains the peers of a method, all seeds at once."""
  config, data = job.config, job.data
  places = jnp.asarray(data.few)
  if name == methods.ALL_LABELS:
    every = jnp.arange(len(data.train["label"]))
    places = jnp.broadcast_to(every, (config.seeds, len(every)))
  learner = methods.make_learner(name, config, job.peers, places.shape[1])
  epoch = training.scan_epoch(learner.step)
  evaluate = training.scan_evaluation(learner.evaluate)
  count = len(data.test["label"])
  look = training.epoch_plan(count, min(CHUNK, count))
  chunks = config.evaluate_every // config.stale_steps

  def of_seed(state, images, test, plan, key):
    def some_steps(state, plan):
      frozen = learner.frozen
      if methods.is_stale(name):
        frozen = training.stale_peers(state)
      return epoch(state, frozen, images, plan, key)[0], None

    parts = jax.tree.map(lambda x: x.reshape(chunks, -1, x.shape[-1]), plan)
    state, _ = jax.lax.scan(some_steps, state, parts)
    return state, training.mean_metrics(evaluate(state, {}, test, look))

  alone = [commands.students_at_a_time(x) for x in config.networks]
  advance = training.sweep(
    of_seed, shared=("images", "test"), chunk_size=1 if any(alone) else None
  )

  @jax.jit
  def start(keys, places):
    def one(key, places):
      init_key, plan_key, key = jax.random.split(key, 3)
      plan = rounds.plan_steps(
        plan_key, places.shape[0], config.batch_size, config.steps
      )
      plan["index"] = places[plan["index"]]
      return learner.init(init_key, data.spec()), plan, key

    return jax.vmap(one)(keys, places)

  def describe(seen):
    row = {k: float(np.mean(x)) for k, x in seen.items()}
    text = (
      f"ensemble {row['ensemble/accuracy']:.1%}, disagreement "
      f"{row['disagreement']:.1%}"
    )
    return row, text

  _, seen = rounds.train(
    job,
    name,
    jax.jit(advance),
    (data.train, data.test),
    start(rounds.seed_keys(config), places),
    describe,
  )
  return seen
