"""A small training run that may be killed at any moment.

`python killed_run.py STEPS DIE_AT DIRECTORY...` resumes from the last
checkpoint of a directory, one directory after the other, and saves after every
step. It takes a step for each line of its standard input, and the rest when
that is closed. In the last directory it kills itself when all of step DIE_AT is
written and the last thing to do is to give its folder the final name.
"""

import os
import pathlib
import signal
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax

from kdjax.distillation import soft_target_loss
from kdjax.methods import combine, parameter_ema, stateless
from kdjax.nets import Outputs
from kdjax.training import (
  Checkpoints,
  Model,
  Variables,
  distill,
  epoch_plan,
)

EXAMPLES, BATCH, WIDTH = 20, 8, 6


def forward(variables, inputs, *, train, key):
  """A linear model with dropout and a running mean, as a raw pytree."""
  mean = variables.state["mean"]
  if train:
    mean = 0.9 * mean + 0.1 * jnp.mean(inputs, axis=0)
    inputs = inputs * jax.random.bernoulli(key, 0.8, inputs.shape)
  logits = (inputs - mean[None]) @ variables.params["w"]
  return Outputs(logits, {}, None), {"mean": mean}


def model(seed):
  w = jax.random.normal(jax.random.key(seed), (WIDTH, 3))
  return Model(forward, Variables({"w": w}, {"mean": jnp.zeros(WIDTH)}))


def die_at_rename(step):
  """Kills the process where it would rename a folder to the step's number."""
  rename = os.rename

  def rename_or_die(source, target, **options):
    if pathlib.Path(target).name == str(step):
      os.kill(os.getpid(), signal.SIGKILL)
    rename(source, target, **options)

  os.rename = os.replace = rename_or_die


def main(directory, steps):
  student, teacher = model(0), model(1)
  ce = stateless(
    optax.softmax_cross_entropy_with_integer_labels,
    ("student_logits", "labels"),
  )
  kd = stateless(soft_target_loss, temperature=4.0)
  ramp = optax.linear_schedule(0.0, 1.0, steps)
  objective = combine({"ce": (0.5, ce), "kd": (ramp, kd)})
  optimizer = optax.chain(optax.adam(1e-2), parameter_ema(0.9))
  data = np.random.default_rng(0).normal(size=(EXAMPLES, WIDTH))
  data = {"image": data.astype(np.float32), "label": np.arange(EXAMPLES) % 3}
  learner = distill(student, teacher, objective, optimizer)
  example = data | {"mask": np.ones(EXAMPLES, bool)}
  state = learner.init(jax.random.key(0), example)
  step = jax.jit(learner.step, donate_argnums=0)

  key, position = jax.random.key(1), {"epoch": 0, "row": 0}
  with Checkpoints(directory / "checkpoints", keep=2) as checkpoints:
    restored = checkpoints.restore((state, key))
    if restored is not None:
      _, (state, key), position = restored
    print("resumed at", int(state.step), flush=True)
    while int(state.step) < steps:
      sys.stdin.readline()
      plan_key = jax.random.fold_in(jax.random.key(2), position["epoch"])
      plan = epoch_plan(EXAMPLES, BATCH, key=plan_key)
      rows = {k: np.asarray(v[position["row"]]) for k, v in plan.items()}
      batch = {k: v[rows["index"]] for k, v in data.items()} | rows
      key, step_key = jax.random.split(key)
      state, _ = step(state, learner.frozen, batch, step_key)
      position["row"] += 1
      if position["row"] == len(plan["mask"]):
        position = {"epoch": position["epoch"] + 1, "row": 0}
      checkpoints.save(int(state.step), (state, key), position)
      print("step", int(state.step), flush=True)
  leaves = jax.tree.leaves((state, jax.random.key_data(key)))
  np.savez(directory / "final.npz", *leaves)


if __name__ == "__main__":
  _, steps, die_at, *others, last = sys.argv
  for directory in others:
    main(pathlib.Path(directory), int(steps))
  die_at_rename(int(die_at))
  main(pathlib.Path(last), int(steps))
