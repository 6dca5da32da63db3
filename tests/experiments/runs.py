"""Reduced runs of an experiment, for the tests of its module."""

import dataclasses

import pytest


def of(main, smallest):
  """Returns how to run an experiment, and its smallest flags with changes."""

  def run(config):
    return main.execute(main.prepare(config))

  def small(workdir, **changes):
    return dataclasses.replace(smallest, workdir=str(workdir), **changes)

  return run, small


def reference(run, small):
  """A fixture: the folder and the results of one run, which a module shares."""

  @pytest.fixture(scope="module")
  def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reference") / "made" / "if_missing"
    return folder, run(small(folder))

  return made


def lines_of(folder):
  """The lines of metrics.jsonl."""
  return (folder / "metrics.jsonl").read_text().splitlines()
