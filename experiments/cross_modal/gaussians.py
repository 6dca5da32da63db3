"""The modality focusing hypothesis on Gaussians, as Xue et al. measured it.

Two modalities of an example share some of the dimensions that decide its
label. Linear teachers of one modality teach linear students of the other.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.frame import cells
from experiments.frame import data as frame_data
from kdjax import methods, metrics, training
from kdjax.nets import layers

TRAIN, TEST = 200, 1000  # examples
MANY = 5  # times the examples, for the upper bound
STUDENT = 50  # dimensions of the student's modality
RATE = 0.1  # of plain gradient descent on all examples
# The authors average the divergence over classes too, and give it weight 1.
KL_WEIGHT = 0.5
# Experiment -> dimensions of the teacher's modality, and its points. `shared`:
# of the 10 deciding dimensions that a modality has, so many are the other's.
# `more`: the teacher has the student's 10 deciding dimensions of 50, and so
# many more.
POINTS = {
  "shared": (25, (0, 2, 4, 6, 8, 10)),
  "more": (50, (0, 10, 20, 30, 40)),
}
# Gains of 10 seeds in points, of a port of the authors' code to NumPy.
REFERENCE = {
  "shared": (-0.73, -0.47, -0.36, 0.20, 1.51, 2.48),
  "more": (1.59, 0.97, 0.66, 0.56, 0.30),
}
ROWS = ("teacher", "scratch", "kd", "many")


def level(experiment: str, point: int) -> float:
  """The authors' gamma (shared by both) or alpha (the teacher's alone)."""
  if experiment == "shared":
    return point / (20 - point)
  return point / (point + 10)


def draw(experiment: str, point: int, run: int) -> dict[str, dict[str, Any]]:
  """Training and test examples, of modality `a` of the teacher, and `b`.

  Numbers are drawn as the authors draw them, so that run i has the data of
  their seed i. More training examples, for the upper bound, come last.
  """
  width, _ = POINTS[experiment]
  generator = np.random.RandomState(run)
  plane = generator.randn(500)

  def examples(generator: Any, count: int) -> dict[str, Any]:
    deciding = 20 if experiment == "shared" else width
    x = generator.randn(count, deciding)
    b = generator.randn(count, STUDENT)
    b[:, :10] = x[:, :10]
    a = generator.randn(count, width)
    first, last = (10 - point, 20 - point)
    if experiment == "more":
      first, last = 0, 10 + point
    a[:, first:last] = x[:, first:last]
    return {
      "a": a.astype(np.float32),
      "b": b.astype(np.float32),
      "label": (x @ plane[:deciding] > 0).astype(np.int32),
      "mask": np.ones(count, bool),
    }

  train = examples(generator, TRAIN)
  test = examples(np.random.RandomState(run + 1), TEST)
  rest = examples(generator, (MANY - 1) * TRAIN)
  many = {k: np.concatenate([x, rest[k]]) for k, x in train.items()}
  return {"train": train, "test": test, "many": many}


def make_program(experiment: str, steps: int) -> Any:
  """`(keys, parts) -> row -> accuracies [runs]`, of all runs."""
  width, _ = POINTS[experiment]

  def linear(inputs: int) -> training.Network:
    return training.Network.of(lambda rngs: layers.linear(inputs, 2, rngs=rngs))

  def learner(inputs: int, on: str, teacher: Any = None) -> training.Learner:
    name = "scratch" if teacher is None else "cross_modal_kd"
    return training.distill(
      linear(inputs),
      teacher,
      methods.create(name),
      optax.sgd(RATE),
      on={"student": on, "teacher": "a"},
    )

  def train(made: Any, state: Any, frozen: Any, batch: Any) -> Any:
    def step(state: Any, _: Any) -> Any:
      return made.step(state, frozen, batch, jax.random.key(0))[0], None

    return jax.lax.scan(step, state, length=steps)[0].student

  def run(key: jax.Array, parts: Any) -> dict[str, jax.Array]:
    keys = jax.random.split(key)
    few, test = parts["train"], parts["test"]

    def accuracy(variables: Any, on: str) -> jax.Array:
      network = linear(test[on].shape[1])
      outputs, _ = network.forward(variables, test[on], train=False, key=None)
      return jnp.mean(metrics.accuracy(outputs.logits, test["label"]))

    spec = frame_data.batch_spec(few)
    told = learner(width, "a")
    teacher = train(told, told.init(keys[0], spec), {}, few)
    alone = learner(STUDENT, "b")
    taught = learner(STUDENT, "b", linear(width))
    weights = {"ce": 1.0, "kd": KL_WEIGHT, "temperature": 1.0}
    # The same initial weights under all three.
    start = alone.init(keys[1], spec)
    kd = taught.init(keys[1], spec, **weights)
    return {
      "teacher": accuracy(teacher, "a"),
      "scratch": accuracy(train(alone, start, {}, few), "b"),
      "kd": accuracy(train(taught, kd, {"teacher": teacher}, few), "b"),
      "many": accuracy(train(alone, start, {}, parts["many"]), "b"),
    }

  return jax.jit(training.sweep(run, shared=(), chunk_size=1))


def run(job: Any) -> dict[str, dict[str, np.ndarray]]:
  """Trains all points; experiment -> row -> accuracies `[points, runs]`."""
  config, files = job.config, cells.Cells(job.run.path)
  keys = jax.random.split(jax.random.key(config.seed), config.gaussian_runs)
  names = [(name, i) for name in POINTS for i in range(len(POINTS[name][1]))]
  programs: dict[str, Any] = {}
  missing = files.missing(job.console, [("gaussians", *x) for x in names])
  for (_, name, i), update in missing:
    if name not in programs:
      programs = {name: make_program(name, config.gaussian_steps)}
    drawn = [
      draw(name, POINTS[name][1][i], config.seed + run)
      for run in range(config.gaussian_runs)
    ]
    parts = jax.tree.map(lambda *x: np.stack(x), *drawn)
    found = jax.device_get(programs[name](keys, parts))
    content = {row: found[row].tolist() for row in ROWS}
    files.write(content, "gaussians", name, i)
    update(1, f"Gaussians: {name}, point {i + 1} of {len(POINTS[name][1])}")
  results: dict[str, dict[str, np.ndarray]] = {}
  for name, (_, points) in POINTS.items():
    read = [files.read("gaussians", name, i) for i in range(len(points))]
    results[name] = {k: np.array([x[k] for x in read]) for k in ROWS}
  return results
