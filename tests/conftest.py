"""Strict settings for every test: eight CPU devices, no rank promotion.

Most of the suite's time goes into compiling thousands of small programs once,
so they are compiled without optimizations that only speed up running them.
"""

import gc
import os
import pathlib

# The workers inherit both: threads of LAPACK's own wait for one another, and a
# batched decomposition holds a thread of jaxlib's pool until others have done
# its matrices; eight devices at a time would hold all of a pool of eight.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("PJRT_NPROC", "32")

import jax
import jax.numpy as jnp
import pytest

MAPPINGS = pathlib.Path("/proc/self/maps")

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_disable_most_optimizations", True)
if jax.__version_info__ < (0, 12):  # XLA dies of flags that it does not know.
  os.environ["XLA_FLAGS"] = " ".join(
    [
      os.environ.get("XLA_FLAGS", ""),
      "--xla_cpu_use_fusion_emitters=false",
      "--xla_cpu_parallel_codegen_split_count=1",
    ]
  )


@pytest.fixture(scope="module", autouse=True)
def old_programs_cost_little():
  """What JAX has cached lives long: the collector need not see it.

  A process may have 65,530 mappings of memory on Linux, of which each program
  takes six; XLA aborts where there are no more.
  """
  yield
  if MAPPINGS.exists() and MAPPINGS.read_bytes().count(b"\n") > 20_000:
    jax.clear_caches()
  gc.freeze()


@pytest.fixture(autouse=True)
def names_of_examples(doctest_namespace):
  """What the examples in docstrings take as imported."""
  doctest_namespace.update(jax=jax, jnp=jnp)
