"""Bytes on disk of a token in a teacher cache.

  python -m benchmarks.token_cache

The teacher's logits are random numbers, whose classes compress the worst. All
files of the folder count, with the inputs' digests and the header.
"""

import argparse
import functools
import pathlib
import tempfile
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kdjax import data, fused

DTYPES = ("float32", "float16", "bfloat16")


def teacher(variables: Any, tokens: Any) -> jax.Array:
  """Random logits of each token, the same for the same sequence."""
  key = jax.random.fold_in(jax.random.key(0), jnp.sum(tokens))
  shape = (*tokens.shape, variables["vocab"].shape[0])
  return 3 * jax.random.normal(key, shape)


def bytes_per_token(
  sequences: int, length: int, vocab: int, **options: Any
) -> float:
  """Writes a cache and returns its size on disk."""
  rng = np.random.default_rng(0)
  tokens = rng.integers(0, vocab, (sequences, length), np.int32)
  with tempfile.TemporaryDirectory() as folder:
    data.write_teacher_cache(
      folder,
      [{"tokens": row} for row in tokens],
      teacher,
      {"vocab": jnp.zeros(vocab)},
      dataset="random tokens",
      inputs="tokens",
      batch_size=1,
      **options,
    )
    files = [x for x in pathlib.Path(folder).rglob("*") if x.is_file()]
    return sum(x.stat().st_size for x in files) / tokens.size


def main(argv: list[str] | None = None) -> None:
  """Prints a table of kept classes by dtype."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--sequences", type=int, default=16)
  parser.add_argument("--length", type=int, default=512)
  parser.add_argument("--vocab", type=int, default=32_000)
  parser.add_argument(
    "--classes", type=int, nargs="+", default=(16, 50, 64, 128)
  )
  flags = parser.parse_args(argv)
  measure = functools.partial(
    bytes_per_token, flags.sequences, flags.length, flags.vocab
  )
  print(f"| classes of a token | {' | '.join(DTYPES)} |")
  print("|---|" + "---:|" * len(DTYPES))
  for count in flags.classes:
    sizes = [measure(top_k=count, dtype=dtype) for dtype in DTYPES]
    cells = " | ".join(f"{size:.0f}" for size in sizes)
    print(f"| {count} most probable | {cells} |", flush=True)
  for count in flags.classes:
    keep = functools.partial(fused.sample_teacher, num_samples=count)
    size = measure(keep=keep)
    print(f"| {count} drawn | {size:.0f} | | |", flush=True)


if __name__ == "__main__":
  main()
