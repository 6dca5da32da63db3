"""Writes one page an area to `docs/api`, from the area's `__all__`."""

import ast
import importlib
import inspect
import pathlib
import pkgutil
import re

import docstrings

import kdjax

ARRAY_LIKE = re.compile(r"[\w.~]*Array( \| [\w.~]+)+ \| complex\b")


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
  """The comment above a constant, or what its file says first."""
  module = importlib.import_module(home)
  lines = inspect.getsource(module).splitlines()
  starts = (f"{name} =", f"{name}:")
  found = []
  for line in lines:
    if line.startswith(starts):
      break
    found = [*found, line.lstrip("# :")] if line.startswith("#") else []
  text = "\n".join(found) or inspect.getdoc(module).partition("\n\n")[0]
  return docstrings.inline(text)


def heading(text, mark):
  """A heading."""
  return f"{text}\n{mark * len(text)}\n"


def is_of_other_area(module, value):
  """Whether another area has this very name too, and is its home."""
  package, area, *_ = value.__module__.split(".")
  owner = importlib.import_module(f"{package}.{area}")
  return owner is not module and value.__name__ in owner.__all__


def entry(module, home, name):
  """The directive that describes a public name."""
  value = getattr(module, name)
  if inspect.isclass(value):
    again = "  :no-index:\n" if is_of_other_area(module, value) else ""
    return f".. autoclass:: {name}\n  :members:\n{again}"
  if callable(value):
    return f".. autofunction:: {name}\n"
  text = comment(home, name).replace("\n", "\n  ")
  return f".. py:data:: {name}\n\n  {text}\n"


def by_room(module, home):
  """The public names of an area by sub-room; those of no sub-room first."""
  groups = {}
  for name in sorted(module.__all__):
    _, inside, path = home[name].partition(f"{module.__name__}.")
    room = path.split(".")[0]
    group = room if inside and not room.startswith("_") else ""
    groups.setdefault(group, []).append(name)
  return dict(sorted(groups.items()))


def page(area):
  """The page of an area: what it is for, its names at a glance, its names."""
  module = importlib.import_module(f"kdjax.{area}")
  home = homes(module)
  parts = [
    heading(f"kdjax.{area}", "="),
    f".. automodule:: kdjax.{area}\n  :no-members:\n",
    f".. currentmodule:: kdjax.{area}\n",
  ]
  for group, names in by_room(module, home).items():
    if group:
      room = importlib.import_module(f"kdjax.{area}.{group}")
      title = group.replace("_", " ")
      parts.append(heading(title[:1].upper() + title[1:], "-"))
      parts += [docstrings.inline(inspect.getdoc(room) or ""), ""]
    parts.append(".. autosummary::\n  :nosignatures:\n")
    parts.append("".join(f"  {name}\n" for name in names))
    parts += [entry(module, home[name], name) for name in names]
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
  """Writes the changed pages, and removes files that are no pages."""
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


def name_unions(app, what, name, value, options, signature, returns):
  """Gives the union that `jax.typing.ArrayLike` is its name again."""
  del app, what, name, value, options
  if signature:
    return ARRAY_LIKE.sub("ArrayLike", signature), returns
  return None


def setup(app):
  """Registers the extension."""
  app.setup_extension("docstrings")
  app.connect("builder-inited", generate)
  app.connect("autodoc-process-signature", name_unions)
  app.connect("autodoc-skip-member", skip)
  return {"parallel_read_safe": True, "parallel_write_safe": True}
