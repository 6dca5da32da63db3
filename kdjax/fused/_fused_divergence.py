"""Divergences of student and teacher logits in memory."""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from kdjax import ops
from kdjax.fused._divergences import DenseCriterion, Divergence, as_divergence
from kdjax.fused._row_chunks import (
  KERNELS,
  choose_chunk,
  fitting_kernel,
  over_chunks,
  put_rows,
  take_rows,
  unfused,
  weigh,
)

# A CPU chunk fits the cache, which is 2.5 times as fast as whole arrays. An
# accelerator's compiler fuses whole arrays into few readings.
SIZES = {"cpu": (2**17, 2**17), "gpu": (math.inf, 2**27)}


@ops.validate
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
  r"""Fused divergence: few readings of the logits and no copies of them.

  .. math::
    \ell = D(P, Q), \quad P = \mathrm{softmax}(z^T / T), \;
    Q = \mathrm{softmax}(z^S / T)

  where D is one of the divergences in `Divergence`. The forward pass keeps
  eight numbers a row; the backward pass computes the gradient from the logits
  again, element by element, and writes it once. The function has reverse-mode
  derivatives only; `kdjax.distillation` has the same divergences with forward
  mode too.

  Args:
    student_logits: `[*tokens, classes]`; -inf masks a class.
    teacher_logits: `[*tokens, classes]`.
    divergence: its name, or a `Divergence` with its share.
    temperature: T > 0; a number, or one a token. It may be traced and
      receives no gradient.
    where: `[*tokens]`, True for the tokens in the loss; None takes all. Other
      tokens have value 0 and gradient 0, even with NaN logits.
    stop_teacher_gradient: False lets gradients reach the teacher.
    vocab_axis_name: the axis of `jax.shard_map` (with its default checks) over
      which the classes are sharded. Each device holds a part of the classes for
      all its tokens; the values are those of all classes.
    chunk_size: the number of tokens computed at a time; by default as many as
      fit a cache.
    implementation: "xla" for all tokens at once, "chunked" for a scan over
      chunks of tokens; by default chosen by size. "mosaic_tpu" and "mosaic_gpu"
      (Hopper or newer) are kernels that read the logits once for the sums of a
      KL; on other platforms "xla" runs instead, and also for "mosaic_gpu" if
      the tokens are not a multiple of 8 or the classes not a multiple of 64.
      The default never chooses a kernel, because the kernels have not been run
      or timed on their platforms.

  Returns:
    One value a token, in nats, without a T^2 factor; float32 for half-precision
    logits. Forward KL is inf if a class has -inf on the student's side only,
    reverse KL if on the teacher's side only.

  Raises:
    ValueError: if shapes differ, a static temperature is not above 0, a static
      share is outside [0, 1], or the divergence or the implementation is
      unknown.
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
    ops.compute_dtype(student_logits), ops.compute_dtype(teacher_logits)
  )
  name, shares = as_divergence(divergence, dtype)
  kernel = None
  if implementation in KERNELS:
    if not name.endswith("kl") or vocab_axis_name or dtype != jnp.float32:
      raise ValueError(
        f"fused_divergence: implementation is {implementation!r}, which has "
        "forward_kl and reverse_kl of unsharded rows in float32 or half "
        f"precision; expected None, 'xla' or 'chunked' for {name} in {dtype}."
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
  """Returns the values of a criterion for student logits and a teacher."""
  *tokens, classes = student_logits.shape
  scale = ops.row_temperature(temperature, student_logits, -1)
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
  # Mark replicated arrays with a gradient as varying like the other arrays, so
  # that their gradient is summed over the devices.
  leaves = jax.tree.leaves((student, teacher, scale, where))
  vary = functools.partial(jax.tree.map, lambda x: ops.vary_like(x, *leaves))
  student = vary(student)
  teacher = teacher if stop_teacher_gradient else vary(teacher)
  plan = _Plan(criterion, chunk, not stop_teacher_gradient)
  values = _values(plan, student, teacher, scale, shares).reshape(tokens)
  return values if where is None else jnp.where(where, values, 0.0)


class _Plan(NamedTuple):
  """Static arguments."""

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
  """Returns the statistics of all rows."""

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
  """Returns one chunk of the arguments."""
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
