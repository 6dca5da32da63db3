"""Each experiment, cut off once and resumed, ends as if it had not been.

SIGKILL leaves the run folder as it is at that moment. A copy of the folder,
made while all threads of the run are stopped, is the same, and the run itself
can go on to the expected result. Other files here kill runs of `distill`.
"""

import json
import os
import random
import shutil
import signal
import time

import pytest

from tests.faults import children

pytestmark = pytest.mark.faults
# Runs of some seconds after the imports. `distill` has a file of its own.
FLAGS = {
  "adapt": "--shift rotate --hidden 12 8 --discriminator 6 --methods jda"
  " --weights 0.1 1 --seeds 2 --steps 40 --evaluate_every 4 --batch_size 32",
  "collaborate": "--examples_per_class 2 --methods mutual --peers 2 --hidden 6"
  " --seeds 2 --steps 40 --evaluate_every 2 --stale_steps 2 --batch_size 8",
  "compare": "--methods kd --pairs mlp:mlp --seeds 2 --workers 1"
  " --examples_per_class 2 --epochs 40 --teacher_epochs 10 --evaluate_every 2"
  " --shift 0 --checkpoint_seconds 0",
  "continual": "--methods er --buffers 30 --epochs 1 --hidden 8 --seeds 2",
  "cross_modal": "--tasks halves --methods unlabeled_pairs"
  " --examples_per_class 2 --hidden 6 --teacher_hidden 8 --seeds 2 --steps 40"
  " --evaluate_every 2 --batch_size 8",
  "cross_task": "--methods refilled --hidden 6 --seeds 2 --steps 20"
  " --evaluate_every 4",
  "federate": "--examples 90 --methods fedmd --clients 3 --concentrations 1"
  " --min_examples 5 --public_examples 20 --dying_clients 1 --rounds 8"
  " --save_every 1 --local_epochs 1 --hidden 6 --seeds 2",
  "distill_audio": "--real none --tasks words --examples 16"
  " --word_methods dann --words 16 --validation_words 8 --test_words 8"
  " --word_width 0.25 --word_steps 20 --discriminator 4 --seeds 2"
  " --evaluate_every 2 --batch_size 4",
  "distill_lm": "--methods forward_kl --seeds 2 --steps 20 --teacher_steps 20"
  " --evaluate_every 2 --batch_size 4 --length 12 --prompt 3 --width 8"
  " --heads 2 --teacher_depth 2 --student_depth 1 --teacher_texts 6"
  " --samples 4 --windows 20",
  "finetune": "--shots 2 --hidden 6 --methods l2_sp --teachers untrained"
  " --rates 0.01 --seeds 2 --pretrain_steps 4 --steps 40 --evaluate_every 2"
  " --batch_size 16 --tasks 2",
  "finetune_encoder": "--encoder tiny --classes 2 --shots 2 --examples 4"
  " --validation_examples 4 --test_examples 6 --source_examples 6 --seeds 2"
  " --methods reptile --teachers random --rates 0.01 --steps 2 --batch_size 4"
  " --meta_steps 4 --evaluate_every 1 --probe_steps 5 --max_length 6",
  "generalize": "--examples 180 --hidden 8 --methods irm --seeds 2 --trials 2"
  " --steps 4 --evaluate_every 2 --batch_size 8",
  "gradual": "--source_examples 60 --source_epochs 2 --blocks 2"
  " --block_examples 40 --epochs 1 --validation_examples 50 --channels 4"
  " --seeds 2",
  "diffuse": "--teacher_steps 2 --width 8 --seeds 2 --steps 24 --phase_steps 24"
  " --evaluate_every 4 --classifier_steps 24 --batch_size 16 --samples 20",
  "progressive": "--teacher 8 --assistants 6 --students 3 --methods takd rco"
  " --anchors 2 --seeds 2 --steps 24 --evaluate_every 4",
  "shifts": "--shifts target concept --methods bbse linear_ot --seeds 2"
  " --size 20 --test_size 20",
}
# Their reports have the time of a step.
TIMED = {"compare", "distill_audio", "distill_lm"}


def arguments(name, folder, *flags):
  module = f"experiments.{name}"
  return ("-m", module, *FLAGS[name].split(), "--workdir", folder, *flags)


def rows(folder):
  """Cells that run side by side write their rows in any order, or none."""
  if not (folder / "metrics.jsonl").exists():
    return []
  return sorted(
    json.dumps(row, sort_keys=True) for row in children.rows(folder)
  )


def report(folder):
  """Without the command and its time."""
  return (folder / "report.md").read_text().partition("## Reproduction")[0]


def has_results(folder):
  metrics = folder / "metrics.jsonl"
  rows = metrics.exists() and metrics.stat().st_size
  return rows or any(folder.glob("cells/**/*.json"))


def copy_stopped(process, folder, copy):
  """Copies the folder while the process does nothing, then lets it go on."""
  process.send_signal(signal.SIGSTOP)
  seen = os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
  assert seen.si_code == os.CLD_STOPPED, "the run ended before it was stopped"
  try:
    shutil.copytree(folder, copy)
  finally:
    process.send_signal(signal.SIGCONT)


@pytest.mark.parametrize("name", FLAGS)
def test_a_kill_at_a_random_moment_changes_nothing(name, tmp_path):
  whole, killed = tmp_path / "whole", tmp_path / "killed"
  process = children.start(*arguments(name, whole))
  children.wait_for(lambda: has_results(whole), process)
  time.sleep(random.Random(name).uniform(0.0, 1.0))
  copy_stopped(process, whole, killed)
  assert not (killed / "report.md").exists()
  children.end(process)
  children.run(*arguments(name, killed, "--resume"))
  assert rows(killed) == rows(whole)
  if name not in TIMED:
    assert report(killed) == report(whole)
