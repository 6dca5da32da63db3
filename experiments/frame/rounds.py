"""Training in rounds: some steps as one program, evaluate, save, go on."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from experiments.frame import commands
from experiments.frame import progress
from kdjax import data
from kdjax import training


def shift_examples(loss_fn: Callable[..., Any], shift: int):
  """Shifts the images of a batch before a loss sees them.

  Every image has a key of its own, so the shifts are the same however a batch
  is divided among devices.

  Args:
    loss_fn: `(params, state, frozen, batch, key) -> loss, (state, metrics)`.
    shift: by up to how many pixels.

  Returns:
    A function of the same arguments.
  """
  if not shift:
    return loss_fn

  def shifted(params, state, frozen, batch, key, **options):
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, batch["index"])
    images = jax.vmap(
      lambda key, image: data.random_crop(key, image[None], padding=shift)[0]
    )(keys, batch["image"])
    batch = batch | {"image": images}
    return loss_fn(params, state, frozen, batch, key, **options)

  return shifted


def plan_steps(key: Any, examples: int, batch_size: int, steps: int) -> Any:
  """Plans the epochs that so many steps take, one after the other.

  Args:
    key: of their orders.
    examples: how many there are.
    batch_size: how many a batch has.
    steps: how many batches.

  Returns:
    `{"index": int32, "mask": bool}`, each `[steps, batch_size]`.
  """
  epochs = -(-steps // -(-examples // batch_size))
  plans = jax.vmap(
    lambda key: training.epoch_plan(examples, batch_size, key=key)
  )(jax.random.split(key, epochs))
  return jax.tree.map(lambda x: x.reshape(-1, batch_size)[:steps], plans)


def make_round(step: Callable[..., Any], evaluate: Callable[..., Any]):
  """A round: some steps of training and an evaluation, as one program.

  Args:
    step: of a learner, with the metric `"loss"`.
    evaluate: of a learner.

  Returns:
    `advance(state, frozen, data, plan, key, validation_plan, *, axis_name)
    -> state, seen`, where `data` is the pair of training and validation data,
    and `seen` has the mean loss and the means that `evaluate` measures.
  """
  epoch = training.scan_epoch(step)
  evaluation = training.scan_evaluation(evaluate)

  def advance(
    state, frozen, data, plan, key, validation_plan, *, axis_name=None
  ):
    train, validation = data
    state, moved = epoch(state, frozen, train, plan, key, axis_name=axis_name)
    seen = evaluation(
      state, frozen, validation, validation_plan, axis_name=axis_name
    )
    loss = training.mean_metrics(moved, axis=0)["loss"]
    return state, {"loss": loss, **training.mean_metrics(seen)}

  return advance


def train(
  stage: str,
  job: Any,
  advance: Callable[..., Any],
  frozen: Any,
  start: tuple[Any, Any, Any],
  describe: Callable[[Any], tuple[dict[str, Any], str]],
) -> tuple[Any, dict[str, np.ndarray]]:
  """Trains round by round, from the last checkpoint on if there is one.

  Args:
    stage: its name: of its checkpoints, of its rows in metrics.jsonl.
    job: has `run`, `console`, `data` (its `train` and `validation`) and
      `config` (its `batch_size` and `evaluate_every`).
    advance: from `make_round`, compiled.
    frozen: the teacher, if there is one.
    start: the state, the key and the plan `[..., steps, batch]` of all steps,
      or of each domain.
    describe: what a round has seen, as a row of metrics and as a text.

  Returns:
    The final state, and the metrics of all rounds, `[rounds, ...]`.
  """
  state, key, plan = start
  plan = jax.device_get(plan)  # to slice it is no program there
  steps = jax.tree.leaves(plan)[0].shape[-2]
  every = job.config.evaluate_every
  data = job.data.train, job.data.validation
  validation_plan = training.epoch_plan(
    len(data[1]["label"]), job.config.batch_size
  )
  tree = {"state": state, "key": jax.random.key_data(key)}
  folder = job.run.path / "checkpoints" / stage
  with training.Checkpoints(folder) as checkpoints:
    restored = checkpoints.restore(tree)
    first, tree, history = restored or training.Restored(0, tree, [])
    if first:
      job.console.print(f"resuming {stage} at step {first} of {steps}")
    job.run.rewind(stage, first)
    state, key = tree["state"], jax.random.wrap_key_data(tree["key"])
    finite = training.FiniteCheck(
      job.config.nan, checkpoints, stage=stage, name="the run"
    )
    with (
      commands.finishing() as interruption,
      progress.progress(job.console, stage, steps, start=first) as update,
    ):
      for step in range(first + every, steps + 1, every):
        part = jax.tree.map(lambda x, i=step: x[..., i - every : i, :], plan)
        state, seen = advance(state, frozen, data, part, key, validation_plan)
        seen = jax.device_get(seen)
        history.append({name: value.tolist() for name, value in seen.items()})
        finite(step, seen)
        finite(step, {"parameters": state.params})
        row, text = describe(seen)
        # Rows beyond the last checkpoint are taken back, so they come first.
        job.run.log(stage=stage, step=step, **row)
        checkpoints.save(step, tree | {"state": state}, history)
        update(step, text)
        if interruption.signal is not None and step < steps:
          checkpoints.close()
          interruption.stop(f"{stage}: step {step} of {steps} is saved.")
  return state, {
    name: np.array([seen[name] for seen in history]) for name in history[0]
  }
