"""Times a step of many students at once, each with its own T and alpha.

  python -m benchmarks.sweep
  python -m benchmarks.sweep --fit 64

ConvNets (5x5x16, 5x5x32, 64, 10) on 28x28 images in batches of 128, distilled
with Adam from one wider teacher; times are those of one step of all students,
PyTorch's of a loop over them. The floor is that of the operations, by XLA's
count, at the rate of a large product. With `--fit STUDENTS` it compares
`training.fit(students=...)` with the bare compiled loop, step by step.
"""

import argparse
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import _frame, _torch_training
from benchmarks._measure import Case, Program, import_torch
from benchmarks.steps import (
  LABELS,
  draw_batches,
  example_of,
  make_network,
  operations,
  over_batches,
)
from kdjax import training
from kdjax.distillation import kd_loss, soft_target_loss
from kdjax.methods import combine, stateless

# students, their batch, the steps of a call, and how many are taken at a time
SHAPES = {
  "tiny": {"students": [2], "batch": 4, "steps": 2, "at_a_time": [1]},
  "cpu": {"students": [1, 8], "batch": 128, "steps": 2, "at_a_time": [1]},
  "gpu": {
    "students": [1, 8, 64],
    "batch": 128,
    "steps": 20,
    "at_a_time": [1, 8],
  },
}
SHAPE, CLASSES = (28, 28, 1), 10
CHANNELS, TEACHER_CHANNELS, HIDDEN = (16, 32), (32, 64), 64


def make_cases(flags: argparse.Namespace) -> list[Case]:
  """Builds the cases of one size."""
  shapes = SHAPES[flags.size]
  return [
    sweep_case(
      n,
      shapes["batch"],
      shapes["steps"],
      shapes["at_a_time"],
      jnp.dtype(flags.dtype),
    )
    for n in shapes["students"]
  ]


def sweep_case(
  students: int,
  batch: int,
  steps: int,
  at_a_time: list[int],
  dtype: jnp.dtype,
) -> Case:
  """Students that differ in seed, temperature and weight, on the same data."""
  student, teacher = (
    make_network(
      "convnet", SHAPE, CLASSES, dtype, channels=channels, hidden=HIDDEN
    )
    for channels in (CHANNELS, TEACHER_CHANNELS)
  )
  objective = combine(
    {
      "ce": (0.5, LABELS),
      "kd": (0.5, stateless(soft_target_loss, temperature=1.0)),
    }
  )

  def start(key: jax.Array) -> training.Variables:
    # Other weights: those of one network, each kernel in an order of its own.
    params = jax.tree.map(
      lambda x: jax.random.permutation(key, x.ravel()).reshape(x.shape),
      student.variables.params,
    )
    return training.Variables(params, student.variables.state)

  learner = training.distill(
    training.Network(start, student.forward),
    teacher,
    objective,
    optax.adam(1e-3),
  )
  alphas = jnp.linspace(0.1, 0.9, students)
  states = jax.jit(
    lambda keys, **values: training.sweep(learner).init(
      keys, example_of(SHAPE, dtype), **values
    )
  )(
    jax.random.split(jax.random.key(0), students),
    temperature=jnp.linspace(1.0, 8.0, students),
    ce=1 - alphas,
    kd=alphas,
  )
  run, shared = over_batches(learner.step), ("frozen", "images", "labels")
  own = states, learner.frozen
  programs = {"kdjax": Program(training.sweep(run, shared=shared), own)}
  for size in at_a_time:
    programs[f"kdjax, {size} at a time"] = Program(
      training.sweep(run, shared=shared, chunk_size=size), own
    )
  peers = _torch_training.peers(
    lambda: _torch_training.convnet(CHANNELS, HIDDEN, CLASSES, SHAPE[0]),
    lambda parameters: import_torch().optim.Adam(parameters, 1e-3),
    lambda: _torch_training.convnet(
      TEACHER_CHANNELS, HIDDEN, CLASSES, SHAPE[0]
    ),
    students=students,
  )
  if students > 1:
    del peers["torch.compile"]  # that of one student says what it can do
  return Case(
    "sweep of ConvNets",
    f"{students} students",
    students,
    "students",
    lambda: draw_batches(steps, batch, SHAPE, CLASSES),
    programs,
    peers,
    0,
    operations=batch
    * (operations(teacher, SHAPE) + 3 * students * operations(student, SHAPE)),
    steps=steps,
  )


def compare_fit(
  students: int, *, batch: int = 128, examples: int = 2048, rounds: int = 8
) -> dict[str, float]:
  """Seconds of a step of all students: the bare loop's and those of `fit`.

  Both run 50 steps as one program, each student in an order of its own; the
  first round, which compiles, does not count, and the fastest does.

  Args:
    students: how many.
    batch: examples of a batch.
    examples: in the data.
    rounds: of 50 steps.

  Returns:
    name -> seconds.
  """
  steps, dtype = 50, jnp.dtype("float32")
  student = make_network(
    "convnet", SHAPE, CLASSES, dtype, channels=CHANNELS, hidden=HIDDEN
  )
  teacher = make_network(
    "convnet",
    SHAPE,
    CLASSES,
    dtype,
    channels=TEACHER_CHANNELS,
    hidden=HIDDEN,
  )
  learner = training.distill(
    student, teacher, kd_loss, optax.adam(1e-3), temperature=4.0
  )
  generator = np.random.default_rng(0)
  data = {
    "image": generator.random((examples, *SHAPE), np.float32),
    "label": generator.integers(0, CLASSES, examples).astype(np.int32),
  }
  grid = training.grid(seed=range(students))
  # Alone on a CPU convolutions of one student at a time are faster.
  at_a_time = 1 if jax.default_backend() == "cpu" else None
  result = training.fit(
    learner,
    data,
    students=grid,
    students_at_a_time=at_a_time,
    batch_size=batch,
    steps=rounds * steps,
    evaluate_every=steps,
    diagnostics=False,
    key=jax.random.key(0),
  )
  by_fit = np.diff(result.metrics["seconds"]).min() / steps

  over = training.sweep(
    training.scan_epoch(learner.step),
    shared=("frozen", "data"),
    chunk_size=at_a_time,
  )
  keys = jax.random.split(jax.random.key(0), students)
  plans = jax.vmap(
    lambda key: training.epoch_plan(steps * batch, batch, key=key)
  )(keys)
  plans["index"] = plans["index"] % examples
  state = training.sweep(learner).init(keys, example_of(SHAPE, dtype))
  run, data = jax.jit(over, donate_argnums=0), jax.device_put(data)
  seconds = []
  for _ in range(rounds):
    begin = time.perf_counter()
    state, metrics = run(state, learner.frozen, data, plans, keys)
    jax.device_get(metrics)
    seconds.append(time.perf_counter() - begin)
  return {"bare loop": min(seconds[1:]) / steps, "fit": float(by_fit)}


if __name__ == "__main__":
  if "--fit" in sys.argv:
    found = compare_fit(int(sys.argv[sys.argv.index("--fit") + 1]))
    for name, value in found.items():
      print(f"{name}: {1e3 * value:.3f} ms a step")
    print(f"fit / bare loop: {found['fit'] / found['bare loop']:.3f}")
    raise SystemExit
  _frame.run(make_cases, __doc__.splitlines()[0])
