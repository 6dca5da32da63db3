"""Trains all weights and seeds of a method as one program, and scores them."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.console import Console

from experiments.adapt.data import Data
from experiments.adapt.data import halves
from experiments.adapt.methods import METHODS
from experiments.adapt.methods import VIEWS
from experiments.adapt.methods import Method
from experiments.adapt.objectives import Setting
from experiments.frame import commands
from experiments.frame import folders
from experiments.frame import networks
from experiments.frame import rounds
from kdjax import adaptation
from kdjax import data as kdata
from kdjax import metrics
from kdjax import selection
from kdjax import training
from kdjax.objectives import Objective

AVERAGE = 0.99  # of the mean teacher, over runs of some hundred steps


class Job(NamedTuple):
  """The inputs of every part of the run.

  What a seed decides is the same under every method: the initial variables
  `[seeds]`, a key for the rest `[seeds]`, and the order of the images, a plan
  `[seeds, steps, batch]` whose batches are half source and half target.
  """

  config: Any
  run: folders.RunFolder
  console: Console
  data: Data
  forward: training.Forward
  variables: training.Variables
  key: jax.Array
  plan: dict[str, jax.Array]


class Trained(NamedTuple):
  """A method's students after training.

  Attributes:
    job: what they were trained for, on the images as the method changes them.
    state: `[seeds, weights]`, without the optimizer's.
    answer: `(state, images) -> outputs` of one student.
    seen: validation scores by name, `[rounds, seeds, weights]`.
  """

  job: Job
  state: training.TrainState
  answer: Callable[..., Any]
  seen: dict[str, np.ndarray]


def network(config: Any, data: Data):
  """The student's forward, which takes images as they are, and its init."""
  images = np.asarray(data.train["image"][: data.train_sizes[0]])
  mean, std = kdata.channel_statistics(images)
  # What a closed-form map returns is no image.
  name = config.network if images.shape[1] > 1 else "mlp"
  options = {"hidden": config.hidden} if name == "mlp" else {}
  return networks.make_network(
    name,
    input_shape=images.shape[1:],
    classes=int(data.train["label"].max()) + 1,
    mean=mean,
    std=std,
    **options,
  )


def start_seeds(config: Any, data: Data, init: Callable[..., Any]):
  """Returns the initial variables, the keys and the plans of all seeds."""

  def plan_domain(key, size):
    return rounds.plan_steps(key, size, config.batch_size, config.steps)

  @jax.jit
  @jax.vmap
  def start(seed):
    key = jax.random.fold_in(jax.random.key(config.seed), seed)
    init_key, key, *plan_keys = jax.random.split(key, 4)
    source, target = map(plan_domain, plan_keys, data.train_sizes)
    target["index"] += data.train_sizes[0]
    plan = jax.tree.map(lambda *x: jnp.concatenate(x, -1), source, target)
    return init(init_key), key, plan

  return start(jnp.arange(config.seeds))


def start_job(config: Any, run: Any, console: Any, data: Any) -> Job:
  """The initial state of every method."""
  forward, init = network(config, data)
  variables, key, plan = start_seeds(config, data, init)
  return Job(config, run, console, data, forward, variables, key, plan)


def job_of(method: Method, job: Job) -> Job:
  """The job of a method: another one, if it changes the images."""
  if method.change is None:
    return job
  return start_job(job.config, job.run, job.console, method.change(job.data))


def origin(
  method: Method, job: Job, first: Trained | None
) -> training.Variables:
  """The initial variables `[seeds]`: new ones, or source-only's last ones."""
  if not method.pretrained:
    return job.variables
  assert first is not None
  return jax.tree.map(lambda x: x[:, 0], first.state.student)


def make_loss(
  method: Method,
  forward: training.Forward,
  objective: Objective,
  config: Any,
  offset: int,
):
  """The loss of a batch whose first half is source, whose second is target.

  Args:
    method: of adaptation.
    forward: the student's.
    objective: what the method minimises.
    config: the flags.
    offset: where the target's images begin.

  Returns:
    `loss_fn(params, state, frozen, batch, key) -> loss, (state, metrics)`.
  """
  if method.domain == "both":
    # With BatchNorm, a joint forward pass means joint statistics.
    both = training.adaptation_loss(
      forward,
      objective,
      forward if method.teacher else None,
      joint_forward=config.joint_forward,
      views={name: VIEWS[name] for name in method.views},
    )
  else:
    one = training.distillation_loss(forward, objective)

    def both(params, state, frozen, batch, key):
      # The other domain is not seen at all: not even its statistics leak.
      return one(params, state, frozen, batch[method.domain], key)

  def loss_fn(params, state, frozen, batch, key):
    source, target = halves(batch, config.batch_size)
    target = target | {"index": target["index"] - offset}
    if method.kind != "bounds":
      del target["label"]  # so that no method can see it
    batch = {"source": source, "target": target}
    if method.remake is not None:
      variables = training.Variables(params["student"], state["student"])
      remake_key = jax.random.fold_in(key, 1)
      batch = method.remake(forward, variables, batch, remake_key)
    return both(params, state, frozen, batch, key)

  return loss_fn


def students(state: training.TrainState, predict: Any) -> training.TrainState:
  """The state for predictions: no optimizer; an objective if it predicts.

  So most methods' students have one structure, and their evaluation is
  compiled once.
  """
  if predict is None:
    state = state._replace(
      params=state.params | {"objective": {}},
      state=state.state | {"objective": {}},
    )
  return state._replace(optimizer_state=None)


@functools.cache
def make_answer(forward: training.Forward, predict: Any = None):
  """The prediction of one student, by its own head or by its method's.

  Args:
    forward: the student's.
    predict: of the objective, if it has one.

  Returns:
    `(state, images) -> outputs`.
  """

  def answer(state, images):
    outputs, _ = forward(state.student, images, train=False, key=None)
    if predict is not None:
      own = state.params["objective"], state.state["objective"]
      outputs = outputs._replace(logits=predict(*own, outputs, None))
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


def train(name: str, job: Job, first: Trained | None = None) -> Trained:
  """Trains all weights and seeds of a method as one program.

  Args:
    name: of the method.
    job: of all methods.
    first: the students of source-only, for methods that start there.

  Returns:
    Its students and what was seen of them.
  """
  config, method = job.config, METHODS[name]
  job = job_of(method, job)
  variables = origin(method, job, first)
  weights = config.weights if method.weighted else (1.0,)
  optimizer = optax.adam(
    optax.cosine_decay_schedule(config.learning_rate, config.steps),
    b1=0.5,  # adversaries need a short memory
  )
  if method.teacher == "mean":
    optimizer = optax.chain(optimizer, training.parameter_ema(AVERAGE))
  offset, targets = job.data.train_sizes

  def objective_of(weight):
    hidden = (config.discriminator,)
    return method.objective(Setting(weight, config.steps, hidden, targets))

  def init_student(variables, key, weight):
    return training.init_train_state(
      key,
      training.Model(job.forward, variables),
      objective_of(weight),
      optimizer,
      job.data.train["image"][:1],
    )

  start = jax.vmap(init_student, (None, None, 0))
  start = jax.jit(jax.vmap(start, (0, 0, None)))
  objective = objective_of(1.0)
  loss_fn = make_loss(method, job.forward, objective, config, offset)
  step = training.make_train_step(loss_fn, optimizer)
  if method.teacher == "mean":
    step = training.with_mean_teacher(step)
  epoch = training.scan_epoch(step)

  def run(state, frozen, data, plan, key):
    if method.renew is not None:
      images = data["image"][offset:]
      state = method.renew(job.forward, state, images)
    return epoch(state, frozen, data, plan, key)[0]

  # The weights of a seed share its batches, the seeds share the images.
  sweep = functools.partial(
    training.sweep, chunk_size=commands.students_at_a_time(config.network)
  )
  run = sweep(run, shared=("frozen", "data", "plan", "key"))
  run = jax.jit(sweep(run, shared=("data",)))

  answer = make_answer(job.forward, objective.predict)
  evaluate = make_evaluation(answer, job.data.validation_sizes[0])

  def advance(state, frozen, data, plan, key, validation_plan):
    del validation_plan  # d_H is of all validation images together
    images, validation = data
    state = run(state, frozen, images, plan, key)
    return state, evaluate(students(state, objective.predict), validation)

  def describe(seen):
    row = {key: value.mean(0) for key, value in seen.items()}
    text = (
      f"source accuracy {row['source_accuracy'].max():.1%}, "
      f"d_H {row['divergence'].min():.2f}"
    )
    return {"weight": list(weights)} | row, text

  frozen = {}
  if method.teacher == "source":
    frozen["teacher"] = variables
  begin = start(variables, job.key, jnp.array(weights)), job.key, job.plan
  state, seen = rounds.train(name, job, advance, frozen, begin, describe)
  return Trained(job, students(state, objective.predict), answer, seen)
