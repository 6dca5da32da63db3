"""Training and judging of one student: a cell, and the files it leaves."""

import pathlib
import shutil
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiments.distill_encoder import methods
from experiments.distill_encoder import scores as scoring
from experiments.frame import data as frame_data
from experiments.frame import encoders, rounds
from kdjax import data as kdata
from kdjax import nets, training

TIMED = 15  # calls whose median is the latency


class Row(NamedTuple):
  """A student of the table."""

  depth: int
  start: str  # copied or random
  method: str  # cut: without training

  @property
  def name(self) -> str:
    """The name of its files."""
    return f"{self.depth}_{self.start}_{self.method}"

  @property
  def title(self) -> str:
    """The name of its row."""
    title = methods.NAMES.get(self.method, "without training")
    return f"{layers_in_words(self.depth)}, {self.start}, {title}"


def layers_in_words(count: int) -> str:
  """Such as "3 layers"."""
  return f"{count} layer" if count == 1 else f"{count} layers"


def rows_of(config: Any) -> list[Row]:
  """The students: all methods from copied layers at the first depth.

  The first method and the one without a teacher also start from random
  weights; at the other depths there is the first method alone.
  """
  first = config.methods[0]
  rows = []
  for depth in config.depths:
    names = config.methods if depth == config.depths[0] else (first,)
    if "copied" in config.starts:
      rows += [Row(depth, "copied", name) for name in ("cut", *names)]
    if "random" in config.starts:
      both = [name for name in names if name in (first, "neighbors")]
      rows += [Row(depth, "random", name) for name in both]
  return rows


class Teacher(NamedTuple):
  """The teacher and its embeddings of all parts."""

  model: training.Model
  embeddings: dict[str, np.ndarray]


def ask_teacher(job: Any) -> Teacher:
  """Computes the teacher's embeddings once, into the cache of the run."""
  data = job.data
  network = encoders.make_network(data.teacher, data.teacher.config.depth)
  variables = training.from_nnx(data.teacher).variables
  parts = {
    name: getattr(data, name).tokens for name in ("train", "validation", "test")
  }

  def answer(variables: Any, tokens: Any) -> Any:
    return network.forward(variables, tokens, train=False, key=None)[
      0
    ].embedding

  embeddings = {}
  for name, tokens in parts.items():
    cache = kdata.write_teacher_cache(
      job.run.path / "teachers" / name,
      _Rows(tokens),
      answer,
      variables,
      dataset=f"sentences, {name}",
      inputs="tokens",
      batch_size=encoders.BATCH,
      shard_size=1000,
    )
    found = cache.lookup(np.arange(len(tokens)), 0)
    embeddings[name] = np.asarray(found["logits"])
  return Teacher(training.Model(network.forward, variables), embeddings)


class _Rows:
  """Rows of tokens as a source of examples."""

  def __init__(self, tokens: np.ndarray):
    self._tokens = tokens

  def __len__(self) -> int:
    return len(self._tokens)

  def __getitem__(self, i: int) -> dict[str, np.ndarray]:
    return {"tokens": self._tokens[i]}


class Course(NamedTuple):
  """The programs that the seeds of a method and a depth share."""

  start: Any
  frozen: Any
  advance: Any
  embed: Any


def make_course(job: Any, depth: int, method: str) -> Course:
  """Compiles nothing yet."""
  config = job.config
  network = encoders.make_network(job.data.teacher, depth)
  learner = methods.make_learner(
    method,
    network,
    job.teacher.model,
    methods.make_optimizer(config.learning_rate, config.steps),
  )
  epoch = training.scan_epoch(learner.step)
  embed = encoders.make_embed(network)

  @jax.jit
  def advance(state, frozen, data, validation, plan, key):
    state, found = epoch(state, frozen, data, plan, key)
    total, count = found["loss"]
    variables = state.student
    ours = embed(variables, validation["tokens"])
    pair = map(methods.unit, (ours, validation["teacher_embedding"]))
    cosine = jnp.mean(jnp.sum(jnp.multiply(*pair), -1))
    return state, {"loss": jnp.sum(total) / jnp.sum(count), "cosine": cosine}

  spec = frame_data.batch_spec(as_batch(job, "train"), config.batch_size)
  start = jax.jit(lambda key: learner.init(key, spec))
  return Course(start, learner.frozen, advance, embed)


def train_cell(job: Any, course: Course, row: Row, seed: int) -> dict[str, Any]:
  """Trains a student of one seed; returns the content of its file."""
  config, data = job.config, job.data
  stage = f"{row.name}_{seed}"
  key = rounds.seed_keys(config)[seed]
  init_key, plan_key, key = jax.random.split(key, 3)
  arrays = [as_batch(job, name) for name in ("train", "validation")]
  state = course.start(init_key)
  if row.start == "copied":
    student = training.from_nnx(encoders.cut(data.teacher, row.depth)).variables
    state = state._replace(params=state.params | {"student": student.params})
  plan = rounds.plan_steps(
    plan_key, len(data.train.tokens), config.batch_size, config.steps
  )

  def describe(seen):
    return seen, f"validation cosine {seen['cosine']:.3f}"

  state, seen = rounds.train(
    job,
    stage,
    course.advance,
    (course.frozen, *arrays),
    (state, plan, key),
    describe,
  )
  kept = row == Row(row.depth, "copied", config.methods[0]) and not seed
  if kept:
    folder = job.run.path / "students" / row.name
    save_student(data, state.student, row.depth, folder)
  content = {"history": {name: x.tolist() for name, x in seen.items()}}
  return content | {"test": judge(job, course.embed, state.student)}


def as_batch(job: Any, name: str) -> dict[str, Any]:
  """The arrays of a part on the device."""
  part, embedding = getattr(job.data, name), job.teacher.embeddings[name]
  return {
    "tokens": jnp.asarray(part.tokens),
    "following": jnp.asarray(part.following),
    "attention_mask": jnp.asarray(part.tokens != 0),
    "teacher_embedding": jnp.asarray(embedding),
  }


def judge(job: Any, embed: Any, variables: Any) -> dict[str, float]:
  """The scores of a network on test sentences."""
  return scoring.score(
    np.asarray(embed(variables, job.data.test.tokens)),
    job.teacher.embeddings["test"],
    job.data.test.document,
    shots=job.config.shots,
    classes=job.classes,
    seed=job.config.seed,
  )


def cost_of(encoder: nets.TextEncoder, length: int) -> dict[str, float]:
  """Parameters, bytes and the time of one sentence, on this device."""
  graph, state = nnx.split(encoder)
  leaves = jax.tree.leaves(state)

  @jax.jit
  def run(state, tokens):
    return nnx.merge(graph, state)(tokens).embedding

  tokens = jnp.ones((1, length), jnp.int32)
  seconds = []
  for _ in range(TIMED + 1):
    begin = time.perf_counter()
    jax.block_until_ready(run(state, tokens))
    seconds.append(time.perf_counter() - begin)
  return {
    "parameters": sum(x.size for x in leaves),
    "megabytes": sum(x.nbytes for x in leaves) / 1e6,
    "milliseconds": 1e3 * float(np.median(seconds[1:])),
  }


def save_student(
  data: Any, variables: Any, depth: int, folder: pathlib.Path
) -> None:
  """Writes a student with all tokens, as a folder of `transformers`."""
  student = encoders.cut(data.whole, depth)
  rest = dict(variables.params)
  every = student.tokens[...].at[data.known].set(rest.pop("tokens"))
  # The rows of the texts' tokens are trained, the others the teacher's.
  nets.copy_paste(rest, student)
  student.tokens.set_value(every)
  nets.save_pretrained(student, folder)
  for name in ("tokenizer.json", "1_Pooling/config.json"):
    if (data.folder / name).is_file():
      (folder / name).parent.mkdir(exist_ok=True)
      shutil.copyfile(data.folder / name, folder / name)
