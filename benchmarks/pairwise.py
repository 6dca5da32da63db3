"""Times losses on pairs and triplets of a batch against the published forms.

  python -m benchmarks.pairwise

The peers are written in the manner of RepDistiller, which holds the matrices
of all pairs, and for RKD the angles of all triplets: in plain JAX, and in
PyTorch where it is installed. Value and gradient with respect to the student
are timed; the error is that against the plain form in float64.
"""

import argparse
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import _frame
from benchmarks._losses import (
  at_least_float32,
  draw,
  torch_peers,
  with_gradient,
)
from benchmarks._measure import Case, import_torch
from kdjax import distillation

# examples of triplets and of pairs, widths of student and teacher, and the
# maps: examples, height and width, channels of student and teacher
SHAPES = {
  "tiny": {
    "triplets": [12],
    "pairs": [16],
    "dims": (4, 6),
    "maps": (4, 2, 3, 5),
  },
  "cpu": {
    "triplets": [64, 256],
    "pairs": [256, 1024],
    "dims": (128, 256),
    "maps": (64, 8, 128, 256),
  },
  "gpu": {
    "triplets": [256, 1024],
    "pairs": [1024, 4096, 16_384],
    "dims": (256, 2048),
    "maps": (256, 8, 128, 256),
  },
}
TEMPERATURE = 0.07
ROWS = 256
_dot = functools.partial(jnp.matmul, precision="highest")


def make_cases(flags: argparse.Namespace) -> list[Case]:
  """Builds the cases of one size."""
  shapes = SHAPES[flags.size]
  narrow, wide = shapes["dims"]
  batch, side, *channels = shapes["maps"]
  losses = {
    "rkd": (distillation.rkd_loss, plain_rkd, torch_rkd),
    "pkt": (distillation.pkt_loss, plain_pkt, torch_pkt),
    "sp": (distillation.sp_loss, plain_sp, torch_sp),
    "crd_in_batch": (
      distillation.crd_in_batch_loss,
      plain_crd_in_batch,
      torch_crd_in_batch,
    ),
    "nst": (distillation.nst_loss, plain_nst, torch_nst),
  }
  cases = [
    make_case("rkd", *losses["rkd"], [(few, narrow), (few, wide)])
    for few in shapes["triplets"]
  ]
  for many in shapes["pairs"]:
    cases += [
      make_case(name, *losses[name], [(many, narrow), (many, width)], ROWS)
      for name, width in (("pkt", wide), ("sp", wide), ("crd_in_batch", narrow))
    ]
  maps: list[tuple[int, ...]] = [
    (batch, side, side, width) for width in channels
  ]
  return [*cases, make_case("nst", *losses["nst"], maps)]


def make_case(
  name: str,
  loss: Callable[..., jax.Array],
  plain: Callable[..., jax.Array],
  peer: Callable[..., Any],
  shapes: list[tuple[int, ...]],
  rows: int | None = None,
) -> Case:
  """Compares a loss, and a few rows of it at a time, with its peers."""
  implementations = {"kdjax": with_gradient(loss)}
  if rows is not None:
    chunked = functools.partial(loss, chunk_size=rows)
    implementations[f"kdjax, {rows} rows at a time"] = with_gradient(chunked)
  student, teacher = (math.prod(shape) for shape in shapes)
  return Case(
    name,
    str(list(shapes[0])),
    shapes[0][0],
    "examples",
    lambda: tuple(draw(i, *shape) for i, shape in enumerate(shapes)),
    implementations | {"plain JAX": with_gradient(widened(plain))},
    torch_peers(peer),
    4 * (2 * student + teacher),
    reference=jax.value_and_grad(plain),
  )


def widened(loss: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
  """Computes in float32 what comes in half precision."""
  return lambda *arrays: loss(*map(at_least_float32, arrays))


def plain_rkd(student: jax.Array, teacher: jax.Array) -> jax.Array:
  """Distances of all pairs and angles of all triplets."""

  def distances(x: jax.Array) -> jax.Array:
    products = _dot(x, x.T)
    squares = jnp.diagonal(products)
    squared = squares[:, None] + squares[None] - 2 * products
    off = 1 - jnp.eye(len(x), dtype=x.dtype)
    lengths = jnp.sqrt(jnp.maximum(squared, 1e-12)) * off
    return lengths / (jnp.sum(lengths) / jnp.sum(off))

  def angles(x: jax.Array) -> jax.Array:
    gaps = x[None] - x[:, None]
    own = jnp.eye(len(x), dtype=bool)[..., None]
    squares = jnp.sum(jnp.square(gaps), -1, keepdims=True)
    gaps /= jnp.sqrt(jnp.where(own, 1.0, squares))
    return jnp.einsum("ijd,ikd->ijk", gaps, gaps, precision="highest")

  def huber(gap: jax.Array) -> jax.Array:
    size = jnp.abs(gap)
    return jnp.mean(jnp.where(size < 1, 0.5 * jnp.square(gap), size - 0.5))

  return 25 * huber(distances(student) - distances(teacher)) + 50 * huber(
    angles(student) - angles(teacher)
  )


def torch_rkd(student: Any, teacher: Any) -> Any:
  """The same in PyTorch, with the published smooth L1 loss."""
  torch = import_torch()
  functional = torch.nn.functional

  def distances(x: Any) -> Any:
    squares = x.square().sum(1)
    squared = squares[:, None] + squares[None] - 2 * x @ x.T
    off = 1 - torch.eye(len(x), dtype=x.dtype, device=x.device)
    lengths = squared.clamp(min=1e-12).sqrt() * off
    return lengths / (lengths.sum() / off.sum())

  def angles(x: Any) -> Any:
    gaps = functional.normalize(x[None] - x[:, None], dim=2)
    return torch.bmm(gaps, gaps.transpose(1, 2))

  with torch.no_grad():
    of_teacher = distances(teacher), angles(teacher)
  return 25 * functional.smooth_l1_loss(
    distances(student), of_teacher[0]
  ) + 50 * functional.smooth_l1_loss(angles(student), of_teacher[1])


def unit(x: jax.Array) -> jax.Array:
  """Rows of norm 1."""
  return x / jnp.linalg.norm(x, axis=1, keepdims=True)


def plain_pkt(student: jax.Array, teacher: jax.Array) -> jax.Array:
  """The divergence of all rows of the matrix of similarities."""

  def neighbours(x: jax.Array) -> jax.Array:
    similarity = (_dot(unit(x), unit(x).T) + 1) / 2
    return similarity / jnp.sum(similarity, 1, keepdims=True)

  p, q = neighbours(teacher), neighbours(student)
  return jnp.mean(p * jnp.log((p + 1e-7) / (q + 1e-7)))


def torch_pkt(student: Any, teacher: Any) -> Any:
  """The same in PyTorch."""
  torch = import_torch()

  def neighbours(x: Any) -> Any:
    x = torch.nn.functional.normalize(x)
    similarity = (x @ x.T + 1) / 2
    return similarity / similarity.sum(1, keepdim=True)

  p, q = neighbours(teacher), neighbours(student)
  return (p * torch.log((p + 1e-7) / (q + 1e-7))).mean()


def plain_sp(student: jax.Array, teacher: jax.Array) -> jax.Array:
  """The gap of both matrices of similarities."""
  student, teacher = (unit(_dot(x, x.T)) for x in (student, teacher))
  return jnp.mean(jnp.square(student - teacher))


def torch_sp(student: Any, teacher: Any) -> Any:
  """The same in PyTorch."""
  normalize = import_torch().nn.functional.normalize
  gap = normalize(student @ student.T) - normalize(teacher @ teacher.T)
  return gap.square().mean()


def plain_crd_in_batch(student: jax.Array, teacher: jax.Array) -> jax.Array:
  """The cross-entropy of both rows and columns of one matrix of scores."""
  scores = _dot(unit(student), unit(teacher).T) / TEMPERATURE
  rows, columns = (jax.nn.logsumexp(scores, axis) for axis in (1, 0))
  return jnp.mean((rows + columns) / 2 - jnp.diagonal(scores))


def torch_crd_in_batch(student: Any, teacher: Any) -> Any:
  """The same in PyTorch, in the form of CLIP."""
  torch = import_torch()
  functional = torch.nn.functional
  scores = functional.normalize(student) @ functional.normalize(teacher).T
  scores = scores / TEMPERATURE
  own = torch.arange(len(scores), device=scores.device)
  both = functional.cross_entropy(scores, own) + functional.cross_entropy(
    scores.T, own
  )
  return both / 2


def plain_nst(student: jax.Array, teacher: jax.Array) -> jax.Array:
  """The kernels of all pairs of channels, from all their products."""
  student, teacher = (
    unit(x.reshape(x.shape[0], -1, x.shape[-1])) for x in (student, teacher)
  )

  def kernel(a: jax.Array, b: jax.Array) -> jax.Array:
    products = jnp.einsum("bpi,bpj->bij", a, b, precision="highest")
    return jnp.mean(jnp.square(products))

  within = kernel(teacher, teacher) + kernel(student, student)
  return within - 2 * kernel(student, teacher)


def torch_nst(student: Any, teacher: Any) -> Any:
  """The same in PyTorch."""
  torch = import_torch()
  student, teacher = (
    torch.nn.functional.normalize(x.flatten(1, 2), dim=1)
    for x in (student, teacher)
  )

  def kernel(a: Any, b: Any) -> Any:
    return torch.einsum("bpi,bpj->bij", a, b).square().mean()

  within = kernel(teacher, teacher) + kernel(student, student)
  return within - 2 * kernel(student, teacher)


if __name__ == "__main__":
  _frame.run(make_cases, __doc__.splitlines()[0])
