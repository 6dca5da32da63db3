"""Pretraining and meta-learning on the source, all seeds as one program."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.finetune.data import source_of
from experiments.finetune.meta import make_loss
from experiments.finetune.meta import make_optimizer
from experiments.finetune.meta import plan_episodes
from experiments.finetune.methods import accuracy_of
from experiments.frame import rounds
from kdjax import objectives
from kdjax import training


class Images(NamedTuple):
  """The training and the validation images of a stage."""

  train: dict[str, Any]
  validation: dict[str, Any]


def pretrain(
  stage: str, job: Any, others: tuple[str, ...]
) -> training.Variables:
  """Pretrains teachers, `[seeds, teachers]`, that of the source first."""
  config, data = job.config, job.data
  trained = [name for name in ("source", *others) if name != "untrained"]

  def sources(part):
    keys = jax.random.split(jax.random.key(config.seed), len(trained))
    parts = [
      source_of(name, key, part)
      for name, key in zip(trained, keys, strict=True)
    ]
    return jax.tree.map(lambda *x: jnp.stack(x), *parts)

  images = Images(sources(data.source), sources(data.source_validation))
  counted = [np.flatnonzero(x) for x in np.asarray(images.train["counts"])]
  optimizer = optax.adam(
    optax.cosine_decay_schedule(config.learning_rate, config.pretrain_steps)
  )

  def learner_of(variables: Any = None):
    model = training.Model(job.forward, variables)
    objective = objectives.preset("from_scratch")
    return training.finetune(model, None, objective, optimizer)

  def plan_all(key, counted):
    plans = []
    for i, places in enumerate(counted):
      plan = rounds.plan_steps(
        jax.random.fold_in(key, i),
        len(places),
        config.batch_size,
        config.pretrain_steps,
      )
      plans.append(plan | {"index": places[plan["index"]]})
    return jax.tree.map(lambda *x: jnp.stack(x), *plans)

  @jax.jit
  def start(fresh, keys, counted):
    batch = jax.tree.map(lambda x: x[:1], data.source)
    batch |= {"mask": jnp.ones(1, bool)}

    def start_teacher(variables, key):
      return learner_of(variables).init(key, batch)

    state = jax.tree.map(
      lambda x: jnp.repeat(x[:, None], len(trained), 1),
      jax.vmap(start_teacher)(fresh, keys),
    )
    return state, jax.vmap(plan_all, (0, None))(keys, counted)

  epoch = training.scan_epoch(learner_of().step)

  def advance(state, frozen, data, plan, key, validation_plan):
    del validation_plan
    train, validation = data
    state, _ = epoch(state, frozen, train, plan, key)
    hits = accuracy_of(job.forward, state.student, validation)
    weights = validation["counts"].astype(hits.dtype)
    return state, {"accuracy": jnp.average(hits, weights=weights)}

  advance = jax.vmap(advance, (0, None, 0, 0, None, None))
  advance = jax.jit(jax.vmap(advance, (0, None, None, 0, 0, None)))

  def describe(seen):
    mean = seen["accuracy"].mean(0)
    row = dict(zip(trained, mean.tolist(), strict=True))
    return row, f"validation accuracy {mean[0]:.1%}"

  state, plan = start(job.fresh, job.key, [jnp.asarray(x) for x in counted])
  state, _ = rounds.train(
    stage,
    job._replace(data=images),
    advance,
    {},
    (state, job.key, plan),
    describe,
  )
  if "untrained" not in others:
    return state.student
  place = 1 + others.index("untrained")
  return jax.tree.map(
    lambda x, y: jnp.concatenate([x[:, :place], y[:, None], x[:, place:]], 1),
    state.student,
    job.fresh,
  )


def meta_learn(way: str, job: Any) -> training.Variables:
  """Meta-learns on the source classes, `[seeds]`."""
  config, data = job.config, job.data
  steps = config.pretrain_steps
  optimizer = make_optimizer(way, config.learning_rate, steps)
  loss_fn = make_loss(way, job.forward, config, data.classes)
  epoch = training.scan_epoch(training.make_train_step(loss_fn, optimizer))
  labels = np.asarray(data.source["label"])

  @jax.jit
  @jax.vmap
  def start(variables, key):
    params = {"student": variables.params, "objective": {}}
    state = {"student": variables.state, "objective": {}}
    plan = plan_episodes(
      key, labels, steps=steps, tasks=config.tasks, images=2 * config.shots
    )
    step = jnp.zeros((), jnp.int32)
    optimizer_state = optimizer.init(params)
    return training.TrainState(step, params, state, optimizer_state), plan

  def advance(state, frozen, data, plan, key, validation_plan):
    del validation_plan
    state, seen = epoch(state, frozen, data[0], plan, key)
    return state, training.mean_metrics(seen, axis=0)

  advance = jax.jit(jax.vmap(advance, (0, None, None, 0, 0, None)))

  def describe(seen):
    loss = float(seen["loss"].mean())
    return {"loss": loss}, f"loss {loss:.3f}"

  state, plan = start(job.fresh, job.key)
  state, _ = rounds.train(
    f"pretrain_{way}",
    job._replace(data=Images(data.source, data.source_validation)),
    advance,
    {},
    (state, job.key, plan),
    describe,
  )
  return state.student
