"""README.md and docs/: programs run and print what they show, links lead on.

A page's programs run in one namespace, in their order; those of README.md each
alone. The comment after a `print`, on its line or on the lines below, is what
it prints; after the word "about", numbers may differ by a tenth, or by 0.03,
from one machine to another.
"""

import ast
import importlib
import itertools
import pathlib
import re
import shlex
import tomllib

import pytest
import tyro

ROOT = pathlib.Path(__file__).parent.parent
PAGES = {
  path.relative_to(ROOT).as_posix(): path.read_text()
  for path in [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
  ]
}
README = PAGES["README.md"]
GENERATED = ("api/",)
# Its programs need packages, and have a test of their own.
ELSEWHERE = "docs/other_programs.md"
# Pages whose programs train.
LONG = {
  f"docs/{name}.md"
  for name in (
    "tutorial",
    "devices",
    "diagnostics",
    "fused",
    "language",
    "continual",
    "collaboration",
    "federated",
    "cross_modal",
    "generation",
  )
}
NUMBER = re.compile(r"-?\d+(?:\.\d*)?(?:e[-+]\d+)?")


def blocks(text):
  return re.findall(r"^```(\w+)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def programs():
  """The programs to run in one namespace, by page."""
  for page, text in PAGES.items():
    if page == ELSEWHERE:
      continue
    codes = [code for language, code in blocks(text) if language == "python"]
    if page == "README.md":
      for number, code in enumerate(codes, 1):
        marks = [] if number == 1 else [pytest.mark.slow]
        yield pytest.param([code], id=f"{page}-{number}", marks=marks)
    elif codes:
      long = page in LONG
      marks = [pytest.mark.slow] if long else []
      yield pytest.param(codes, id=page, marks=marks)


def commands(page):
  """The commands of a page, one by one."""
  for language, code in blocks(PAGES[page]):
    if language == "bash":
      for line in code.replace("\\\n", " ").splitlines():
        yield from (command.strip() for command in line.split("&&"))


def agrees(shown, printed):
  """Whether a line is printed as it is shown."""
  if not shown.startswith("about "):
    return shown == printed
  shown = shown.removeprefix("about ")
  if NUMBER.sub("", shown).split() != NUMBER.sub("", printed).split():
    return False
  pairs = zip(NUMBER.findall(shown), NUMBER.findall(printed), strict=True)
  return all(
    float(y) == pytest.approx(float(x), rel=0.1, abs=0.03) for x, y in pairs
  )


def printing(tree):
  """The calls of `print` that a program makes outside its functions."""
  for node in ast.iter_child_nodes(tree):
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
      continue
    name = getattr(getattr(node, "func", None), "id", "")
    if isinstance(node, ast.Call) and name == "print":
      yield node
    yield from printing(node)


def shown_by(code):
  """The lines that a program says it prints, in their order."""
  lines = code.splitlines()
  shown = []
  for call in printing(ast.parse(code)):
    rest = lines[call.end_lineno - 1 :]
    rest[0] = rest[0].encode()[call.end_col_offset :].decode().lstrip()
    below = rest if rest[0] else rest[1:]
    found = list(itertools.takewhile(lambda x: x.startswith("# "), below))
    assert found, f"a print without what it prints: {lines[call.lineno - 1]}"
    shown += [line.removeprefix("# ") for line in found]
  return shown


@pytest.mark.parametrize("codes", list(programs()))
def test_programs_print_what_they_show(codes, capsys):
  namespace = {"__name__": "page"}
  for code in codes:
    exec(compile(code, "page", "exec"), namespace)
    printed = capsys.readouterr().out.splitlines()
    shown = shown_by(code)
    assert len(shown) == len(printed)
    for expected, line in zip(shown, printed, strict=True):
      assert agrees(expected, line), f"shown: {expected}; printed: {line}"


def test_every_block_is_a_program_or_a_command():
  languages = {x for text in PAGES.values() for x, _ in blocks(text)}
  assert languages == {"python", "bash"}


@pytest.mark.parametrize(
  "command", sorted({x for page in PAGES for x in commands(page)})
)
def test_commands_exist(command):
  """Extras are declared, modules importable, and flags accepted."""
  words = shlex.split(command)
  if words[1:3] == ["-m", "venv"] or words[0] in {"git", "bash", "tar"}:
    return
  program = pathlib.Path(words[0]).name
  if program == "pip" and words[1] == "download":
    assert "://" not in command, "a registry's host is a user's choice"
    return
  if program == "pip":
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = re.fullmatch(r"\.\[(.*)\]", words[-1]).group(1)
    assert set(extras.split(",")) <= set(project["optional-dependencies"])
    return
  if program in {"ruff", "pyrefly"}:
    return
  assert program == "python"
  assert words[1] == "-m"
  if words[2] == "sphinx":  # of the extra docs, which CI installs
    return
  if words[2].startswith("experiments."):
    module = importlib.import_module(f"{words[2]}.__main__")
    tyro.cli(module.Config, args=words[3:], use_underscores=True)
  else:
    importlib.import_module(words[2])


def test_ci_runs_the_readme_test_command():
  script = (ROOT / ".ci" / "run").read_text()
  pattern = re.search(r"grep -m 1 '(.*)' README.md", script).group(1)
  found = [x for x in README.splitlines() if re.match(pattern, x)]
  assert found == [
    'python3 -m venv .venv && .venv/bin/pip install -e ".[test]" '
    "&& .venv/bin/python -m pytest"
  ]


@pytest.mark.parametrize("page", sorted(PAGES))
def test_links_lead_to_files(page):
  """Relative links and images exist, but for pages that Sphinx makes."""
  folder = (ROOT / page).parent
  for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", PAGES[page]):
    assert (folder / link).exists() or link.startswith(GENERATED), link
