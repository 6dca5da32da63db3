"""Documents: what Python ships, or a user's files; and their sentences."""

import ast
import importlib
import pathlib
import re
import sys
import sysconfig
from collections.abc import Iterator, Sequence

# Folders of the standard library that are not part of it, or are its tests.
LEFT_OUT = {
  "idlelib",
  "lib2to3",
  "site-packages",
  "dist-packages",
  "test",
  "tests",
  "turtledemo",
}
WORDS = 5  # of a sentence, at least
PARAGRAPHS = re.compile(r"\n\s*\n|^%$", re.MULTILINE)
ENDS = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"'(])")
RULES = set("*=-^~+# ")  # the characters of a line below a title


PACKAGES = "packages"  # the place that means the installed packages


def read_documents(places: Sequence[str]) -> dict[str, str]:
  """Reads the files of folders, or without folders what Python ships.

  The place `packages` means the docstrings of all installed packages. Returns
  a text for each document.
  """
  if not places:
    return dict(_python_documents())
  documents = {}
  if PACKAGES in places:
    documents.update(_package_documents())
  for place in (pathlib.Path(x) for x in places if x != PACKAGES):
    files = [place] if place.is_file() else sorted(place.rglob("*"))
    files = [x for x in files if x.is_file() and x.suffix in (".txt", "")]
    if not files:
      raise ValueError(
        f"text: {place} has no files; expected a file, or a folder with files "
        "whose names end with .txt or have no ending, one a document."
      )
    for file in files:
      try:
        documents[str(file)] = file.read_text(encoding="utf-8")
      except UnicodeDecodeError as error:
        raise ValueError(
          f"text: {file} is not UTF-8 (byte {error.start}); convert it, or "
          "leave it out."
        ) from None
  return documents


def sentences_of(text: str) -> list[str]:
  """The sentences of a text, without titles, tables and grammars."""
  found = []
  for paragraph in PARAGRAPHS.split(text):
    lines = [line.strip() for line in paragraph.splitlines()]
    if "::=" in paragraph or any(x and set(x) <= RULES for x in lines):
      continue
    found += [
      sentence
      for sentence in ENDS.split(" ".join(lines).strip())
      if len(re.findall(r"[^\W\d_]{2,}", sentence)) >= WORDS
    ]
  return found


def _python_documents() -> Iterator[tuple[str, str]]:
  """The topics of `help()`, and the docstrings of each package."""
  topics = importlib.import_module("pydoc_data.topics").topics
  yield from ((f"topic {name}", text) for name, text in topics.items())
  yield from _module_documents(pathlib.Path(sysconfig.get_path("stdlib")))


def _package_documents() -> Iterator[tuple[str, str]]:
  """The docstrings of each installed package."""
  for root in map(pathlib.Path, sys.path):
    if root.name in ("site-packages", "dist-packages"):
      yield from _module_documents(root)


def _module_documents(root: pathlib.Path) -> Iterator[tuple[str, str]]:
  """The docstrings of each module and package in a folder."""
  packages: dict[str, list[str]] = {}
  for file in sorted(root.rglob("*.py")):
    parts = file.relative_to(root).parts
    if LEFT_OUT.isdisjoint(parts):
      name = parts[0].removesuffix(".py")
      packages.setdefault(name, []).extend(_docstrings(file))
  for name, texts in packages.items():
    if texts:
      yield f"module {name}", "\n\n".join(texts)


def _docstrings(file: pathlib.Path) -> Iterator[str]:
  kinds = ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef
  try:
    tree = ast.parse(file.read_bytes())
  except (SyntaxError, ValueError):
    return  # a template, or a file of another version of Python
  for node in ast.walk(tree):
    if isinstance(node, kinds):
      yield ast.get_docstring(node) or ""
