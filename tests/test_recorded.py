"""Values and gradients recorded from the methods' published code."""

import importlib
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

GOLDEN = pathlib.Path(__file__).parent / "golden"
INDEX = json.loads((GOLDEN / "index.json").read_text())


def load_arguments(case, arrays):
  """Returns the positional arguments; a list argument has numbered entries."""
  arguments = []
  for name in case["args"]:
    if f"in:{name}" in arrays:
      arguments.append(jnp.asarray(arrays[f"in:{name}"]))
    else:
      layers = sorted(k for k in arrays if k.startswith(f"in:{name}"))
      arguments.append([jnp.asarray(arrays[k]) for k in layers])
  return arguments


def load_gradients(case, arrays):
  """Returns the recorded gradients in the order of the arguments' leaves."""
  return [
    arrays[key]
    for argument in case["grads"]
    for key in sorted(
      k for k in arrays if k.split(":")[:2] == ["grad", argument]
    )
  ]


def cases():
  """The first case of each function is for the quick tier."""
  met = set()
  for name, case in INDEX.items():
    marks = [pytest.mark.slow] if case["function"] in met else []
    met.add(case["function"])
    yield pytest.param(name, marks=marks)


@pytest.mark.parametrize("name", list(cases()))
def test_value_and_gradients_equal_the_published_code(name):
  case = INDEX[name]
  area, function_name = case["function"].split(".")
  function = getattr(importlib.import_module(f"kdjax.{area}"), function_name)
  positions = tuple(map(case["args"].index, case["grads"]))
  with jax.enable_x64(True), np.load(GOLDEN / f"{name}.npz") as arrays:
    arguments = load_arguments(case, arrays)

    options = {
      k: tuple(v) if isinstance(v, list) else v
      for k, v in case["kwargs"].items()
    }

    def loss(*arguments):
      out = function(*arguments, **options)
      return jnp.mean(out), out

    def value_alone(*arguments):
      return loss(*arguments), ()

    # A score of labels has nothing to be differentiated by.
    program = value_alone
    if positions:
      program = jax.value_and_grad(loss, positions, has_aux=True)
    (value, out), gradients = jax.jit(program)(*arguments)
    np.testing.assert_allclose(value, arrays["value"], rtol=case["tol"])
    if "out" in arrays:  # The mean would hide the order of the entries.
      np.testing.assert_allclose(
        out, arrays["out"], rtol=case["tol"], atol=1e-12
      )
    for gradient, expected in zip(
      jax.tree.leaves(gradients), load_gradients(case, arrays), strict=True
    ):
      np.testing.assert_allclose(
        gradient,
        expected,
        rtol=case["tol"],
        atol=case["tol"] * np.abs(expected).max(),
      )
