"""Runs of the experiments share their compilations."""

import jax
import pytest


@pytest.fixture(scope="module", autouse=True)
def one_compilation(tmp_path_factory):
  """Runs with the same flags compile once."""
  names = (
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
  )
  before = [getattr(jax.config, name) for name in names]
  for name, value in zip(
    names, (str(tmp_path_factory.mktemp("xla")), 0), strict=True
  ):
    jax.config.update(name, value)
  yield
  for name, value in zip(names, before, strict=True):
    jax.config.update(name, value)
