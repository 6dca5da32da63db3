"""The loop of training: some steps as one program, evaluate, save, go on."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.frame import commands, progress
from kdjax import training


class Round(NamedTuple):
  """The outcome of a round."""

  tree: Any  # all arrays that training changes, as a checkpoint holds them
  seen: dict[str, Any]  # an entry of the history, as JSON holds it
  row: dict[str, Any]  # of metrics.jsonl
  text: str  # beside the progress bar


def run(
  job: Any,
  stage: str,
  tree: Any,
  advance: Callable[[int, Any, list[Any]], Round],
  *,
  steps: int,
  every: int = 1,
  history: Sequence[Any] = (),
  checkpoints: Any = None,
  update: progress.Update | None = None,
) -> tuple[Any, list[Any]]:
  """Trains round by round, from the last checkpoint on if there is one.

  `advance(step, tree, history)` trains from a step to the next one that is a
  multiple of `every`. Checkpoints are in the run folder; a short stage has
  none, False. A loop with an `update` is one of several, which has its own
  display and end.
  """
  with contextlib.ExitStack() as stack:
    if checkpoints is None:
      folder = job.run.path / "checkpoints" / stage
      checkpoints = stack.enter_context(training.Checkpoints(folder, keep=2))
    restored = checkpoints.restore(tree) if checkpoints else None
    first, tree, history = restored or (0, tree, list(history))
    if first:
      job.console.print(f"resuming {stage} at step {first} of {steps}")
    job.run.rewind(stage, first)
    own = isinstance(checkpoints, training.Checkpoints)
    finite = training.FiniteCheck(
      job.config.nan,
      checkpoints if own else None,
      stage=stage,
      name="the run",
      flag="--nan continue",
    )
    interruption = None
    if update is None:
      interruption = stack.enter_context(commands.finishing())
      show = progress.progress(job.console, stage, steps, start=first)
      update = stack.enter_context(show)
    for step in range(first + every, steps + 1, every):
      tree, seen, row, text = advance(step - every, tree, history)
      history.append(seen)
      state = tree["state"] if isinstance(tree, dict) else tree
      finite(step, as_arrays(seen))
      finite(step, {"parameters": state.params})
      # Rows beyond the last checkpoint are taken back, so they come first.
      job.run.log(stage=stage, step=step, **row)
      if checkpoints:
        checkpoints.save(step, tree, history)
      update(step, text)
      if interruption and interruption.signal is not None and step < steps:
        if checkpoints:
          checkpoints.close()
        interruption.stop(f"{stage}: step {step} of {steps} is saved.")
  arrays = jax.tree.leaves(as_arrays(history))
  numbers = [x for x in arrays if np.issubdtype(x.dtype, np.inexact)]
  if not all(np.isfinite(x).all() for x in numbers):
    job.run.diverged.append(stage)
  return tree, list(history)


def as_arrays(history: Any) -> Any:
  """The lists of numbers of a history as arrays."""

  def is_numbers(x: Any) -> bool:
    return isinstance(x, list) and not any(isinstance(y, dict) for y in x)

  return jax.tree.map(np.asarray, history, is_leaf=is_numbers)


def train(
  job: Any,
  stage: str,
  advance: Callable[..., Any],
  inputs: tuple[Any, ...],
  start: Sequence[Any],
  describe: Callable[[Any], tuple[dict[str, Any], str]],
) -> tuple[Any, dict[str, np.ndarray]]:
  """Trains by a plan of all steps; returns the state and `[rounds, ...]` seen.

  `advance(state, *inputs, plan, key) -> state, seen` is compiled and gets a
  round's part of the plan. `start` has the state, the plan `[..., steps,
  batch]` and the key. `describe(seen)` gives a row of metrics and a text.
  """
  state, plan, key = start
  plan = jax.device_get(plan)  # to slice it is no program there
  every = job.config.evaluate_every

  def advance_round(step: int, state: Any, history: list[Any]) -> Round:
    del history
    part = jax.tree.map(lambda x: x[..., step : step + every, :], plan)
    state, seen = advance(state, *inputs, part, key)
    seen = jax.device_get(seen)
    return Round(state, jax.tree.map(np.ndarray.tolist, seen), *describe(seen))

  steps = jax.tree.leaves(plan)[0].shape[-2]
  state, history = run(
    job, stage, state, advance_round, steps=steps, every=every
  )
  return state, stack_history(history)


def stack_history(history: list[dict[str, Any]]) -> dict[str, np.ndarray]:
  """The values of all rounds by name, `[rounds, ...]`."""
  return {k: np.array([seen[k] for seen in history]) for k in history[0]}


def plan_steps(key: Any, examples: int, batch_size: int, steps: int) -> Any:
  """Plans the epochs of so many steps: index and mask `[steps, batch_size]`."""
  epochs = -(-steps // -(-examples // batch_size))
  plans = jax.vmap(
    lambda key: training.epoch_plan(examples, batch_size, key=key)
  )(jax.random.split(key, epochs))
  return jax.tree.map(lambda x: x.reshape(-1, batch_size)[:steps], plans)


def seed_keys(config: Any, *, first: int = 0) -> jax.Array:
  """The keys of a run's seeds, `[seeds]`."""
  numbers = first + jnp.arange(config.seeds)
  root = jax.random.key(config.seed)
  return jax.vmap(jax.random.fold_in, (None, 0))(root, numbers)
