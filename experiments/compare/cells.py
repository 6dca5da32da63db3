"""One cell: the students of a method on a pair, and the files it leaves."""

import functools
import shutil
import statistics
import time
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.compare.job import Job, load_variables, save_variables
from experiments.compare.methods import TEACHERS, make_course
from experiments.compare.training import (
  Lesson,
  Teacher,
  build,
  make_evaluation,
  objective_of,
)
from experiments.frame import rounds
from experiments.frame.scores import predict
from kdjax import training

SHOWN = 600  # test images whose embeddings are kept for a figure


def run_cell(job: Job, pair: str, method: str) -> None:
  """Trains a cell and writes its file, unless it is there."""
  file = job.cell_file(pair, method)
  if file.exists():
    return
  begin = time.perf_counter()
  config, data = job.config, job.data
  teacher, student = pair.split(":")
  guide = pair_teacher(job, teacher)
  network = job.network(student, teacher=False)
  init_keys, keys = seed_keys(config)
  targets = teacher_targets(job, teacher)
  result: dict[str, Any] = {"pair": pair, "method": method}
  variables = job.once(
    ("students", student), lambda: jax.jit(jax.vmap(network.init))(init_keys)
  )
  source = _teacher_of(job, pair, method, guide)
  inputs, before = (keys, variables, data.students), None
  try:
    course = make_course(
      method,
      student,
      network,
      job.recipe(student, teacher=False),
      source,
      epochs=config.epochs,
      labels=data.labels,
      pair=(teacher, student),
      patient=config.recipe == "function_matching",
    )
    if first := course.initialization:
      before = Training(job, pair, f"{method} (before)", first, inputs)
      before.finish()
    cell = Training(
      job, pair, method, course.lesson, inputs, before and before.state
    )
  except training.RunError:
    raise  # the method applies, and its run failed
  except (TypeError, ValueError) as error:
    reason = " ".join(str(error).split())
    training.write_json(file, result | {"not_applicable": reason})
    return
  scratch, saves = [], job.saves(pair, method)
  if method != "scratch":
    scratch = training.read_json(job.cell_file(pair, "scratch"))["history"]
  history = cell.finish(saves, targets, scratch)
  scores, *answers = cell.evaluate(targets)
  logits, embedding = (x[:, data.parts["test"]] for x in answers)
  file.parent.mkdir(parents=True, exist_ok=True)
  classes = np.eye(data.classes)[data.test_labels]
  sums = np.einsum("nk,snc->skc", classes, logits)
  np.savez_compressed(
    file.with_suffix(".npz"),
    class_logits=sums / classes.sum(0)[:, None],
    embedding=np.asarray(embedding[0, :SHOWN], np.float32),
  )
  save_variables(job.file("students", pair, method), cell.state.student)
  shutil.rmtree(saves.folder, ignore_errors=True)
  seconds = {"seconds": round(time.perf_counter() - begin, 2)}
  result |= {"history": history, "test": to_lists(scores["test"])}
  training.write_json(file, result | {"costs": cell.costs(history) | seconds})


def _teacher_of(
  job: Job, pair: str, method: str, guide: Teacher
) -> Teacher | None:
  """The network that a method learns from, trained if it is missing."""
  match TEACHERS.get(method, "teacher"):
    case None:
      return None
    case "assistant":
      name = f"{job.config.assistant}_from_{pair.split(':')[0]}"
      return pair_teacher(job, name, guide)
    case "scratch":
      return scratch_students(job, pair)
  return guide


class Training:
  """The training of all seeds by one lesson, round by round."""

  def __init__(
    self,
    job: Job,
    pair: str,
    name: str,
    lesson: Lesson,
    inputs: Any,
    before: Any = None,
  ):
    # Keys and first weights of the seeds, and the images that they see; the
    # state that the stage before left is `before`.
    config, (keys, variables, data) = job.config, inputs
    self.job, self.pair, self.lesson = job, pair, lesson
    self.stage = f"{pair} {name}"
    self.keys, self.data, self.seeds = keys, data, len(keys)
    # A stage before the main one may be a single round.
    single = lesson.epochs % config.evaluate_every
    self.epochs = lesson.epochs if single else config.evaluate_every
    # Vmapping one student would only make its convolutions slower.
    self.chunk_size = None if config.together and self.seeds > 1 else 1
    sizes = {"epochs": self.epochs, "chunk_size": self.chunk_size}
    start, advance, self.cosine, self.steps = build(
      lesson, data, job.data.classes, **sizes
    )
    self.guide = lesson.teacher.variables if lesson.teacher else {}
    self.state = start(keys, variables, self.guide, before)
    begin = time.perf_counter()
    inputs = self.state, self.guide, data, keys, jnp.int32(0)
    self.advance = advance.lower(*inputs).compile()
    self.compiling = time.perf_counter() - begin

  def finish(
    self, saves: Any = None, targets: Any = None, scratch: Any = ()
  ) -> list[dict[str, Any]]:
    """Trains to the end, from the last checkpoint on; returns the history.

    Without checkpoints nothing is evaluated. `targets` are the outputs of the
    pair's teacher; `scratch` is the history of the students from scratch.
    """
    last = 0

    def update(epoch: int, note: str) -> None:
      nonlocal last
      steps = (epoch - last) * self.steps * self.seeds
      last = epoch
      self.job.progress(steps, note)

    def advance(epoch: int, state: Any, history: list[Any]) -> rounds.Round:
      if epoch > last:  # where a checkpoint was
        update(epoch, self.stage)
      begin = time.perf_counter()
      inputs = self.guide, self.data, self.keys, jnp.int32(epoch)
      self.state, losses = self.advance(state, *inputs)
      losses = jax.device_get(losses)
      seconds = time.perf_counter() - begin
      seen: dict[str, Any] = {"seconds": seconds, "losses": losses}
      note = self.stage
      if saves:
        seen |= jax.device_get(self.evaluate(targets)[0])
        if self.cosine:
          seen["gradient_cosine"] = self.cosine(self.state, *inputs[:3])
        part = "validation" if "validation" in seen else "test"
        note += f", {part} {np.mean(seen[part]['accuracy']):.1%}"
        if scratch:
          alone = np.array(scratch[len(history)][part]["accuracy"])
          seen["gain_over_scratch"] = seen[part]["accuracy"] - alone
      seen = to_lists(seen)
      return rounds.Round(self.state, seen, seen, note)

    self.state, history = rounds.run(
      self.job,
      self.stage,
      self.state,
      advance,
      steps=self.lesson.epochs,
      every=self.epochs,
      checkpoints=saves or False,
      update=update,
    )
    return history

  def evaluate(self, targets: Any) -> Any:
    """Scores, logits and embeddings of all seeds on held-out images."""
    job, lesson, state = self.job, self.lesson, self.state
    answers = bool(objective_of(lesson.method).predict)
    # Students that do not answer for themselves are all tried by one program.
    name = ("evaluation", self.pair, lesson.name, self.stage if answers else "")
    sizes = {"chunk_size": self.chunk_size}
    evaluation = job.once(
      name, lambda: make_evaluation(lesson, job.data.parts, **sizes)
    )
    own = state.params["objective"], state.state["objective"]
    helpers = (own, self.guide) if answers else ({}, {})
    return evaluation(state.student, *helpers, job.data.held_out, targets)

  def costs(self, history: list[dict[str, Any]]) -> dict[str, Any]:
    """The time and the memory of a step of one student."""
    seconds = statistics.median(seen["seconds"] for seen in history)
    memory = self.advance.memory_analysis()
    size = memory and memory.temp_size_in_bytes + memory.argument_size_in_bytes
    return {
      "step_ms": 1e3 * seconds / (self.epochs * self.steps * self.seeds),
      "bytes": (size or 0) // (self.chunk_size or self.seeds),
      "compile_seconds": round(self.compiling, 2),
      **{
        f"{part}_parameters": sum(x.size for x in jax.tree.leaves(tree))
        // self.seeds
        for part, tree in self.state.params.items()
      },
    }


def to_lists(tree: Any) -> Any:
  """Arrays as JSON holds them."""
  return jax.tree.map(lambda x: np.asarray(x).tolist(), tree)


def seed_keys(config: Any) -> tuple[Any, Any]:
  """Each seed's keys: of its initial weights, and of its training."""
  root = jax.random.fold_in(jax.random.key(config.seed), 1)
  keys = jax.vmap(jax.random.fold_in, (None, 0))(root, jnp.arange(config.seeds))
  keys = jax.vmap(jax.random.split)(keys)
  return keys[:, 0], keys[:, 1]


def train_teacher(job: Job, name: str, guide: Teacher | None = None) -> Teacher:
  """Trains a teacher, or an assistant by plain KD, unless it is saved."""
  config, data = job.config, job.data
  known = name.split("_from_")[0]  # an assistant is network_from_teacher
  network = job.network(known, teacher=True)
  # The same teacher whatever else is in the grid.
  number, root = zlib.crc32(name.encode()), jax.random.key(config.seed)
  init_key, key = jax.random.split(jax.random.fold_in(root, number))
  variables = jax.jit(jax.vmap(network.init))(init_key[None])
  folder = job.file("teachers", name)
  if not folder.exists():
    lesson = make_course(
      "kd" if guide else "scratch",
      known,
      network,
      job.recipe(known, teacher=True),
      guide,
      epochs=config.teacher_epochs,
      labels=data.train["label"],
      patient=config.recipe == "function_matching",
    ).lesson
    inputs = key[None], variables, data.train
    cell = Training(job, "teacher", name, lesson, inputs)
    saves = job.saves("teachers", name)
    cell.finish(saves)
    save_variables(folder, cell.state.student)
    shutil.rmtree(saves.folder, ignore_errors=True)
  variables = load_variables(folder, variables)
  return Teacher(network.forward, jax.tree.map(lambda x: x[0], variables))


def scratch_students(job: Job, pair: str) -> Teacher:
  """The students from scratch as teachers, each of its own seed."""
  run_cell(job, pair, "scratch")
  network = job.network(pair.split(":")[1], teacher=False)
  template = jax.eval_shape(jax.vmap(network.init), seed_keys(job.config)[0])
  variables = load_variables(job.file("students", pair, "scratch"), template)
  return Teacher(network.forward, variables, 0)


def pair_teacher(job: Job, name: str, guide: Teacher | None = None) -> Teacher:
  """The teacher of that name, trained or loaded when first asked for."""
  return job.once(("teacher", name), lambda: train_teacher(job, name, guide))


def teacher_targets(job: Job, name: str) -> Any:
  """A teacher's logits and embeddings of held-out images."""
  teacher = pair_teacher(job, name)

  def answer() -> Any:
    run = jax.jit(functools.partial(predict, teacher.forward))
    return run(teacher.variables, job.data.held_out["image"])

  return job.once(("targets", name), answer)
