"""The house rules that a person would otherwise have to remember."""

import ast
import importlib
import inspect
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
LOSS_AREAS = {
  "adaptation",
  "collaboration",
  "continual",
  "cross_modal",
  "distillation",
  "federated",
  "finetuning",
  "generalization",
  "generation",
  "language",
  "reweighting",
  "selection",
  "transforms",
}
# What each area may import: other areas of kdjax, then other packages. Names
# in the last set are imported where they are used, not with the module.
LOSSES_MAY = {"jax", "jaxtyping", "numpy"}
MAY_IMPORT = {
  "ops": (set(), LOSSES_MAY, set()),
  "fused": ({"ops"}, LOSSES_MAY, set()),
  **{area: ({"ops", "fused"}, LOSSES_MAY, set()) for area in LOSS_AREAS},
  "selection": ({"ops", "adaptation"}, LOSSES_MAY, set()),
  "metrics": ({"ops"}, LOSSES_MAY, set()),
  "nets": (
    {"ops", "fused"},
    LOSSES_MAY | {"flax"},
    {"safetensors"},
  ),
  "methods": (
    {"ops", "fused", "nets"} | LOSS_AREAS,
    LOSSES_MAY | {"flax", "optax"},
    set(),
  ),
  "data": (
    {"ops"},
    LOSSES_MAY,
    {"array_record", "etils", "grain", "sklearn", "tensorflow_datasets"},
  ),
  "training": (
    {"ops", "fused", "nets", "methods", "metrics", "data"} | LOSS_AREAS,
    LOSSES_MAY | {"flax", "optax"},
    {"orbax", "rich"},
  ),
}
# `nets.layers` are the layers of networks and of the parts of methods.
PUBLIC_MODULES = {pathlib.Path("nets/layers.py")}
MODULES_OF_ROOMS = {"kdjax.nets.layers"}
# Files of which an argument has the name of the other room.
NAMED_ALIKE = {"kdjax.data": "kdjax/training/loop/_feeds.py"}
TESTS = [
  path.relative_to(ROOT / "tests")
  for area in sorted(MAY_IMPORT)
  for path in sorted((ROOT / "tests" / area).rglob("test_*.py"))
]
AREAS = sorted(path.parent.name for path in ROOT.glob("kdjax/*/__init__.py"))
PUBLIC = [
  pytest.param(area, getattr(module, name), id=f"{area}.{name}")
  for area in AREAS
  for module in [importlib.import_module(f"kdjax.{area}")]
  for name in module.__all__
]


def imports(tree):
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      yield from ((node, alias.name) for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module == "kdjax":
      yield from ((node, f"kdjax.{alias.name}") for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      yield node, node.module or ""


@pytest.mark.parametrize("area", AREAS)
def test_imports_follow_the_order_of_the_house(area):
  areas, packages, lazy = MAY_IMPORT[area]
  for path in (ROOT / "kdjax" / area).rglob("*.py"):
    tree = ast.parse(path.read_text())
    for node, name in imports(tree):
      package, *rest = name.split(".")
      where = f"{path.relative_to(ROOT)}:{node.lineno} imports {name}"
      if package == "kdjax":
        assert rest, where
        assert rest[0] in areas | {area}, where
      elif package in lazy:
        assert node not in tree.body, f"{where} with the module"
      else:
        assert package in packages | sys.stdlib_module_names, where


@pytest.mark.parametrize("folder", ["kdjax", "experiments", "benchmarks"])
def test_no_room_imports_private_modules_of_another(folder):
  for path in (ROOT / folder).rglob("*.py"):
    parts = path.relative_to(ROOT).parts
    own = f"kdjax.{parts[1]}." if folder == "kdjax" else f"{folder}."
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.ImportFrom) and node.module:
        for alias in node.names:
          name = f"{node.module}.{alias.name}"
          private = "._" in name and name.startswith("kdjax.")
          where = f"{path.relative_to(ROOT)}:{node.lineno} imports {name}"
          assert not private or name.startswith(own), where


@pytest.mark.parametrize("area", AREAS)
def test_other_rooms_are_imported_whole_and_names_within_one(area):
  """A reader sees where a name of another room comes from: `ops.mean`."""
  for path in (ROOT / "kdjax" / area).rglob("*.py"):
    for node in ast.walk(ast.parse(path.read_text())):
      if not isinstance(node, ast.ImportFrom) or not node.module:
        continue
      package, *rest = node.module.split(".")
      if package != "kdjax" or not rest or rest[0] == area:
        continue
      if path.name == "__init__.py":
        continue  # A room may export a name of another as its own.
      names = {f"{node.module}.{alias.name}" for alias in node.names}
      where = f"{path.relative_to(ROOT)}:{node.lineno} imports {names}"
      if where.startswith(f"{NAMED_ALIKE.get(node.module)}:"):
        continue
      assert names <= MODULES_OF_ROOMS, where


@pytest.mark.parametrize("area", AREAS)
def test_each_area_lists_its_names(area):
  module = importlib.import_module(f"kdjax.{area}")
  public = {
    name
    for name, value in vars(module).items()
    if not name.startswith("_") and not inspect.ismodule(value)
  }
  assert public == set(module.__all__)


@pytest.mark.parametrize("area", AREAS)
def test_there_is_no_second_way_in(area):
  """Modules are private, and a sub-package exports nothing."""
  folder = ROOT / "kdjax" / area
  for path in folder.rglob("*.py"):
    public = path.relative_to(ROOT / "kdjax") in PUBLIC_MODULES
    assert path.name.startswith("_") or public, path
    if path.name == "__init__.py" and path.parent != folder:
      assert len(ast.parse(path.read_text()).body) == 1, path


@pytest.mark.parametrize("path", TESTS, ids=str)
def test_a_test_file_bears_the_name_of_the_file_it_tests(path):
  """Tests of several files say so: `test_several_<theme>.py`, or `whole`."""
  name = path.stem.removeprefix("test")
  assert name.startswith(("_several_", "_whole")) or (
    (ROOT / "kdjax" / path.parent / f"{name}.py").exists()
  )


@pytest.mark.parametrize(("area", "value"), PUBLIC)
def test_each_public_name_is_documented(area, value):
  if not callable(value) or getattr(value, "__module__", "") == "typing":
    return  # A type alias is documented where it is assigned.
  text = inspect.getdoc(value) or ""
  # Helpers and results that no paper describes need no reference.
  cited = area in LOSS_AREAS and not inspect.isclass(value)
  sections = ["References:"] if cited else []
  if inspect.isclass(value):
    fields = inspect.signature(value).parameters
    assert not fields or "Attributes:" in text or "Args:" in text
  else:
    sections += ["Returns:"]
    if inspect.signature(value).parameters:
      sections += ["Args:"]
  for section in sections:
    assert f"\n{section}\n" in text, f"no {section!r} in the docstring"


def test_importing_losses_costs_little_more_than_jax():
  """Only packages that JAX itself needs, and jaxtyping, are loaded."""
  program = (
    "import sys, jax; before = set(sys.modules); import kdjax.distillation;"
    "print(*{m.split('.')[0] for m in set(sys.modules) - before})"
  )
  output = subprocess.run(
    [sys.executable, "-c", program],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=True,
  ).stdout
  third_party = set(output.split()) - sys.stdlib_module_names
  assert third_party <= {
    "jax",
    "jaxtyping",
    "kdjax",
    "numpy",
    "wadler_lindig",
  }
