"""Flags, mistakes, stops and the list of experiments."""

import dataclasses
import importlib
import os
import pathlib
import re
import signal
import subprocess
import sys

import jax
import pytest

from experiments import __main__ as experiments
from experiments.frame import commands

ROOT = pathlib.Path(__file__).parents[3]


@dataclasses.dataclass(frozen=True)
class Config(commands.Flags):
  """Flags of a test."""

  rates: tuple[float, ...] = (0.5,)
  methods: tuple[str, ...] = ()


class OtherConfig(Config):
  """Flags of another experiment."""


@pytest.mark.parametrize("error", [ValueError, FileExistsError, OSError])
def test_a_mistake_of_the_users_is_one_line_and_status_2(error, capsys):
  def prepare(config):
    raise error(f"{config} is wrong.\nFix it:\n  so")

  with pytest.raises(SystemExit) as end:
    commands.set_up(prepare, "seeds")
  assert end.value.code == 2
  assert capsys.readouterr().err == "error: seeds is wrong. Fix it: so\n"


def test_a_bug_keeps_its_traceback():
  with pytest.raises(ZeroDivisionError):
    commands.set_up(lambda config: 1 // config, 0)


def test_an_empty_choice_is_refused_with_the_list():
  config = Config("x", methods=())
  message = r"methods is \(\); expected all, or one or more .* of kd, at\."
  with pytest.raises(ValueError, match=message):
    commands.expect_some(config, "methods", ["kd", "at"], also="all, or ")
  config = Config("x", methods=("kd", "kd"))
  with pytest.raises(ValueError, match="different ones"):
    commands.expect_some(config, "methods", ["kd", "at"])


SCRIPT = """
import dataclasses, os, signal, sys, threading, time
from experiments.frame import commands
@dataclasses.dataclass(frozen=True)
class Config(commands.Flags):
  '''Flags.'''
  methods: tuple[str, ...] = ()
def execute(job):
  os.kill(os.getpid(), signal.{name})
  time.sleep(30)
sys.argv = ["x", *{arguments}]
commands.launch(
  Config, lambda x: x, execute, lambda: {{"kd": ("logits", "KD")}}
)
"""


def launch(name, *arguments, script=SCRIPT):
  return subprocess.run(
    [sys.executable, "-c", script.format(name=name, arguments=arguments)],
    cwd=ROOT,
    env=os.environ | {"PYTHONPATH": str(ROOT)},
    capture_output=True,
    text=True,
    timeout=100,
  )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_stop_is_one_line_that_says_how_to_go_on(name):
  done = launch(name, "--workdir", "runs/mine")
  assert done.returncode == 128 + getattr(signal, name)
  assert done.stderr.strip().splitlines() == [
    "stopped. Go on with: python -m experiments --workdir runs/mine --resume"
  ]


@pytest.mark.slow
def test_a_stop_does_not_wait_for_a_compilation():
  """Nor for any call in which Python handles no signal."""
  # The second lock of a mutex waits for ever.
  lock = "ctypes.CDLL(None).pthread_mutex_lock(mutex)"
  wait = f"mutex = ctypes.create_string_buffer(64); {lock}; {lock}"
  kill = "os.kill(os.getpid(), signal.SIGINT)"
  timer = f"threading.Timer(1, lambda: {kill}).start()"
  script = SCRIPT.replace("time.sleep(30)", wait)
  script = script.replace("os.kill(os.getpid(), signal.{name})", timer)
  done = launch("SIGINT", script=script.replace("sys,", "sys, ctypes,"))
  assert done.returncode == 130
  assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.slow
def test_methods_help_lists_the_methods():
  done = launch("SIGINT", "--methods", "help")
  assert done.returncode == 0
  assert done.stdout.split() == [
    *("method", "area", "description"),
    done.stdout.split()[3],  # the rule
    *("kd", "logits", "KD"),
  ]


@pytest.mark.parametrize("name", experiments.summaries())
def test_every_flag_is_explained(name, monkeypatch, capsys):
  module = importlib.import_module(f"experiments.{name}.__main__")
  monkeypatch.setattr(sys, "argv", [name, "--help"])
  with pytest.raises(SystemExit):
    commands.parse(module.Config)
  text = capsys.readouterr().out
  assert "usage: python -m " in text
  helps = dict(re.findall(r"\W+--(\w+)(.*?)(?=\n\W*--|\Z)", text, re.DOTALL))
  for field in dataclasses.fields(module.Config):
    # More than the kind of the value and the default.
    words = re.sub(r"\(default:.*?\)", "", helps[field.name], flags=re.DOTALL)
    assert len(re.findall("[a-z]+", words)) > 1, field.name
  # A flag without a value has its default in words.
  nones = text.count("(default: None)")
  assert nones == (name == "distill")  # no missing digit


def test_the_experiments_are_listed_with_a_line_each():
  lines = experiments.summaries()
  assert list(lines) == [
    "adapt",
    "collaborate",
    "compare",
    "continual",
    "cross_modal",
    "cross_task",
    "diffuse",
    "distill",
    "distill_audio",
    "distill_encoder",
    "distill_lm",
    "federate",
    "finetune",
    "finetune_encoder",
    "generalize",
    "gradual",
    "progressive",
    "shifts",
  ]
  assert all(line.endswith(".") for line in lines.values())


def test_use_devices_says_how_many_there_are():
  assert commands.use_devices(2) == tuple(jax.devices()[:2])
  with pytest.raises(ValueError, match=r"devices is 99; expected 1 to \d"):
    commands.use_devices(99)


def test_convolutions_are_swept_one_by_one_on_a_cpu():
  assert commands.students_at_a_time("mlp") is None
  assert commands.students_at_a_time("convnet") == 1
