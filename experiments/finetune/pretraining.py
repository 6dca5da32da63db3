"""Pretraining and meta-learning on the source, all seeds as one program."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.finetune.data import source_of
from experiments.finetune.methods import accuracy_of
from experiments.frame import data as frame_data
from experiments.frame import episodes, rounds
from kdjax import methods as kmethods
from kdjax import training


def pretrain(
  stage: str, job: Any, others: tuple[str, ...]
) -> training.Variables:
  """Pretrains teachers, `[seeds, teachers]`, that of the source first."""
  config, data, steps = job.config, job.data, job.config.pretrain_steps
  trained = [name for name in ("source", *others) if name != "untrained"]

  def stack(trees):
    return jax.tree.map(lambda *x: jnp.stack(x), *trees)

  def sources(part):
    keys = jax.random.split(jax.random.key(config.seed), len(trained))
    return stack(map(source_of, trained, keys, [part] * len(trained)))

  images, validation = sources(data.source), sources(data.source_validation)
  counted = [np.flatnonzero(x) for x in np.asarray(images["counts"])]
  rate = optax.cosine_decay_schedule(config.learning_rate, steps)
  optimizer = optax.adam(rate)

  def learner_of(variables: Any = None):
    model = training.Model(job.forward, variables)
    method = kmethods.create("from_scratch")
    return training.finetune(model, None, method, optimizer)

  def plan_one(key, places):
    size = config.batch_size
    plan = rounds.plan_steps(key, len(places), size, steps)
    return plan | {"index": places[plan["index"]]}

  @jax.jit
  @jax.vmap
  def start(fresh, key):
    spec = frame_data.batch_spec(data.source)
    state = learner_of(fresh).init(key, spec)
    keys = [jax.random.fold_in(key, i) for i in range(len(trained))]
    plan = stack(map(plan_one, keys, map(jnp.asarray, counted)))
    return stack([state] * len(trained)), plan

  epoch = training.scan_epoch(learner_of().step)

  def advance(state, images, validation, plan, key):
    state, _ = epoch(state, {}, images, plan, key)
    hits = accuracy_of(job.forward, state.student, validation)
    weights = validation["counts"].astype(hits.dtype)
    return state, {"accuracy": jnp.average(hits, weights=weights)}

  advance = jax.vmap(advance, (0, 0, 0, 0, None))
  advance = jax.jit(jax.vmap(advance, (0, None, None, 0, 0)))

  def describe(seen):
    mean = seen["accuracy"].mean(0)
    row = dict(zip(trained, mean.tolist(), strict=True))
    return row, f"validation accuracy {mean[0]:.1%}"

  begin = *start(job.variables, job.key), job.key
  state, _ = rounds.train(
    job, stage, advance, (images, validation), begin, describe
  )
  if "untrained" not in others:
    return state.student
  place = 1 + others.index("untrained")
  return jax.tree.map(
    lambda x, y: jnp.concatenate([x[:, :place], y[:, None], x[:, place:]], 1),
    state.student,
    job.variables,
  )


def meta_learn(way: str, job: Any) -> training.Variables:
  """Meta-learns on the source classes, `[seeds]`."""
  config, data = job.config, job.data
  steps = config.pretrain_steps
  optimizer = episodes.outer_optimizer(way, config.learning_rate, steps)
  loss_fn = episodes.make_loss(way, job.forward, config, data.classes)
  epoch = training.scan_epoch(training.make_train_step(loss_fn, optimizer))
  labels = np.asarray(data.source["label"])

  @jax.jit
  @jax.vmap
  def start(variables, key):
    params, state = ({"student": x, "objective": {}} for x in variables)
    sizes = {"tasks": config.tasks, "examples": 2 * config.shots}
    plan = episodes.plan_episodes(key, labels, steps=steps, **sizes)
    step = jnp.zeros((), jnp.int32)
    moments = optimizer.init(params)
    return training.TrainState(step, params, state, moments), plan

  def advance(state, images, plan, key):
    state, seen = epoch(state, {}, images, plan, key)
    return state, training.mean_metrics(seen, axis=0)

  def describe(seen):
    loss = float(seen["loss"].mean())
    return {"loss": loss}, f"loss {loss:.3f}"

  begin = *start(job.variables, job.key), job.key
  advance = jax.jit(jax.vmap(advance, (0, None, 0, 0)))
  stage = f"pretrain_{way}"
  state, _ = rounds.train(job, stage, advance, (data.source,), begin, describe)
  return state.student
