"""Trains all weights and seeds of a method as one program, and scores them."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.adapt.data import Data, halves
from experiments.adapt.methods import change_of, make_learner
from experiments.frame import commands, jobs, networks, rounds
from experiments.frame import data as frame_data
from kdjax import adaptation, metrics, selection, training
from kdjax import methods as kmethods


class Trained(NamedTuple):
  """A method's students after training."""

  job: jobs.Job  # with the images as the method changes them
  state: training.TrainState  # `[seeds, weights]`, without the optimizer's
  answer: Callable[..., Any]  # `(state, images) -> outputs` of one student
  # Validation scores by name, `[rounds, seeds, weights]`.
  seen: dict[str, np.ndarray]


def network(config: Any, data: Data) -> training.Network:
  """The student's network, which takes images as they are."""
  images = data.train["source"]["image"]
  # A closed-form map returns rows, which are no images.
  name = config.network if images.shape[1] > 1 else "mlp"
  known = images, data.classes
  return networks.make_network(name, *known, hidden=config.hidden)


def start_job(config: Any, run: Any, console: Any, data: Any) -> jobs.Job:
  """The initial state of every method."""
  student = network(config, data)

  def plan_domain(key, size):
    return rounds.plan_steps(key, size, config.batch_size, config.steps)

  @jax.jit
  @jax.vmap
  def start(key):
    init_key, key, *plan_keys = jax.random.split(key, 4)
    plans = map(plan_domain, plan_keys, data.train_sizes)
    return (
      student.init(init_key),
      key,
      dict(zip(data.train, plans, strict=True)),
    )

  seeds = start(rounds.seed_keys(config))
  return jobs.Job(config, run, console, data, student.forward, *seeds)


def job_of(name: str, job: jobs.Job) -> jobs.Job:
  """The job of a method, with the images as it changes them."""
  change = change_of(name)
  if change is not None:
    job = start_job(*job[:3], change(job.data))
  train = hide_labels(name, job.data.train)
  return job._replace(data=job.data._replace(train=train))


def hide_labels(name: str, parts: dict[str, Any]) -> dict[str, Any]:
  """Both domains' images, without the target's labels for all but a bound."""
  if name == "target_only":
    return parts
  target = {k: v for k, v in parts["target"].items() if k != "label"}
  return parts | {"target": target}


def students(state: training.TrainState, predict: Any) -> training.TrainState:
  """The state for predictions: no optimizer; an objective if it predicts."""
  params, own = state.params, state.state
  # So the evaluation of most methods' students is compiled once.
  if predict is None:
    params, own = (x | {"objective": {}} for x in (params, own))
  return state._replace(params=params, state=own, optimizer_state=None)


@functools.cache
def make_answer(forward: training.Forward, predict: Any = None):
  """`(state, images) -> outputs` of a student, by its method's head if any."""

  def answer(state, images):
    outputs, _ = forward(state.student, images, train=False, key=None)
    if predict is not None:
      own = state.params["objective"], state.state["objective"]
      logits = predict(*own, {"student": outputs})
      outputs = outputs._replace(logits=logits)
    return outputs

  return answer


@functools.cache
def make_evaluation(answer: Callable[..., Any], size: int):
  """Scores of all students on validation images, `size` of the source."""

  def evaluate(state, validation):
    outputs = answer(state, validation["image"])
    hits = metrics.accuracy(outputs.logits, validation["label"])
    source_hits, target_hits = halves(hits, size)
    source, target = halves((outputs.embedding, outputs.logits), size)
    return {
      "source_accuracy": jnp.mean(source_hits),
      "information": selection.im_score(target[1]),
      "divergence": adaptation.h_divergence(source[0], target[0]).value,
      "target_accuracy": jnp.mean(target_hits),  # for the oracle alone
    }

  over_weights = jax.vmap(evaluate, (0, None))
  return jax.jit(jax.vmap(over_weights, (0, None)))


def train(name: str, job: jobs.Job, first: Trained | None = None) -> Trained:
  """Trains all weights and seeds of a method as one program."""
  config, row = job.config, kmethods.describe(name)
  targets = job.data.train_sizes[1]
  job = job_of(name, job)
  variables = job.variables
  if row.start == "source":
    assert first is not None
    variables = jax.tree.map(lambda x: x[:, 0], first.state.student)
  weights = config.weights if row.tuned else (1.0,)
  spec = {
    domain: frame_data.batch_spec(part, config.batch_size)
    for domain, part in job.data.train.items()
  }

  def learner_of(variables, weight=1.0):
    student = training.Model(job.forward, variables)
    return make_learner(name, config, student, targets, weight)

  @jax.jit
  @functools.partial(jax.vmap, in_axes=(0, 0, None))
  @functools.partial(jax.vmap, in_axes=(None, None, 0))
  def start(variables, key, weight):
    return learner_of(variables, weight).init(key, spec)

  learner = learner_of(variables)
  objective = learner.loss_fn.objective
  epoch = training.scan_epoch(learner.step)

  def run(state, frozen, data, plan, key):
    if objective.renew is not None:
      images = data["target"]["image"]
      outputs, _ = job.forward(state.student, images, train=False, key=None)
      own = objective.renew(state.state["objective"], {"target": outputs})
      state = state._replace(state=state.state | {"objective": own})
    return epoch(state, frozen, data, plan, key, axis_name=None)[0]

  # The weights of a seed share its batches, the seeds share the images.
  sweep = functools.partial(
    training.sweep, chunk_size=commands.students_at_a_time(config.network)
  )
  run = sweep(run, shared=("frozen", "data", "plan", "key"))
  run = jax.jit(sweep(run, shared=("data",)))

  answer = make_answer(job.forward, objective.predict)
  evaluate = make_evaluation(answer, job.data.validation_sizes[0])

  def advance(state, frozen, images, validation, plan, key):
    state = run(state, frozen, images, plan, key)
    return state, evaluate(students(state, objective.predict), validation)

  def describe(seen):
    means = {key: value.mean(0) for key, value in seen.items()}
    text = f"source accuracy {means['source_accuracy'].max():.1%}, "
    text += f"d_H {means['divergence'].min():.2f}"
    return {"weight": list(weights)} | means, text

  state = start(variables, job.key, jnp.array(weights))
  state, seen = rounds.train(
    job,
    name,
    advance,
    (learner.frozen, job.data.train, job.data.validation),
    (state, job.plan, job.key),
    describe,
  )
  return Trained(job, students(state, objective.predict), answer, seen)
