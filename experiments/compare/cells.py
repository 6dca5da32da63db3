"""One cell: the students of a method on a pair, and the files it leaves."""

import json
import pathlib
import shutil
import statistics
import time
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.compare.job import Job
from experiments.compare.job import cell_file
from experiments.compare.job import load_variables
from experiments.compare.job import restore
from experiments.compare.job import save
from experiments.compare.job import save_variables
from experiments.compare.job import students_folder
from experiments.compare.methods import TEACHERS
from experiments.compare.methods import make_course
from experiments.compare.training import Lesson
from experiments.compare.training import Teacher
from experiments.compare.training import build
from experiments.compare.training import compiled
from experiments.compare.training import count_parameters
from experiments.compare.training import make_evaluation
from experiments.compare.training import predict
from experiments.compare.training import to_lists
from experiments.frame.folders import write_json
from kdjax import training

SHOWN = 600  # test images whose embeddings are kept for a figure


def pair_stem(pair: str) -> str:
  """The start of the names of a pair's files."""
  return pair.replace(":", "_to_")


def run_cell(job: Job, teacher: str, student: str, method: str) -> None:
  """Trains a cell and writes its file, unless it is there.

  Args:
    job: the run.
    teacher: the name of the pair's teacher.
    student: the name of its student.
    method: the name of the method.
  """
  file = cell_file(job, teacher, student, method)
  if file.exists():
    return
  begin = time.perf_counter()
  config, data = job.config, job.data
  guide = pair_teacher(job, teacher)
  match TEACHERS.get(method, "teacher"):
    case None:
      source = None
    case "assistant":
      name = f"{config.assistant}_from_{teacher}"
      source = job.once(
        ("teacher", name), lambda: train_teacher(job, name, guide)
      )
    case "scratch":
      source = scratch_students(job, teacher, student)
    case _:
      source = guide
  network = job.network(student, teacher=False)
  result: dict[str, Any] = {"pair": f"{teacher}:{student}", "method": method}
  init_keys, keys = seed_keys(config)
  targets = teacher_targets(job, teacher)
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
    variables = job.once(
      ("students", student), lambda: jax.jit(jax.vmap(network.init))(init_keys)
    )
    begin_main = None
    if course.initialization:
      before = Training(
        job,
        f"{teacher}:{student}",
        f"{method} (before)",
        course.initialization,
        keys,
        variables,
        data.students,
        data.seeds_axis,
      )
      before.finish(None, None)
      begin_main = before.state
    cell = Training(
      job,
      f"{teacher}:{student}",
      method,
      course.lesson,
      keys,
      variables,
      data.students,
      data.seeds_axis,
    )
  except (TypeError, ValueError) as error:
    reason = " ".join(str(error).split())
    write_json(file, result | {"not_applicable": reason})
    return
  if begin_main is not None:
    cell.state = training.hand_over(begin_main, cell.state, method)
  folder = job.run.path / "checkpoints" / f"{teacher}_to_{student}" / method
  scratch = cell_file(job, teacher, student, "scratch")
  known = method != "scratch" and json.loads(scratch.read_text())["history"]
  history = cell.finish(folder, targets, known)
  scores, *answers = cell.evaluate(targets)
  logits, embedding = (x[:, data.parts["test"]] for x in answers)
  file.parent.mkdir(parents=True, exist_ok=True)
  classes = np.eye(data.classes)[data.test_labels]
  np.savez_compressed(
    file.with_suffix(".npz"),
    class_logits=np.einsum("nk,snc->skc", classes, logits)
    / classes.sum(0)[:, None],
    embedding=np.asarray(embedding[0, :SHOWN], np.float32),
  )
  save_variables(students_folder(job, file), cell.state.student)
  shutil.rmtree(folder, ignore_errors=True)
  write_json(
    file,
    result
    | {
      "history": history,
      "test": to_lists(scores["test"]),
      "costs": cell.costs(history)
      | {"seconds": round(time.perf_counter() - begin, 2)},
    },
  )


class Training:
  """The training of all seeds by one lesson, round by round."""

  def __init__(
    self,
    job: Job,
    stage: str,
    name: str,
    lesson: Lesson,
    keys: Any,
    variables: Any,
    data: Any,
    data_axis: int | None,
    *,
    epochs: int | None = None,
  ):
    config = job.config
    self.job, self.name, self.stage, self.lesson = job, name, stage, lesson
    self.keys, self.data, self.seeds = keys, data, len(keys)
    # A stage before the main one is a single round.
    self.epochs = config.evaluate_every if epochs is None else epochs
    if lesson.epochs % self.epochs:
      self.epochs = lesson.epochs
    # Vmapping one student would only make its convolutions slower.
    self.chunk_size = None if config.together and self.seeds > 1 else 1
    program = build(
      lesson,
      data,
      data_axis,
      job.data.classes,
      epochs=self.epochs,
      chunk_size=self.chunk_size,
    )
    self.guide = lesson.teacher.variables if lesson.teacher else {}
    self.state = program.start(keys, variables, self.guide)
    self.advance = compiled(
      program.advance, self.state, self.guide, data, keys, jnp.int32(0)
    )
    self.cosine = program.cosine
    self.steps = program.steps
    self.evaluation = None

  def finish(
    self, folder: pathlib.Path | None, targets: Any, scratch: Any = None
  ) -> list[dict[str, Any]]:
    """Trains to the end, from the last checkpoint on if there is one.

    Args:
      folder: of the checkpoints; None keeps none and evaluates nothing.
      targets: the pair's teacher's answers; None for a teacher.
      scratch: what was seen of the students from scratch, or None.

    Returns:
      What was seen in each round.
    """
    job, every = self.job, self.epochs
    rounds, first, history = self.lesson.epochs // every, 0, []
    if folder and folder.exists():
      first, self.state, history = restore(folder, self.state) or (
        0,
        self.state,
        [],
      )
    stage = f"{self.stage} {self.name}"
    job.rewind(stage, first * every)
    if first:
      job.progress(first * every * self.steps * self.seeds, stage)
    saved = time.monotonic()
    for number in range(first, rounds):
      begin = time.perf_counter()
      self.state, losses = self.advance.call(
        self.state, self.guide, self.data, self.keys, jnp.int32(number * every)
      )
      losses = jax.device_get(losses)
      seen: dict[str, Any] = {
        "seconds": time.perf_counter() - begin,
        "losses": losses,
      }
      note = stage
      if folder:
        seen |= self.look(targets)
        part = "validation" if "validation" in seen else "test"
        note += f", {part} {np.mean(seen[part]['accuracy']):.1%}"
        if scratch:
          alone = np.array(scratch[number][part]["accuracy"])
          seen["gain_over_scratch"] = seen[part]["accuracy"] - alone
      seen = to_lists(seen)
      history.append(seen)
      job.log(stage=stage, step=(number + 1) * every, **seen)
      job.progress(every * self.steps * self.seeds, note)
      late = time.monotonic() - saved > job.config.checkpoint_seconds
      if folder and late and number + 1 < rounds:
        save(folder, number + 1, self.state, history)
        saved = time.monotonic()
    return history

  def look(self, targets: Any) -> dict[str, Any]:
    """Tries the students; compares the two gradients on one batch."""
    seen = self.evaluate(targets)[0]
    if self.cosine:
      arguments = self.state, self.guide, self.data, self.keys
      seen["gradient_cosine"] = self.cosine(*arguments)
    return jax.device_get(seen)

  def evaluate(self, targets: Any) -> Any:
    """Scores, logits and embeddings of all seeds on held-out images."""
    job, lesson, state = self.job, self.lesson, self.state
    held_out, answers = job.data.held_out, bool(lesson.objective.predict)

    def make() -> Any:
      return make_evaluation(lesson, job.data.parts, chunk_size=self.chunk_size)

    if self.evaluation is None:
      # Students that answer for themselves are all tried by one program.
      name = ("evaluation", self.stage, lesson.name)
      self.evaluation = make() if answers else job.once(name, make)
    own = state.params["objective"], state.state["objective"]
    return self.evaluation(
      state.student,
      own if answers else {},
      self.guide if answers else {},
      held_out,
      targets,
    )

  def costs(self, history: list[dict[str, Any]]) -> dict[str, Any]:
    """The time and the memory of a step of one student."""
    seconds = statistics.median(seen["seconds"] for seen in history)
    steps = self.epochs * self.steps * self.seeds
    return {
      "step_ms": 1e3 * seconds / steps,
      "bytes": self.advance.bytes // (self.chunk_size or self.seeds),
      "objective_parameters": count_parameters(
        self.state.params["objective"], self.seeds
      ),
      "student_parameters": count_parameters(
        self.state.params["student"], self.seeds
      ),
      "compile_seconds": round(self.advance.seconds, 2),
    }


def seed_keys(config: Any) -> tuple[Any, Any]:
  """Each seed's keys: of its initial weights, and of its training."""
  root = jax.random.fold_in(jax.random.key(config.seed), 1)
  keys = jax.vmap(lambda i: jax.random.split(jax.random.fold_in(root, i)))(
    jnp.arange(config.seeds)
  )
  return keys[:, 0], keys[:, 1]


def train_teacher(job: Job, name: str, guide: Teacher | None = None) -> Teacher:
  """Trains a teacher, or an assistant by plain KD, unless it is saved.

  Args:
    job: the run.
    name: of the network, or network_from_teacher for an assistant.
    guide: the assistant's teacher.

  Returns:
    The frozen network.
  """
  config, data = job.config, job.data
  known = name.split("_from_")[0]
  network = job.network(known, teacher=True)
  # The same teacher whatever else is in the grid.
  key = jax.random.fold_in(
    jax.random.key(config.seed), zlib.crc32(name.encode())
  )
  init_key, key = jax.random.split(key)
  variables = jax.jit(jax.vmap(network.init))(init_key[None])
  folder = job.run.path / "teachers" / name
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
    cell = Training(
      job, "teacher", name, lesson, key[None], variables, data.train, None
    )
    checkpoints = job.run.path / "checkpoints" / "teachers" / name
    cell.finish(checkpoints, None)
    variables = cell.state.student
    save_variables(folder, variables)
    shutil.rmtree(checkpoints, ignore_errors=True)
  variables = load_variables(folder, variables)
  return Teacher(network.forward, jax.tree.map(lambda x: x[0], variables))


def scratch_students(job: Job, teacher: str, student: str) -> Teacher:
  """The students from scratch as teachers, each of its own seed."""
  run_cell(job, teacher, student, "scratch")
  file = cell_file(job, teacher, student, "scratch")
  network = job.network(student, teacher=False)
  init_keys, _ = seed_keys(job.config)
  template = jax.eval_shape(jax.vmap(network.init), init_keys)
  variables = load_variables(students_folder(job, file), template)
  return Teacher(network.forward, variables, 0)


def pair_teacher(job: Job, name: str) -> Teacher:
  """The teacher of that name, trained or loaded when first asked for."""
  return job.once(("teacher", name), lambda: train_teacher(job, name))


def teacher_targets(job: Job, name: str) -> Any:
  """A teacher's logits and embeddings of held-out images."""
  teacher = pair_teacher(job, name)

  @jax.jit
  def answers(variables: Any, images: Any) -> Any:
    return predict(teacher.forward, variables, images)

  return job.once(
    ("targets", name),
    lambda: answers(teacher.variables, job.data.held_out["image"]),
  )
