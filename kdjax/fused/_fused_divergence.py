"""Divergences of logits that are already there."""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from kdjax.fused._divergences import DenseCriterion
from kdjax.fused._divergences import Divergence
from kdjax.fused._divergences import as_divergence
from kdjax.fused._row_chunks import KERNELS
from kdjax.fused._row_chunks import choose_chunk
from kdjax.fused._row_chunks import fitting_kernel
from kdjax.fused._row_chunks import over_chunks
from kdjax.fused._row_chunks import put_rows
from kdjax.fused._row_chunks import take_rows
from kdjax.fused._row_chunks import unfused
from kdjax.fused._row_chunks import weigh
from kdjax.ops import compute_dtype
from kdjax.ops import row_temperature
from kdjax.ops import validate
from kdjax.ops import vary_like

# Logits that a CPU's cache holds: there, chunks are 2.5 times as fast as whole
# arrays. An accelerator's compiler fuses them into few readings as they are.
SIZES = {"cpu": (2**17, 2**17), "gpu": (math.inf, 2**27)}


@validate
def fused_divergence(
  student_logits: Float[Array, "*tokens classes"],
  teacher_logits: Float[Array, "*tokens classes"],
  *,
  divergence: str | Divergence = "forward_kl",
  temperature: ArrayLike = 1.0,
  where: Bool[Array, "*tokens"] | None = None,
  stop_teacher_gradient: bool = True,
  vocab_axis_name: str | None = None,
  chunk_size: int | None = None,
  implementation: str | None = None,
) -> Float[Array, "*tokens"]:
  r"""Fused divergence: rows of logits, read few times, kept nowhere else.

  .. math::
    \ell = D(P, Q), \quad P = \mathrm{softmax}(z^T / T), \;
    Q = \mathrm{softmax}(z^S / T)

  with one of the divergences that `Divergence` lists. Between the
  forward and the backward pass only eight numbers a row are kept; the gradient
  is computed from the logits again, by elements, and written once. It has a
  reverse mode only; `kdjax.distillation` has the same divergences in both.

  Args:
    student_logits: `[*tokens, classes]`; -inf masks a class.
    teacher_logits: `[*tokens, classes]`.
    divergence: its name, or a `Divergence` with its share.
    temperature: T > 0; a number, or one a token. It may be traced and
      receives no gradient.
    where: which tokens count; the others cost 0 and get no gradient, whatever
      their logits hold.
    stop_teacher_gradient: False lets gradients reach the teacher.
    vocab_axis_name: the axis of `jax.shard_map` (with its default checks) over
      which the classes are sharded; each device then holds some classes of
      all its tokens, and the values are those of all classes.
    chunk_size: how many tokens are computed at a time; by default as many as
      a cache holds.
    implementation: "xla" for all tokens at once, "chunked" for a scan over
      chunks of them; by default by size. "mosaic_tpu" and "mosaic_gpu" (from
      Hopper on) are kernels that read the logits once for the sums of a KL,
      and are "xla" on other platforms; "mosaic_gpu" also where the tokens
      are no multiple of 8 or the classes none of 64. Neither is chosen by
      itself, for they have not been run or timed on their platforms.

  Returns:
    One value a token, in nats, without a T^2 factor; float32 for
    half-precision logits. Forward KL is inf where the student excludes a class
    that the teacher allows, reverse KL where the teacher excludes one.

  Raises:
    ValueError: if shapes differ, a static temperature is not above 0, a static
      share is outside [0, 1], or there is no such divergence or
      implementation.
    TypeError: if the logits are not floating-point.

  Examples:
    >>> far = jnp.array([[1e4, 0.0]])
    >>> fused_divergence(far, -far, divergence="jsd")
    Array([0.6931472], dtype=float32)

  References:
    Hsu et al., `Liger kernel: efficient Triton kernels for LLM training
    <https://arxiv.org/abs/2410.10989>`_, 2024.
  """
  dtype = jnp.promote_types(
    compute_dtype(student_logits), compute_dtype(teacher_logits)
  )
  name, shares = as_divergence(divergence, dtype)
  kernel = None
  if implementation in KERNELS:
    if not name.endswith("kl") or vocab_axis_name or dtype != jnp.float32:
      raise ValueError(
        f"fused_divergence: implementation {implementation!r} has forward_kl "
        "and reverse_kl of whole rows in float32 or half precision; expected "
        f"another one for {name} in {dtype}."
      )
    *tokens, classes = student_logits.shape
    kernel = fitting_kernel(
      "fused_divergence", implementation, math.prod(tokens), classes
    )
    implementation = "xla"
  return dense_values(
    "fused_divergence",
    DenseCriterion(name, vocab_axis_name, kernel),
    student_logits,
    teacher_logits.reshape(-1, teacher_logits.shape[-1]),
    dtype=dtype,
    temperature=temperature,
    shares=shares,
    where=where,
    stop_teacher_gradient=stop_teacher_gradient,
    chunk_size=chunk_size,
    implementation=implementation,
  )


def dense_values(
  function: str,
  criterion: Any,
  student_logits: Array,
  teacher: Any,
  *,
  dtype: Any,
  temperature: ArrayLike,
  shares: tuple[Array, ...],
  where: Array | None,
  stop_teacher_gradient: bool,
  chunk_size: int | None,
  implementation: str | None,
) -> Array:
  """Returns a criterion of student logits and a teacher in rows."""
  *tokens, classes = student_logits.shape
  scale = row_temperature(temperature, student_logits, -1)
  scale = jnp.broadcast_to(scale, (*tokens, 1)).astype(dtype)
  scale = jax.lax.stop_gradient(scale)
  student = student_logits.reshape(-1, classes)
  rows = student.shape[0]
  if not rows:
    return jnp.zeros(tokens, scale.dtype)
  chunk = choose_chunk(
    function, implementation, chunk_size, rows, classes, SIZES
  )
  scale = scale.reshape(-1)
  if stop_teacher_gradient:
    teacher = jax.lax.stop_gradient(teacher)
  # What is whole on every device and gets a gradient varies like the rest from
  # here on, so that the gradient is summed over the devices.
  leaves = jax.tree.leaves((student, teacher, scale, where))
  vary = functools.partial(jax.tree.map, lambda x: vary_like(x, *leaves))
  student = vary(student)
  teacher = teacher if stop_teacher_gradient else vary(teacher)
  plan = _Plan(criterion, chunk, not stop_teacher_gradient)
  values = _values(plan, student, teacher, scale, shares).reshape(tokens)
  return values if where is None else jnp.where(where, values, 0.0)


class _Plan(NamedTuple):
  """What is known at trace time."""

  criterion: Any
  chunk: int
  teacher_gradient: bool


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _values(
  plan: _Plan,
  student: Array,
  teacher: Any,
  scale: Array,
  shares: tuple[Array, ...],
) -> Array:
  return _rows(plan, student, teacher, scale, shares).value


def _rows(plan: _Plan, student: Array, teacher: Any, *parameters: Any) -> Any:
  """Returns the numbers of all rows."""

  def body(carry: None, start: Array, _: Array) -> tuple[None, Any]:
    s, t, scale, shares = _chunk(plan, start, student, teacher, *parameters)
    return carry, plan.criterion.rows(s, t, scale, shares)

  return over_chunks(body, None, student.shape[0], plan.chunk)[1]


def _chunk(
  plan: _Plan,
  start: Array,
  student: Array,
  teacher: Any,
  scale: Array,
  shares: tuple[Array, ...],
) -> tuple[Array, Any, Array, tuple[Array, ...]]:
  """Returns a chunk of the arguments."""
  student, teacher, scale = take_rows(
    (student, teacher, scale), start, plan.chunk
  )
  return student, teacher, scale, shares


def _forward(plan: _Plan, *inputs: Any) -> tuple[Array, Any]:
  rows = _rows(plan, *inputs)
  return rows.value, (inputs, rows)


def _backward(plan: _Plan, residuals: Any, cotangent: Array) -> tuple[Any, ...]:
  inputs, rows = residuals
  student, teacher, *_ = inputs
  outputs = (student, teacher) if plan.teacher_gradient else (student,)

  def body(carry: Any, start: Array, _: Array) -> tuple[Any, None]:
    chunk_rows, weights = take_rows((rows, cotangent), start, plan.chunk)
    chunk = _chunk(plan, start, *inputs)

    def compute(chunk: Any, rows: Any, weights: Array) -> tuple[Array, ...]:
      gradients = plan.criterion.gradients(*chunk, rows)
      return tuple(weigh(g, weights) for g in gradients[: len(carry)])

    gradients = unfused(compute, start, chunk, chunk_rows, weights)
    return put_rows(carry, gradients, start), None

  gradients, _ = over_chunks(
    body,
    jax.tree.map(jnp.zeros_like, outputs),
    student.shape[0],
    plan.chunk,
    inputs,
    rows,
    cotangent,
  )
  by_teacher = gradients[1] if plan.teacher_gradient else None
  return gradients[0], by_teacher, None, None


_values.defvjp(_forward, _backward)
