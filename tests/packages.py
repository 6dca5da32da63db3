"""Other packages as oracles, where they are installed."""

import ast
import contextlib
import importlib.util
import pathlib
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest


def package(name):
  """Imports a module, or skips the test; deep skada needs torch and skorch."""
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    return pytest.importorskip(name, exc_type=ImportError)


def extracted(name, path, *functions, **names):
  """The last of some functions of a file of a package, which is not imported.

  Packages of trainers import what a loss does not need. `names` are those that
  the functions use beside each other, jax, jnp and optax.
  """
  found = importlib.util.find_spec(name)
  if found is None:
    pytest.skip(f"could not find {name}")
  file = pathlib.Path(found.submodule_search_locations[0]) / path
  tree = ast.parse(file.read_text())
  nodes = {
    x.name: x
    for x in ast.walk(tree)
    if isinstance(x, ast.FunctionDef) and x.name in functions
  }
  body = [nodes[x] for x in functions]
  for node in body:
    node.decorator_list, node.returns = [], None
    for argument in (*node.args.args, *node.args.kwonlyargs):
      argument.annotation = None
  optax = importlib.import_module("optax")
  space = {"jax": jax, "jnp": jnp, "optax": optax, **names}
  with contextlib.suppress(ImportError):
    space["torch"] = importlib.import_module("torch")
  module = ast.fix_missing_locations(ast.Module(body, type_ignores=[]))
  exec(compile(module, str(file), "exec"), space)
  return space[functions[-1]]


def double(function, *arguments, **hyper):
  """The compiled function's values in float64."""
  with jax.enable_x64(True):
    arguments = jax.tree.map(jnp.asarray, arguments)
    return jax.device_get(jax.jit(function)(*arguments, **hyper))


def agree(got, want, tolerance):
  """Relative to the largest entry."""
  want = np.asarray(want)
  largest = np.max(np.abs(want))
  np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * largest)


def samples(n_source=20, n_target=14, dims=3, seed=0):
  """A source, and a target that is turned, stretched and shifted."""
  rng = np.random.default_rng(seed)
  turn = np.eye(dims) + rng.normal(size=(dims, dims)) / 3
  source = rng.normal(size=(n_source, dims))
  return source, rng.normal(size=(n_target, dims)) @ turn + 0.5


def squared(a, b):
  """Squared distances of all pairs."""
  return np.sum((a[:, None] - b[None]) ** 2, -1)
