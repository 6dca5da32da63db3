"""Memory of a step with a large vocabulary, by the account of the compiler.

  python -m benchmarks.memory

The programs are compiled and not run, so that shapes of any size have an
account. A step takes the hidden states and the heads of student and teacher in
bfloat16 and returns the loss, half distillation and half cross-entropy, and
its gradients by the student's hidden states and head.
"""

import argparse
from typing import Any

import jax
import jax.numpy as jnp

from kdjax import distillation, fused, ops

TEMPERATURE = 2.0
MIB = 2**20


def in_chunks(student: Any, head: Any, teacher: Any, other: Any, labels: Any):
  """The loss by `fused.linear_distillation`."""
  parts = fused.linear_distillation(
    student,
    head,
    teacher,
    other,
    labels,
    temperature=TEMPERATURE,
    divergence_weight=TEMPERATURE**2,
  )
  return sum(jnp.mean(part) for part in parts) / 2


def materialized(
  student: Any, head: Any, teacher: Any, other: Any, labels: Any
):
  """The same loss from whole arrays of logits."""
  ours = jnp.matmul(student, head.T, preferred_element_type=jnp.float32)
  theirs = jnp.matmul(teacher, other.T, preferred_element_type=jnp.float32)
  parts = (
    distillation.soft_target_loss(ours, theirs, temperature=TEMPERATURE),
    ops.cross_entropy(ours, labels),
  )
  return sum(jnp.mean(part) for part in parts) / 2


def account(loss: Any, tokens: int, vocab: int, widths: tuple[int, int]) -> Any:
  """Returns the memory of the arguments, the results and in between, in MiB."""
  shapes = [
    jax.ShapeDtypeStruct(shape, jnp.bfloat16)
    for width in widths
    for shape in ((tokens, width), (vocab, width))
  ]
  labels = jax.ShapeDtypeStruct((tokens,), jnp.int32)
  step = jax.jit(jax.value_and_grad(loss, (0, 1)))
  memory = step.lower(*shapes, labels).compile().memory_analysis()
  return [
    getattr(memory, f"{part}_size_in_bytes") / MIB
    for part in ("argument", "output", "temp")
  ]


def main(argv: list[str] | None = None) -> None:
  """Prints a table of tokens by program."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--vocab", type=int, default=128_256)
  parser.add_argument("--widths", type=int, nargs=2, default=(2048, 4096))
  parser.add_argument("--tokens", type=int, nargs="+", default=(2048, 8192))
  flags = parser.parse_args(argv)
  print("| tokens | program | arguments | results | temporary |")
  print("|---:|---|---:|---:|---:|")
  for tokens in flags.tokens:
    for name, loss in (("kdjax", in_chunks), ("materialized", materialized)):
      sizes = account(loss, tokens, flags.vocab, tuple(flags.widths))
      cells = " | ".join(f"{size:,.0f}" for size in sizes)
      print(f"| {tokens} | {name} | {cells} |", flush=True)


if __name__ == "__main__":
  main()
