"""Distils a language model of six layers into students of two.

A teacher is trained on documents. Students of each method then read as many
tokens, in the same windows: with the next token alone, with the teacher's
probabilities for all tokens or for some, or text that the teacher or the
student itself has written. Held-out documents give bits per character, and the
teacher judges texts that the students write. Learning rates, if there are
several, are chosen on validation documents.

  python -m experiments.distill_lm
  python -m experiments.distill_lm --tokens bpe --text 'plays/*.txt'

With local folders of transformers, the student's weights are those it starts
with, and the distilled ones are written to the run folder, `students/METHOD`:

  python -m experiments.distill_lm --teacher FOLDER --student FOLDER \
    --text FILE --methods forward_kl --workdir runs/own
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from experiments.distill_lm import networks, training
from experiments.distill_lm.data import Data, load_data
from experiments.distill_lm.methods import BASELINE, METHODS, USUAL, describe
from experiments.distill_lm.report import write
from experiments.frame import commands, folders

# Values of flags that are not given: of small models, and of a user's own.
SMALL = {"methods": USUAL, "seeds": 5, "learning_rates": (3e-3,)}
OWN = {"methods": ("forward_kl",), "seeds": 1, "learning_rates": (1e-4,)}


@dataclass(frozen=True)
class Config(commands.Flags):
  """Compares ways to distil a language model into a smaller one."""

  workdir: str = "runs/distill_lm"
  # a text file, a folder of .txt files, or a pattern such as 'folder/*.txt'
  text: Annotated[
    str | None, commands.optional("the documentation in Python", "FILE")
  ] = None
  tokens: Literal["character", "bpe"] = "character"  # what a token is
  vocabulary: int = 512  # the number of tokens of bpe
  # a teacher of your own: a folder of transformers, with its tokenizer
  teacher: Annotated[
    str | None, commands.optional("a model trained here", "FOLDER")
  ] = None
  # the student of your own, of the same tokenizer; it starts with its weights
  student: Annotated[
    str | None, commands.optional("random weights", "FOLDER")
  ] = None
  # the methods that are compared with cross-entropy alone; help: print them. A
  # run may be resumed with other methods
  methods: Annotated[
    tuple[str, ...] | None,
    commands.optional(
      "the first fifteen; of own models forward_kl", "NAME ..."
    ),
  ] = None
  # students of each method
  seeds: Annotated[int | None, commands.optional("5, of own models 1")] = None
  steps: int = 200  # updates of each student
  teacher_steps: int = 1000  # updates of the teacher
  evaluate_every: int = 50  # steps from one evaluation to the next
  batch_size: commands.Count = 16  # the number of windows in a batch
  length: int = 64  # tokens of a window
  # its first tokens, after which a model writes the others
  prompt: commands.Count = 8
  width: commands.Count = 64  # units of a hidden state
  heads: commands.Count = 4  # attention heads
  teacher_depth: commands.Count = 6  # layers of the teacher
  student_depth: commands.Count = 2  # layers of each student
  # Adam's, which decay by a cosine; validation documents choose among several
  learning_rates: Annotated[
    tuple[float, ...] | None,
    commands.optional("3e-3, of own models 1e-4", "FLOAT ..."),
  ] = None
  teacher_learning_rate: commands.Rate = 3e-3  # the same of the teacher
  # tokens that a sparse teacher tells of each position; speculative KD keeps a
  # proposal that is one of so many, of which its authors have 25
  known: commands.Count = 8
  # texts that the teacher writes for seqkd
  teacher_texts: commands.Count = 2000
  # the lambda of on_policy: the share of its steps that read own text, spread
  # evenly
  own_share: float = 0.5
  samples: commands.Count = 64  # texts of each student that the teacher judges
  windows: commands.Count = 300  # the most windows of held-out documents


def check(config: Config) -> None:
  """Raises ValueError for invalid flags."""
  commands.check(config)
  commands.expect_positive(config, "seeds", "learning_rates")
  commands.expect_multiple(config, "steps", "evaluate_every")
  commands.expect_multiple(config, "teacher_steps", "evaluate_every")
  commands.expect_multiple(config, "width", "heads")
  even = config.width // config.heads % 2 == 0
  commands.expect(config, "width", even, "an even number of units a head")
  met = config.student_depth <= config.teacher_depth
  commands.expect(config, "student_depth", met, "at most teacher_depth")
  commands.expect(
    config, "length", config.length > config.prompt + 1, "more than prompt + 1"
  )
  met = config.vocabulary > 256
  commands.expect(config, "vocabulary", met, "more than 256, the bytes")
  met = 0 <= config.own_share <= 1
  commands.expect(config, "own_share", met, "a number from 0 to 1")
  commands.expect_some(config, "methods", METHODS)
  if (config.teacher is None) != (config.student is None):
    raise ValueError(
      f"teacher is {config.teacher!r} and student {config.student!r}; expected "
      "the folders of both, or of none."
    )


class Job(NamedTuple):
  """The inputs of every part of the run."""

  config: Config
  run: folders.RunFolder
  console: Console
  data: Data
  teacher: networks.Language
  student: networks.Language
  score: dict[networks.Language, Any]  # model -> nats a token of windows

  @property
  def methods(self) -> tuple[str, ...]:
    """All methods, cross-entropy alone first."""
    return tuple(dict.fromkeys((BASELINE, *(self.config.methods or ()))))

  @property
  def vocabulary(self) -> int:
    """The number of tokens."""
    return self.data.tokenizer.size


class Row(NamedTuple):
  """The results of a method, or of the teacher; `[seeds]` each."""

  bits: np.ndarray  # per character of test documents
  perplexity: np.ndarray  # a token of test documents
  samples: np.ndarray  # perplexity of its texts under the teacher
  curve: np.ndarray  # validation bits per character, `[rounds, seeds]`
  times: np.ndarray  # seconds of training until then, `[rounds]`
  milliseconds: float  # a step of one student
  rate: float


def prepare(config: Config) -> Job:
  """Checks the flags, reads texts and folders; makes the run folder last."""
  usual = OWN if config.teacher else SMALL
  missing: dict[str, Any] = {
    k: value for k, value in usual.items() if getattr(config, k) is None
  }
  config = dataclasses.replace(config, **missing)
  check(config)
  data = load_data(config)
  teacher, student = networks.make(config, data.tokenizer)
  scores = {model: training.make_score(model) for model in (teacher, student)}
  run = folders.RunFolder(config, free=("methods",))
  return Job(config, run, commands.console(), data, teacher, student, scores)


def execute(job: Job) -> dict[str, Row]:
  """Trains, examines and writes the report; returns a row a method."""
  config, tokenizer = job.config, job.data.tokenizer
  if tokenizer.save:
    tokenizer.save(job.run.path)
  teacher = training.train_teacher(job)
  written, seconds = jnp.zeros((0, config.length), jnp.int32), 0.0
  if any(METHODS[name].text in ("teacher", "pair") for name in job.methods):
    written, seconds = training.write_as_teacher(job, teacher)
  source = training.Source(job.data.train, written)
  trained = training.train_students(job, teacher, source)
  rows, texts = examine(job, teacher, trained)
  one = jax.tree.map(lambda x: x[:1], {k: x.params for k, x in trained.items()})
  folder = job.run.path
  if not config.teacher:
    networks.save(job.teacher, teacher, folder / "teachers/teacher", tokenizer)
  for name, params in one.items():
    first = jax.tree.map(lambda x: x[0], params)
    networks.save(job.student, first, folder / "students" / name, tokenizer)
  write(job, rows, texts, seconds)
  return rows


def examine(
  job: Job, teacher: Any, trained: dict[str, training.Trained]
) -> tuple[dict[str, Row], dict[str, str]]:
  """Looks at test documents, for the first time, and at texts of all models."""
  data, config = job.data, job.config
  prompts = data.test[: config.samples]
  read = training.make_reading(job)
  many = {name: x.params for name, x in trained.items()}
  many["teacher"] = jax.tree.map(lambda x: jnp.asarray(x)[None], teacher)
  sample = {
    model: training.make_samples(job, model)
    for model in (job.student, job.teacher)
  }
  rows, texts, paces = {}, {}, training.paces(job, trained)
  for name, params in many.items():
    model = job.teacher if name == "teacher" else job.student
    nats = np.asarray(job.score[model](params, data.test))
    samples = sample[model](params, prompts)
    texts[name] = data.tokenizer.decode(np.asarray(samples)[0, 0].tolist())
    x, pace = trained.get(name), paces.get(name, math.nan)
    rows[name] = Row(
      nats / math.log(2) / data.characters,
      np.exp(nats),
      np.exp(np.asarray(read(teacher, samples))),
      x.validation if x else np.zeros((0, 1)),
      pace * config.evaluate_every * np.arange(1, 1 + len(x.seconds))
      if x
      else np.zeros(0),
      1000 * pace,
      x.rate if x else math.nan,
    )
  texts["text"] = data.tokenizer.decode(np.asarray(prompts)[0].tolist())
  real = np.exp(np.asarray(read(teacher, prompts[None])))
  rows["text"] = rows["teacher"]._replace(samples=real)
  return rows, texts


if __name__ == "__main__":
  commands.launch(Config, prepare, execute, describe)
