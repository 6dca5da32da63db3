"""Scripts that a person runs: `python -m experiments.distill --help`."""

import os

# Both must be set before NumPy and JAX are imported. XLA already gives each
# matrix of a batch a thread: LAPACK's own threads on top of these wait for one
# another (30 decompositions of 64x64 took 190 times as long on two busy cores).
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# And a batched decomposition holds a thread of jaxlib's pool until others have
# done its matrices: two at a time on a CPU of two cores wait for ever.
os.environ.setdefault("PJRT_NPROC", str(max(8, os.cpu_count() or 1)))
