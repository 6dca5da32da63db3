"""Scripts that a person runs: `python -m experiments.distill --help`."""

import os

# XLA already gives each small matrix of a batch a thread. LAPACK's own threads
# on top of these wait for one another: 30 decompositions of 64x64 took 190
# times as long on two busy cores. It must be set before NumPy is imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
