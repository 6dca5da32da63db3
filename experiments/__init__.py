"""Experiments that a person runs: `python -m experiments` lists them."""

import os
import signal
import sys
from typing import Any, NoReturn

# Both must be set before NumPy and JAX are imported. XLA already gives each
# matrix of a batch a thread: LAPACK's own threads on top of these wait for one
# another (30 decompositions of 64x64 took 190 times as long on two busy cores).
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# And a batched decomposition holds a thread of jaxlib's pool until others have
# done its matrices: two at a time on a CPU of two cores wait for ever.
os.environ.setdefault("PJRT_NPROC", str(max(8, os.cpu_count() or 1)))


def _stop(number: int, frame: Any) -> NoReturn:
  del frame
  os.write(2, b"\nstopped. Nothing was computed yet.\n")
  os._exit(128 + number)


# `python -m` imports this package first. Until an experiment's own handler is
# there, Ctrl-C in an import would print a traceback.
if sys.argv[:1] == ["-m"]:
  signal.signal(signal.SIGINT, _stop)
