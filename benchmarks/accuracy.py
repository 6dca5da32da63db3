"""Prints how exact the first and the third formula are.

  python -m benchmarks.accuracy

The KL divergence in float32 is set against long double, the H-divergence of
two Gaussians against its closed form, over several draws.
"""

import functools
import math
import time

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from kdjax import adaptation, ops

DRAWS = 5


def exact_kl(
  student: np.ndarray, teacher: np.ndarray, temperature: float
) -> np.ndarray:
  """KL(teacher || student) as log E[exp gap], the gap centered."""
  student, teacher = (x.astype(np.longdouble) for x in (student, teacher))
  weights = np.exp((teacher - teacher.max(-1, keepdims=True)) / temperature)
  p = weights / weights.sum(-1, keepdims=True)
  gap = (student - teacher) / temperature
  gap = gap - (p * gap).sum(-1, keepdims=True)
  series = sum(gap**n / math.factorial(n) for n in range(2, 25))
  excess = np.where(np.abs(gap) < 1, series, np.expm1(gap) - gap)
  return np.log1p((p * excess).sum(-1))


def kl_table(rows: int = 256, classes: int = 100) -> Table:
  """Largest relative error of the KL divergence in float32."""
  table = Table(title=f"KL of {rows} rows, {classes} classes: largest error")
  table.add_column("gap of the logits")
  temperatures = (1.0, 4.0, 100.0)
  for temperature in temperatures:
    table.add_column(f"T = {temperature:g}", justify="right")
    table.add_column("naive sum", justify="right")
  divergence = jax.jit(ops.kl_divergence)

  @jax.jit
  def naive(
    student: jax.Array, teacher: jax.Array, temperature: float
  ) -> jax.Array:
    log_p = jax.nn.log_softmax(teacher / temperature)
    log_q = jax.nn.log_softmax(student / temperature)
    return jnp.sum(jnp.exp(log_p) * (log_p - log_q), -1)

  rng = np.random.default_rng(0)
  for gap in (1e-3, 1e-2, 0.1, 1.0, 5.0, 30.0):
    cells = []
    teacher = (4 * rng.normal(size=(rows, classes))).astype(np.float32)
    noise = gap * rng.normal(size=teacher.shape)
    student = (teacher + noise).astype(np.float32)
    for temperature in temperatures:
      exact = exact_kl(student, teacher, temperature)
      for value in (
        divergence(student, teacher, temperature=temperature),
        naive(student, teacher, temperature),
      ):
        error = np.abs(np.asarray(value) - exact) / exact
        cells.append(f"{float(error.max()):.0e}")
    table.add_row(f"{gap:g}", *cells)
  return table


def h_divergence_table() -> Table:
  """The H-divergence of unit Gaussians some distance apart."""
  table = Table(title=f"H-divergence, mean +- std of {DRAWS} draws")
  for heading in ("rows", "dims", "distance", "exact", "estimate", "seconds"):
    table.add_column(heading, justify="right")
  estimate = jax.jit(functools.partial(adaptation.h_divergence, folds=5))
  rng = np.random.default_rng(0)
  for n_source, n_target, dims in (
    (5000, 5000, 2),
    (1000, 9000, 2),
    (10_000, 10_000, 256),
  ):
    for distance in (0.0, 1.0, 2.0, 4.0):
      values, seconds = [], []
      for draw in range(DRAWS + 1):
        source = rng.normal(size=(n_source, dims)).astype(np.float32)
        target = rng.normal(size=(n_target, dims)).astype(np.float32)
        target[:, 0] += distance
        start = time.perf_counter()
        value = float(estimate(source, target).value)
        if draw > 0:  # the first one compiles
          values.append(value)
          seconds.append(time.perf_counter() - start)
      table.add_row(
        f"{n_source} : {n_target}",
        str(dims),
        f"{distance:g}",
        f"{2 * math.erf(distance / math.sqrt(8)):.3f}",
        f"{np.mean(values):.3f} +- {np.std(values, ddof=1):.3f}",
        f"{np.median(seconds):.2f}",
      )
  same = rng.normal(size=(2000, 16)).astype(np.float32)
  for name, other in (
    ("the same sample twice", same),
    ("shuffled", rng.permutation(same)),
    ("disjoint", same + 100),
  ):
    value = float(estimate(same, other).value)
    exact = "2.000" if name == "disjoint" else "0.000"
    table.add_row(name, "16", "-", exact, f"{value:.3f}", "-")
  return table


def main() -> None:
  """Prints both tables."""
  console = Console()
  console.print(f"jax {jax.__version__} on {jax.devices()[0].device_kind}")
  console.print(kl_table())
  console.print(h_divergence_table())


if __name__ == "__main__":
  main()
