r"""Values and gradients of a criterion from hidden states, chunk by chunk.

A scan over chunks of tokens computes logits and values. For a gradient, the
same scan computes the chunk's gradients by hidden states and heads. This is
possible because the gradient by a token's logits is its cotangent times a row
that does not depend on the cotangent. The backward pass multiplies the gradient
by hidden states by the cotangents, exactly. The gradient by a head is a sum
over tokens, weighted by `weights`; a cotangent common to all tokens, as for a
mean or a sum of the values, multiplies the sum. A chunk with other cotangents
is corrected: the backward pass computes it again and adds the difference. The
gradient of a mean therefore costs three matrix products beyond the forward
pass, not six.

A criterion may have a second value, the cross-entropy with labels. The scan
computes the gradients of the sum of both values. If their cotangents differ,
the backward pass adds the difference times the gradient of the second value,
which needs the student's logits only.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import ops
from kdjax.fused._linear_head import (
  Head,
  Linear,
  linear_gradients,
  linear_logits,
)
from kdjax.fused._row_chunks import (
  choose_chunk,
  over_chunks,
  put_rows,
  take_rows,
  weigh,
)

# Each chunk reads and writes a float32 gradient of the head, so few chunks are
# better: 512 MiB of float32 logits each. On a CPU, a chunk that fits the cache
# is better.
SIZES = {"cpu": (2**20, 2**20), "gpu": (2**24, 2**27)}


def linear_values(
  function: str,
  criterion: Any,
  student: Linear,
  teacher: Any,
  *,
  tokens: tuple[int, ...],
  vocab_size: int,
  temperature: ArrayLike,
  shares: tuple[Array, ...],
  where: Array | None,
  weights: Array | None,
  stop_teacher_gradient: bool,
  chunk_size: int | None,
  implementation: str | None,
  labels: Array | None = None,
) -> tuple[Array, ...]:
  """Returns the values of a criterion for a student's head and a teacher.

  There are as many arrays as `criterion.outputs` has names of fields of its
  rows. The factors of both values are the last two shares.
  """
  dtype = result_dtype((student, teacher))
  scale = ops.row_temperature(temperature, jnp.zeros((*tokens, 1), dtype), -1)
  scale = jnp.broadcast_to(scale, (*tokens, 1)).reshape(-1)
  scale = jax.lax.stop_gradient(scale)
  size = scale.shape[0]
  if not size:
    return tuple(jnp.zeros(tokens, dtype) for _ in criterion.outputs)
  chunk = choose_chunk(
    function,
    implementation,
    chunk_size,
    size,
    student.head.weight.shape[0],
    SIZES,
  )
  factors = jnp.ones(size, dtype)
  if weights is not None:
    factors = jax.lax.stop_gradient(weights.reshape(-1).astype(dtype))
  if where is not None:
    factors = jnp.where(where.reshape(-1), factors, 0.0)
  if stop_teacher_gradient:
    teacher = jax.lax.stop_gradient(teacher)
  # Mark replicated arrays with a gradient as varying like the other arrays, so
  # that their gradient is summed over the devices.
  leaves = jax.tree.leaves((student, teacher, scale, factors))
  vary = functools.partial(jax.tree.map, lambda x: ops.vary_like(x, *leaves))
  student = vary(student)
  teacher = teacher if stop_teacher_gradient else vary(teacher)
  plan = _Plan(criterion, chunk, vocab_size, not stop_teacher_gradient)
  inputs = _Inputs(student, teacher, scale, shares, factors, labels)
  return tuple(x.reshape(tokens) for x in _values(plan, inputs))


class _Plan(NamedTuple):
  """Static arguments."""

  criterion: Any
  chunk: int
  vocab_size: int
  teacher_gradient: bool


class _Inputs(NamedTuple):
  """The differentiable arrays, or their gradients."""

  student: Linear
  teacher: Any  # Linear, logits, or another teacher of the criterion
  scale: Any
  shares: Any
  weights: Any  # 0 for a masked token
  labels: Any = None


class _Sums(NamedTuple):
  """Gradients by hidden states, one row a token, and by heads, summed."""

  by_student: Array
  by_student_head: Head | None
  by_teacher: Array | None
  by_teacher_head: Head | None


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _values(plan: _Plan, inputs: _Inputs) -> tuple[Array, ...]:

  def body(carry: None, start: Array, _: Array) -> tuple[None, Any]:
    return carry, _outputs(plan, _chunk_rows(plan, _take(plan, inputs, start)))

  _, values = over_chunks(body, None, inputs.scale.shape[0], plan.chunk)
  return _weighed(inputs, values)


def _forward(plan: _Plan, inputs: _Inputs) -> tuple[tuple[Array, ...], Any]:
  size = inputs.scale.shape[0]

  def of_chunk(start: Array, fresh: Array) -> tuple[_Sums, Any]:
    chunk = _take(plan, inputs, start)
    rows = _chunk_rows(plan, chunk)
    weights = jnp.where(fresh, chunk.weights, 0.0)
    return _Sums(*_chunk_gradients(plan, chunk, rows, weights)), rows

  def body(carry: _Sums, start: Array, fresh: Array) -> tuple[_Sums, Any]:
    new, rows = of_chunk(start, fresh)
    return _Sums(
      put_rows(carry.by_student, new.by_student, start),
      _add(carry.by_student_head, new.by_student_head),
      put_rows(carry.by_teacher, new.by_teacher, start),
      _add(carry.by_teacher_head, new.by_teacher_head),
    ), rows

  shapes, _ = jax.eval_shape(
    of_chunk, jnp.zeros((), jnp.int32), jnp.ones(plan.chunk, bool)
  )
  rows = functools.partial(
    jax.tree.map, lambda x: jnp.zeros((size, *x.shape[1:]), x.dtype)
  )
  sums = functools.partial(jax.tree.map, lambda x: jnp.zeros(x.shape, x.dtype))
  carry = _Sums(
    rows(shapes.by_student),
    sums(shapes.by_student_head),
    rows(shapes.by_teacher),
    sums(shapes.by_teacher_head),
  )
  carry, numbers = over_chunks(body, carry, size, plan.chunk, inputs)
  values = _weighed(inputs, _outputs(plan, numbers))
  return values, (inputs, carry, numbers)


def _backward(
  plan: _Plan, residuals: Any, cotangents: tuple[Array, ...]
) -> tuple[_Inputs]:
  inputs, sums, numbers = residuals
  cotangent, *others = cotangents
  size = cotangent.shape[0]
  counted = inputs.weights != 0
  cotangent = jnp.where(counted, cotangent, 0.0)
  # The median of the unmasked cotangents: many tokens may share it, and the
  # difference of a small cotangent to it keeps more digits than to the largest.
  count = jnp.sum(counted)
  order = jnp.sort(jnp.where(counted, cotangent, jnp.inf))
  common = jnp.where(count > 0, order[(count - 1) // 2], 0.0)
  heads = jax.tree.map(
    lambda x: common * x, (sums.by_student_head, sums.by_teacher_head)
  )

  def body(heads: Any, start: Array, fresh: Array) -> tuple[Any, None]:
    slopes, weights, rows = take_rows(
      (cotangent, inputs.weights, numbers), start, plan.chunk
    )
    weights = jnp.where(fresh, (slopes - common) * weights, 0.0)
    chunk = _take(plan, inputs, start)
    return _correct_if_needed(plan, heads, chunk, rows, weights), None

  (student_head, teacher_head), _ = over_chunks(
    body, heads, size, plan.chunk, inputs, cotangent
  )
  by_student = weigh(sums.by_student, cotangent * inputs.weights)
  if others:
    by_student, student_head = _add_second(
      plan,
      (by_student, student_head),
      inputs,
      numbers,
      jnp.where(counted, others[0], 0.0) - cotangent,
    )
  cotangent *= inputs.weights
  student = Linear(by_student, student_head)
  teacher = None
  if plan.teacher_gradient:
    teacher = weigh(sums.by_teacher, cotangent)
    if isinstance(inputs.teacher, Linear):
      teacher = Linear(teacher, teacher_head)
    teacher = _like(teacher, inputs.teacher)
  student = _like(student, inputs.student)
  return (_Inputs(student, teacher, None, None, None, None),)


_values.defvjp(_forward, _backward)


def _add_second(
  plan: _Plan, sums: Any, inputs: _Inputs, numbers: Any, difference: Array
) -> Any:
  """Adds the gradient of the second value, times the differences."""
  size = difference.shape[0]

  def body(sums: Any, start: Array, fresh: Array) -> tuple[Any, None]:
    slopes, rows = take_rows((difference, numbers), start, plan.chunk)
    chunk = _take(plan, inputs, start)
    weights = jnp.where(fresh, slopes * chunk.weights, 0.0)
    return _correct_second_if_needed(
      plan, sums, chunk, rows, weights, start
    ), None

  sums, _ = over_chunks(body, sums, size, plan.chunk, inputs, difference)
  return sums


def _correct_second(
  plan: _Plan, sums: Any, chunk: _Inputs, rows: Any, weights: Array, start: Any
) -> Any:
  by_hidden, head = sums
  logits, _ = _chunk_logits(plan, chunk._replace(teacher=None))
  gradient = plan.criterion.second_gradient(
    logits, chunk.shares, rows, chunk.labels
  )
  new, new_head = _back(chunk, chunk.student, gradient, weights)
  old = take_rows(by_hidden, start, weights.shape[0])
  # Rows that an earlier chunk has have the weight 0.
  new = old + weigh(new, weights)
  return put_rows(by_hidden, new, start), _add(head, new_head)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _correct_second_if_needed(
  plan: _Plan, sums: Any, chunk: _Inputs, rows: Any, weights: Array, start: Any
) -> Any:
  chunk = jax.tree.map(lambda x: ops.vary_like(x, weights), chunk)
  return jax.lax.cond(
    jnp.any(weights != 0),
    lambda sums: _correct_second(plan, sums, chunk, rows, weights, start),
    lambda sums: sums,
    sums,
  )


@_correct_second_if_needed.defjvp
def _(plan: _Plan, primals: Any, tangents: Any) -> tuple[Any, Any]:
  correct = functools.partial(_correct_second, plan)
  return _correct_second_if_needed(plan, *primals), jax.jvp(
    correct, primals, tangents
  )[1]


def _correct(
  plan: _Plan, heads: Any, chunk: _Inputs, rows: Any, weights: Array
) -> Any:
  """Adds the gradients of a chunk by the heads, with these weights."""
  _, student, _, teacher = _chunk_gradients(plan, chunk, rows, weights)
  return _add(heads, (student, teacher))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _correct_if_needed(
  plan: _Plan, heads: Any, chunk: _Inputs, rows: Any, weights: Array
) -> Any:
  # Under vmap, `cond` marks all operands of its branches as varying; a branch
  # may not do so itself, so they are marked here.
  chunk = jax.tree.map(lambda x: ops.vary_like(x, weights), chunk)
  return jax.lax.cond(
    jnp.any(weights != 0),
    lambda heads: _correct(plan, heads, chunk, rows, weights),
    lambda heads: heads,
    heads,
  )


@_correct_if_needed.defjvp
def _(plan: _Plan, primals: Any, tangents: Any) -> tuple[Any, Any]:
  """The derivative by weights of 0 is not 0, so it needs `_correct`."""
  correct = functools.partial(_correct, plan)
  return _correct_if_needed(plan, *primals), jax.jvp(
    correct, primals, tangents
  )[1]


def _take(plan: _Plan, inputs: _Inputs, start: Array) -> _Inputs:
  """Returns one chunk of the rows, with whole heads.

  Masked hidden states become 0: NaN times a gradient of 0 would be NaN.
  """
  weights = take_rows(inputs.weights, start, plan.chunk)

  def take(side: Any) -> Any:
    if isinstance(side, Linear):
      hidden = take_rows(side.hidden, start, plan.chunk)
      return Linear(jnp.where(weights[:, None] != 0, hidden, 0), side.head)
    return take_rows(side, start, plan.chunk)

  return _Inputs(
    take(inputs.student),
    take(inputs.teacher),
    take(inputs.scale),
    inputs.shares,
    weights,
    take(inputs.labels),
  )


def _outputs(plan: _Plan, rows: Any) -> tuple[Array, ...]:
  return tuple(getattr(rows, name) for name in plan.criterion.outputs)


def _weighed(inputs: _Inputs, values: tuple[Array, ...]) -> tuple[Array, ...]:
  """Returns the values times the weights of tokens and, of two, their own."""
  factors = inputs.shares[-2:] if len(values) > 1 else (None,)
  return tuple(
    inputs.weights * (value if factor is None else factor * value)
    for factor, value in zip(factors, values, strict=True)
  )


def _chunk_logits(plan: _Plan, chunk: _Inputs) -> tuple[Array, Any]:
  """Returns the student's and the teacher's logits, without padding."""
  dtype = chunk.scale.dtype

  def cut(logits: Array) -> Array:
    if axis_name is None:
      return logits[:, : plan.vocab_size]
    offset = jax.lax.axis_index(axis_name) * logits.shape[1]
    inside = offset + jnp.arange(logits.shape[1]) < plan.vocab_size
    return jnp.where(inside[None], logits, -jnp.inf)

  axis_name = plan.criterion.axis_name
  student = cut(linear_logits(chunk.student, dtype))
  teacher = chunk.teacher
  if isinstance(teacher, Linear):
    teacher = cut(linear_logits(teacher, dtype))
  elif isinstance(teacher, jax.Array):
    teacher = cut(teacher.astype(dtype))
  return student, teacher


def _chunk_rows(plan: _Plan, chunk: _Inputs) -> Any:
  """Returns the statistics of a chunk's rows; masked rows have value 0."""
  rows = plan.criterion.rows(
    *_chunk_logits(plan, chunk), chunk.scale, chunk.shares, *_labels(chunk)
  )
  used = chunk.weights != 0
  return rows._replace(
    **{
      name: jnp.where(used, getattr(rows, name), 0.0)
      for name in plan.criterion.outputs
    }
  )


def _labels(chunk: _Inputs) -> tuple[Array, ...]:
  return () if chunk.labels is None else (chunk.labels,)


def _chunk_gradients(
  plan: _Plan, chunk: _Inputs, rows: Any, weights: Array
) -> tuple[Array, Head | None, Array | None, Head | None]:
  """Returns gradients by inputs, one a row, and by heads, weighted sums."""
  by_student, by_teacher = plan.criterion.gradients(
    *_chunk_logits(plan, chunk),
    chunk.scale,
    chunk.shares,
    rows,
    *_labels(chunk),
  )
  student = _back(chunk, chunk.student, by_student, weights)
  if not plan.teacher_gradient:
    return *student, None, None
  return *student, *_back(chunk, chunk.teacher, by_teacher, weights)


def _back(
  chunk: _Inputs, side: Any, gradient: Array, weights: Array
) -> tuple[Array, Head | None]:
  """Returns the gradients of one side, from those by its logits."""
  gradient = weigh(gradient, chunk.weights != 0)
  linear = isinstance(side, Linear)
  vocab = side.head.weight.shape[0] if linear else side.shape[1]
  padding = vocab - gradient.shape[1]
  gradient = jnp.pad(gradient, ((0, 0), (0, padding)))
  if not linear:
    return gradient.astype(side.dtype), None
  return linear_gradients(side, gradient, weights)


def _add(a: Any, b: Any) -> Any:
  return jax.tree.map(jnp.add, a, b)


def _like(gradients: Any, arrays: Any) -> Any:
  return jax.tree.map(lambda g, x: g.astype(x.dtype), gradients, arrays)


def result_dtype(sides: Any) -> Any:
  """Returns float64 if any floating-point array is float64, else float32."""
  floats = [
    x for x in jax.tree.leaves(sides) if jnp.issubdtype(x.dtype, jnp.floating)
  ]
  return jnp.result_type(jnp.float32, *floats)
