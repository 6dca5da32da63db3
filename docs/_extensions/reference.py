"""Writes one page an area to `docs/api`, from the area's `__all__`."""

import ast
import importlib
import inspect
import pathlib
import pkgutil

import docstrings

import kdjax


def areas():
  """The names of the areas, in the order of the alphabet."""
  return sorted(
    info.name for info in pkgutil.iter_modules(kdjax.__path__) if info.ispkg
  )


def homes(module):
  """The module that defines each public name of an area."""
  tree = ast.parse(inspect.getsource(module))
  return {
    alias.asname or alias.name: node.module
    for node in tree.body
    if isinstance(node, ast.ImportFrom)
    for alias in node.names
  }


def comment(home, name):
  """The comment above a constant's definition."""
  lines = inspect.getsource(importlib.import_module(home)).splitlines()
  starts = (f"{name} =", f"{name}:")
  position = next(i for i, x in enumerate(lines) if x.startswith(starts))
  found = []
  while position and lines[position - 1].startswith("#"):
    position -= 1
    found.insert(0, lines[position].lstrip("#: "))
  return docstrings.inline("\n".join(found))


def heading(text, mark):
  """A heading."""
  return f"{text}\n{mark * len(text)}\n"


def entry(module, home, name):
  """The directive that describes a public name."""
  value = getattr(module, name)
  if inspect.isclass(value):
    return f".. autoclass:: {name}\n  :members:\n"
  if callable(value):
    return f".. autofunction:: {name}\n"
  text = comment(home, name).replace("\n", "\n  ")
  return f".. py:data:: {name}\n\n  {text}\n"


def page(area):
  """The page of an area: what it is for, its names at a glance, its names."""
  module = importlib.import_module(f"kdjax.{area}")
  home = homes(module)
  groups = {}
  for name in module.__all__:
    groups.setdefault(home[name], []).append(name)
  parts = [
    heading(f"kdjax.{area}", "="),
    f".. automodule:: kdjax.{area}\n  :no-members:\n",
    f".. currentmodule:: kdjax.{area}\n",
    ".. autosummary::\n  :nosignatures:\n",
    "".join(f"  {name}\n" for name in sorted(module.__all__)),
  ]
  for file, names in sorted(groups.items()):
    title = file.removeprefix(module.__name__).replace("_", " ")
    title = ": ".join(x.strip() for x in title.strip(".").split("."))
    parts.append(heading(title[:1].upper() + title[1:], "-"))
    parts += [entry(module, file, name) for name in names]
  return "\n".join(parts)


def index():
  """The page that lists the areas."""
  lines = [
    heading("Reference", "="),
    "Every public name, an area a page. A name is imported from its area:",
    "``from kdjax.distillation import kd_loss``.\n",
    ".. list-table::\n  :widths: auto\n",
  ]
  for area in areas():
    module = importlib.import_module(f"kdjax.{area}")
    first = " ".join(inspect.getdoc(module).partition("\n\n")[0].split())
    lines.append(f"  * - :doc:`kdjax.{area} <{area}>`")
    lines.append(f"    - {docstrings.inline(first)}")
  lines.append("\n.. toctree::\n  :hidden:\n")
  lines += [f"  {area}" for area in areas()]
  return "\n".join(lines) + "\n"


def write(folder, pages):
  """Writes what changed, and removes what is no page any more."""
  folder.mkdir(exist_ok=True)
  for path in set(folder.iterdir()) - {folder / name for name in pages}:
    path.unlink()
  for name, text in pages.items():
    path = folder / name
    if not path.exists() or path.read_text() != text:
      path.write_text(text)


def generate(app):
  """Writes the pages before Sphinx looks for them."""
  pages = {f"{area}.rst": page(area) for area in areas()}
  write(pathlib.Path(app.srcdir, "api"), pages | {"index.rst": index()})


def skip(app, what, name, value, skipped, options):
  """Leaves out a named tuple's fields, which its docstring describes."""
  del app, what, name, options
  return True if type(value).__name__ == "_tuplegetter" else skipped


def setup(app):
  """Registers the extension."""
  app.setup_extension("docstrings")
  app.connect("builder-inited", generate)
  app.connect("autodoc-skip-member", skip)
  return {"parallel_read_safe": True, "parallel_write_safe": True}
