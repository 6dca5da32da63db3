"""Oracles need no optimized programs; the laws say which they want."""

import jax
import pytest


@pytest.fixture(autouse=True)
def quick_compilation(request):
  """Compiles all but the laws quickly."""
  if request.node.name.startswith("test_law"):
    yield
    return
  jax.config.update("jax_disable_most_optimizations", True)
  yield
  jax.config.update("jax_disable_most_optimizations", False)
