"""Adapts a student from labelled source images to unlabelled target images.

For each method all weights and seeds are trained in one vmapped program. Seed
i has the same initial weights and the same batches under every method, so that
a gain over source-only is a paired difference. The weight of a method is
chosen by a rule that sees no target label, and by the last step, not the best;
what an oracle with target labels would have chosen is reported beside it.

  python -m experiments.adapt
  python -m experiments.adapt --shift invert --workdir runs/invert
  python -m experiments.adapt --source mnist --target digits \
    --data_dir ~/tensorflow_datasets --workdir runs/mnist
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from rich.console import Console

from experiments import _adapt_data
from experiments import _adapt_methods
from experiments import _adapt_report
from experiments import _rounds
from experiments import _run
from kdjax import adaptation
from kdjax import data as kdata
from kdjax import metrics
from kdjax import nets
from kdjax import training
from kdjax.objectives import select_supervised
from kdjax.objectives import stateless


@dataclass(frozen=True)
class Config:
  """Compares ways to adapt to a target domain without labels.

  Attributes:
    workdir: the run folder, made if missing.
    resume: go on from the last checkpoint in the run folder.
    source: digits, or the name of a set that tfds has prepared.
    target: likewise. If it is the source, each gets half of the images.
    data_dir: where tfds keeps its prepared sets.
    shift: what is done to the target's images; auto: rotate if source and
      target are one set, else none.
    degrees: of rotate.
    strength: of blend_noise, from 0 to 1.
    crop: pixels cut off each side of source images of another size than the
      target's, before they are resized to it.
    examples: at most so many images of each set and split.
    validation_fraction: part of each domain's training images that is kept
      for the choice of the weight and for d_H.
    network: a name of kdjax.nets.create.
    hidden: units of the hidden layers if the network is an mlp.
    discriminator: units of the hidden layer of the domain discriminator.
    methods: which are compared with source_only and target_only.
    weights: the candidates for the weight of each method.
    select: how a weight is chosen without target labels: source_accuracy, on
      validation images; information, the mutual information of the target's
      images and their predicted classes, H(mean p) - mean H(p); guarded, the
      information among weights within 2 points of the best source accuracy.
    seeds: students of each method and weight.
    steps: updates of each student.
    evaluate_every: steps from one evaluation and checkpoint to the next.
    batch_size: examples of each domain in a batch.
    learning_rate: of Adam, at its start; it decays by a cosine.
    seed: of everything random.
  """

  workdir: str = "runs/adapt"
  resume: bool = False
  source: str = "digits"
  target: str = "digits"
  data_dir: str | None = None
  shift: Literal["auto", "none", "rotate", "invert", "blend_noise"] = "auto"
  degrees: float = 30.0
  strength: float = 0.5
  crop: int = 4
  examples: int = 2000
  validation_fraction: float = 0.3
  network: str = "mlp"
  hidden: tuple[int, ...] = (128, 64)
  discriminator: int = 100
  methods: tuple[Literal["dann", "mmd", "coral", "jda"], ...] = (
    "dann",
    "mmd",
    "coral",
    "jda",
  )
  weights: tuple[float, ...] = (0.01, 0.1, 1.0, 10.0)
  select: Literal["guarded", "information", "source_accuracy"] = "guarded"
  seeds: int = 8
  steps: int = 1000
  evaluate_every: int = 50
  batch_size: int = 64
  learning_rate: float = 1e-3
  seed: int = 0


def check(config: Config) -> None:
  """Raises ValueError for flags that will not do."""
  _run.expect_positive(
    config,
    "seeds",
    "batch_size",
    "examples",
    "discriminator",
    "learning_rate",
    "weights",
  )
  _run.expect_multiple(config, "steps", "evaluate_every")
  met = 0 < len(set(config.methods)) == len(config.methods)
  _run.expect(config, "methods", met, "one or more different methods")
  met = all(units > 0 for units in config.hidden)
  _run.expect(config, "hidden", met, "numbers above 0")
  _run.expect(config, "crop", config.crop >= 0, "0 or more")
  met = 0 <= config.strength <= 1
  _run.expect(config, "strength", met, "a number from 0 to 1")
  met = abs(config.degrees) < float("inf")
  _run.expect(config, "degrees", met, "a finite number")
  met = 0 < config.validation_fraction < 1
  _run.expect(config, "validation_fraction", met, "a number between 0 and 1")


# A rule sees each weight's scores, means over seeds, without target labels.
RULES = {
  "source_accuracy": lambda scores: scores["source_accuracy"],
  "information": lambda scores: scores["information"],
  # Information alone may reward confident nonsense, and source accuracy alone
  # is blind to the target: the one is the guard of the other.
  "guarded": lambda scores: np.where(
    scores["source_accuracy"] >= scores["source_accuracy"].max() - 0.02,
    scores["information"],
    -np.inf,
  ),
}


def network(config: Config, data: _adapt_data.Data):
  """The student's forward, which takes uint8 images, and its init."""
  images = np.asarray(data.train["image"][: data.train_sizes[0]])
  mean, std = map(jnp.asarray, kdata.channel_statistics(images))
  classes = int(data.train["label"].max()) + 1
  options: dict[str, Any] = {}
  if config.network == "mlp":
    options["hidden"] = config.hidden

  def build(seed: Any) -> nnx.Module:
    return nets.create(
      config.network,
      input_shape=images.shape[1:],
      num_classes=classes,
      rngs=nnx.Rngs(seed),
      **options,
    )

  model = training.from_nnx(nnx.eval_shape(lambda: build(0)))

  def forward(variables, inputs, *, train, key):
    inputs = kdata.normalize(inputs, mean, std)
    return model.forward(variables, inputs, train=train, key=key)

  return forward, lambda key: training.from_nnx(build(key)).variables


def make_loss(method: str, forward, config: Config, weight=1.0):
  """The objective of a method, and its loss of a batch of both domains."""
  if method in config.methods:
    objective = _adapt_methods.transfer_objective(method, config, weight)
    # One forward pass for both domains: with BatchNorm they share statistics.
    both = training.adaptation_loss(forward, objective, joint_forward=True)
  else:
    objective = stateless(
      optax.softmax_cross_entropy_with_integer_labels, select_supervised
    )
    one = training.distillation_loss(forward, objective)
    domain = method.removesuffix("_only")

    def both(params, state, frozen, batch, key):
      # The other domain is not seen at all: not even its statistics leak.
      return one(params, state, frozen, batch[domain], key)

  def loss_fn(params, state, frozen, batch, key):
    source, target = _adapt_data.halves(batch, config.batch_size)
    batch = {"source": source, "target": target}
    return both(params, state, frozen, batch, key)

  return objective, loss_fn


class Setup(NamedTuple):
  """What a run needs before anything is computed."""

  config: Config
  run: _run.RunFolder
  console: Console
  data: _adapt_data.Data
  forward: training.Forward
  init: Callable[[jax.Array], training.Variables]


class Job(NamedTuple):
  """What every part of the run needs.

  What a seed decides is the same under every method: the initial variables
  `[seeds]`, a key for the rest `[seeds]`, and the order of the images, a plan
  `[seeds, steps, batch]` whose batches are half source and half target.
  """

  config: Config
  run: _run.RunFolder
  console: Console
  data: _adapt_data.Data
  forward: training.Forward
  variables: training.Variables
  key: jax.Array
  plan: dict[str, jax.Array]
  evaluate: Callable[..., dict[str, jax.Array]]


def start_seeds(config: Config, data: _adapt_data.Data, init):
  """Returns the initial variables, the keys and the plans of all seeds."""

  def plan_domain(key, size):
    return _rounds.plan_steps(key, size, config.batch_size, config.steps)

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


def make_evaluation(forward, size: int):
  """Scores of all students on validation images, `size` of the source."""

  def evaluate(variables, validation):
    outputs, _ = forward(variables, validation["image"], train=False, key=None)
    hits = metrics.accuracy(outputs.logits, validation["label"])
    source_hits, target_hits = _adapt_data.halves(hits, size)
    source, target = _adapt_data.halves(outputs, size)
    entropy = jax.scipy.special.entr
    predicted = jax.nn.softmax(target.logits)
    certainty = -jnp.mean(jnp.sum(entropy(predicted), -1))
    return {
      "source_accuracy": jnp.mean(source_hits),
      "information": jnp.sum(entropy(jnp.mean(predicted, 0))) + certainty,
      "divergence": adaptation.h_divergence(
        source.embedding, target.embedding
      ).value,
      "target_accuracy": jnp.mean(target_hits),  # for the oracle alone
    }

  over_weights = jax.vmap(evaluate, (0, None))
  return jax.jit(jax.vmap(over_weights, (0, None)))


def train(method: str, job: Job):
  """Trains all weights and seeds of a method as one program.

  Returns the students' variables `[seeds, weights]` and what was seen of them
  `[rounds, seeds, weights]`.
  """
  config = job.config
  weights = config.weights if method in config.methods else (0.0,)
  schedule = optax.cosine_decay_schedule(config.learning_rate, config.steps)
  optimizer = optax.adam(schedule, b1=0.5)  # adversaries need a short memory

  def init_student(variables, key, weight):
    return training.init_train_state(
      key,
      training.Model(job.forward, variables),
      make_loss(method, job.forward, config, weight)[0],
      optimizer,
      job.data.train["image"][:1],
    )

  setup = jax.vmap(init_student, (None, None, 0))
  setup = jax.jit(jax.vmap(setup, (0, 0, None)))
  _, loss_fn = make_loss(method, job.forward, config)
  epoch = training.scan_epoch(training.make_train_step(loss_fn, optimizer))
  # The weights of a seed share its batches, the seeds share the data.
  epoch = training.sweep(epoch, shared=("frozen", "data", "plan", "key"))
  epoch = jax.jit(training.sweep(epoch, shared=("frozen", "data")))

  def advance(state, frozen, data, plan, key, validation_plan):
    del validation_plan  # d_H is of all validation images together
    train, validation = data
    state, _ = epoch(state, frozen, train, plan, key)
    return state, job.evaluate(state.student, validation)

  def describe(seen):
    row = {name: value.mean(0) for name, value in seen.items()}
    text = (
      f"source accuracy {row['source_accuracy'].max():.1%}, "
      f"d_H {row['divergence'].min():.2f}"
    )
    return {"weight": list(weights)} | row, text

  state = setup(job.variables, job.key, jnp.array(weights))
  start = state, job.key, job.plan
  state, seen = _rounds.train(method, job, advance, {}, start, describe)
  return state.student, seen


class Row(NamedTuple):
  """What is reported of one method.

  Attributes:
    weight: the chosen one, None without.
    validation: scores of the chosen weight, `[rounds, seeds]`.
    test_accuracy: its accuracy on target test images, `[seeds]`.
    oracle_weight: the best one by the labels of target validation images.
    oracle_accuracy: its accuracy on the same images, `[seeds]`.
    embeddings: of source and target validation images, by the first seed.
    null: d_H that these stay below in 95 of 100 permutations of the domains.
  """

  weight: float | None
  validation: dict[str, np.ndarray]
  test_accuracy: np.ndarray
  oracle_weight: float | None
  oracle_accuracy: np.ndarray
  embeddings: tuple[np.ndarray, np.ndarray]
  null: float


def examine(job: Job, trained: dict[str, Any]) -> dict[str, Row]:
  """Chooses the weights; only now are test images looked at."""
  config = job.config

  def predict(variables, part):
    return job.forward(variables, part["image"], train=False, key=None)[0]

  @jax.jit
  def look(variables, validation, test):
    def accuracy(variables):
      hits = metrics.accuracy(predict(variables, test).logits, test["label"])
      return jnp.mean(hits)

    first = jax.tree.map(lambda x: x[0, 0], variables)
    embeddings = _adapt_data.halves(
      predict(first, validation).embedding, job.data.validation_sizes[0]
    )
    key = jax.random.key(config.seed)
    null = adaptation.h_divergence(*embeddings, key=key).null
    return jax.vmap(jax.vmap(accuracy))(variables), embeddings, null

  rows = {}
  for method, (variables, seen) in trained.items():
    last = {name: values[-1].mean(0) for name, values in seen.items()}
    chosen = int(np.argmax(RULES[config.select](last)))
    oracle = int(np.argmax(last["target_accuracy"]))
    pair = jax.tree.map(
      lambda x, pair=(chosen, oracle): np.asarray(x)[:, pair], variables
    )
    accuracy, embeddings, null = jax.device_get(
      look(pair, job.data.validation, job.data.test)
    )
    weighted = method in config.methods
    rows[method] = Row(
      config.weights[chosen] if weighted else None,
      {name: values[..., chosen] for name, values in seen.items()},
      accuracy[:, 0],
      config.weights[oracle] if weighted else None,
      accuracy[:, 1],
      embeddings,
      float(np.quantile(null, 0.95)),
    )
  return rows


def prepare(config: Config) -> Setup:
  """Does all that fails if the user is mistaken; makes the run folder last."""
  check(config)
  if config.shift == "auto":
    shift = "rotate" if config.source == config.target else "none"
    config = dataclasses.replace(config, shift=shift)
  data = _adapt_data.load_data(config)
  forward, init = network(config, data)
  console, run = _run.console(), _run.RunFolder(config)
  return Setup(config, run, console, data, forward, init)


def execute(setup: Setup) -> dict[str, Row]:
  """Trains, examines and writes the report; returns a row a method."""
  config, run, console, data, forward, init = setup
  variables, key, plan = start_seeds(config, data, init)
  evaluate = make_evaluation(forward, data.validation_sizes[0])
  job = Job(config, run, console, data, forward, variables, key, plan, evaluate)
  methods = "source_only", *config.methods, "target_only"
  rows = examine(job, {method: train(method, job) for method in methods})
  _adapt_report.write(job, rows)
  return rows


def main(config: Config) -> dict[str, Row]:
  """Runs the experiment; raises where the command line would print a line."""
  return execute(prepare(config))


if __name__ == "__main__":
  execute(_run.set_up(prepare, _run.parse(Config)))
