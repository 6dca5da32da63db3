"""The README's and the tutorial's code runs; commands are ones that exist."""

import importlib
import pathlib
import re
import shlex
import tomllib

import pytest
import tyro

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text()


def blocks(page):
  return re.findall(r"^```(\w+)\n(.*?)^```", page, re.MULTILINE | re.DOTALL)


def programs(page):
  return [code for language, code in blocks(page) if language == "python"]


BLOCKS = blocks(README)
COMMANDS = [
  command.strip()
  for language, code in BLOCKS
  if language == "bash"
  for line in code.splitlines()
  for command in line.split("&&")
]


def test_every_block_is_a_program_or_a_command():
  assert {language for language, _ in BLOCKS} == {"python", "bash"}


def run(program, namespace, capsys):
  """Runs a program, and compares what it prints with what it shows."""
  exec(compile(program, namespace["__name__"], "exec"), namespace)
  printed = capsys.readouterr().out.splitlines()
  shown = re.findall(r"print\(.*\)  # (.*)", program)
  assert shown == printed[: len(shown)]
  return len(printed) == len(shown)


@pytest.mark.parametrize("program", programs(README))
def test_python_blocks_run(program, capsys):
  run(program, {"__name__": "readme"}, capsys)


def test_tutorial_runs(capsys):
  """Its programs go on from one another, and show all that they print."""
  namespace = {"__name__": "tutorial"}
  for program in programs(TUTORIAL):
    assert run(program, namespace, capsys)


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_exist(command):
  """Extras are declared, modules importable, and flags accepted."""
  words = shlex.split(command)
  if words[1:3] == ["-m", "venv"]:
    return
  if words[0].endswith("pip"):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = re.fullmatch(r"\.\[(.*)\]", words[-1]).group(1)
    assert set(extras.split(",")) <= set(project["optional-dependencies"])
    return
  assert words[0].endswith("python")
  assert words[1] == "-m"
  importlib.import_module(words[2])
  if words[2].startswith("experiments."):
    module = importlib.import_module(f"{words[2]}.__main__")
    tyro.cli(module.Config, args=words[3:], use_underscores=True)


def test_ci_runs_the_readme_test_command():
  script = (ROOT / ".ci" / "run").read_text()
  pattern = re.search(r"grep -m 1 '(.*)' README.md", script).group(1)
  commands = [x for x in README.splitlines() if re.match(pattern, x)]
  assert commands == [
    'python3 -m venv .venv && .venv/bin/pip install -e ".[test]" '
    "&& .venv/bin/python -m pytest"
  ]


def test_images_exist():
  for path in re.findall(r"!\[.*?\]\((.*?)\)", README):
    assert (ROOT / path).exists(), path
