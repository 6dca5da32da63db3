r"""Divergences from hidden states: `[tokens, vocab]` logits are never there.

A scan over chunks of tokens computes logits, values and, where a gradient is
wanted, at once what the chunk gives to hidden states and heads: the logits'
gradient of a token is its cotangent times a row that does not depend on it. For
the hidden states the cotangent is multiplied in later, exactly. For a head,
which sums over tokens by their `weights`, a cotangent common to all tokens is
too; that is a mean or a sum of the values. Chunks with other cotangents are
corrected: the backward pass computes them again and adds the difference. A mean
therefore costs three products more than the forward pass's own, not six.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from kdjax.fused._divergences import DenseCriterion
from kdjax.fused._divergences import Divergence
from kdjax.fused._divergences import as_divergence
from kdjax.fused._linear_head import Head
from kdjax.fused._linear_head import Linear
from kdjax.fused._linear_head import as_linear
from kdjax.fused._linear_head import linear_gradients
from kdjax.fused._linear_head import linear_logits
from kdjax.fused._row_chunks import choose_chunk
from kdjax.fused._row_chunks import over_chunks
from kdjax.fused._row_chunks import put_rows
from kdjax.fused._row_chunks import take_rows
from kdjax.fused._row_chunks import weigh
from kdjax.ops import check_integer
from kdjax.ops import row_temperature
from kdjax.ops import validate
from kdjax.ops import vary_like

# Each chunk reads and writes a float32 gradient of the head, so few chunks are
# better: 512 MiB of float32 logits each; on a CPU what its cache holds is.
SIZES = {"cpu": (2**20, 2**20), "gpu": (2**24, 2**27)}


@validate
def fused_linear_divergence(
  student_hidden: Float[Array, "*tokens student_width"],
  student_head: Head | ArrayLike,
  teacher_hidden: Float[Array, "*tokens teacher_width"],
  teacher_head: Head | ArrayLike | None,
  *,
  divergence: str | Divergence = "forward_kl",
  temperature: ArrayLike = 1.0,
  where: Bool[Array, "*tokens"] | None = None,
  weights: Float[Array, "*tokens"] | None = None,
  vocab_size: int | None = None,
  stop_teacher_gradient: bool = True,
  vocab_axis_name: str | None = None,
  chunk_size: int | None = None,
  implementation: str | None = None,
) -> Float[Array, "*tokens"]:
  r"""Fused linear divergence: from hidden states and heads, without logits.

  .. math::
    \ell = D(P, Q), \quad P = \mathrm{softmax}(z^T / T), \;
    Q = \mathrm{softmax}(z^S / T), \quad z = \mathrm{head}(h)

  with one of the divergences that `Divergence` lists. Memory beyond the
  arguments and their gradients does not grow with the number of tokens. Logits
  are float32 even where hidden states and heads are bfloat16. It has a reverse
  mode only.

  Args:
    student_hidden: `[*tokens, student_width]`.
    student_head: `[vocab, student_width]`, or a `Head`.
    teacher_hidden: `[*tokens, teacher_width]`, or the teacher's logits
      `[*tokens, vocab]` if its head is None.
    teacher_head: `[vocab, teacher_width]`, a `Head`, or None.
    divergence: its name, or a `Divergence` with its share.
    temperature: T > 0; a number, or one a token. It may be traced and
      receives no gradient.
    where: which tokens count; the others cost 0 and get no gradient, whatever
      they hold.
    weights: what the tokens' values are multiplied by; they receive no
      gradient. Prefer `where` and `weights` to a mask and to factors outside:
      the gradient of a sum of the values then needs no second computation of
      logits.
    vocab_size: how many classes there are; rows of a head beyond it are
      padding, cut before the softmax. By default the smaller vocabulary, if
      the larger one is no more than twice or 1024 classes larger.
    stop_teacher_gradient: False lets gradients reach the teacher.
    vocab_axis_name: the axis of `jax.shard_map` (with its default checks) over
      which both vocabularies are sharded, in equal parts; hidden states are
      whole on each of its devices. `vocab_size` then counts over all devices.
    chunk_size: how many tokens are computed at a time; by default so many
      that their logits take 512 MiB, on a CPU 4 MiB.
    implementation: "xla" for all tokens at once, which is the dense form,
      "chunked" for a scan over chunks of them; by default by size.

  Returns:
    One value a token, in nats, without a T^2 factor; float32 for
    half-precision arguments.

  Raises:
    ValueError: if shapes differ, a static temperature is not above 0, a static
      share is outside [0, 1], `vocab_size` exceeds a vocabulary or is needed
      to tell padding from a forgotten head, or there is no such divergence or
      implementation.
    TypeError: if an array is not floating-point.

  Differs from published codes: Liger and TRL round logits to bfloat16 before
  the softmax, which costs 5 to 10 % of the gradient, and Liger pads the smaller
  vocabulary's logits with zeros.

  Examples:
    >>> hidden, head = jnp.ones((2, 3)), jnp.eye(3)
    >>> fused_linear_divergence(hidden, head, hidden, Head(head, scale=2.0))
    Array([0., 0.], dtype=float32)

  References:
    Hsu et al., `Liger kernel: efficient Triton kernels for LLM training
    <https://arxiv.org/abs/2410.10989>`_, 2024; Wijmans et al., `Cut your losses
    in large-vocabulary language models <https://arxiv.org/abs/2411.09009>`_,
    2025.
  """
  student = as_linear("student", student_hidden, student_head)
  if teacher_head is None:
    teacher = teacher_hidden.reshape(-1, teacher_hidden.shape[-1])
    teacher_vocab = teacher.shape[-1]
  else:
    teacher = as_linear("teacher", teacher_hidden, teacher_head)
    teacher_vocab = teacher.head.weight.shape[0]
  student_vocab = student.head.weight.shape[0]
  largest = min(student_vocab, teacher_vocab)
  if vocab_axis_name is not None:
    if student_vocab != teacher_vocab:
      raise ValueError(
        f"fused_linear_divergence: the vocabularies' parts have "
        f"{student_vocab} and {teacher_vocab} rows; expected equal parts over "
        f"{vocab_axis_name!r}."
      )
    largest *= jax.lax.axis_size(vocab_axis_name)
  if vocab_size is None:
    _check_padding(student_vocab, teacher_vocab)
    vocab_size = largest
  check_integer("vocab_size", vocab_size, 1)
  if vocab_size > largest:
    raise ValueError(
      f"vocab_size is {vocab_size}; expected at most {largest}, the rows of "
      "the smaller head."
    )
  dtype = _dtype_of((student, teacher))
  name, shares = as_divergence(divergence, dtype)
  return linear_values(
    "fused_linear_divergence",
    DenseCriterion(name, vocab_axis_name),
    student,
    teacher,
    tokens=student_hidden.shape[:-1],
    vocab_size=vocab_size,
    temperature=temperature,
    shares=shares,
    where=where,
    weights=weights,
    stop_teacher_gradient=stop_teacher_gradient,
    chunk_size=chunk_size,
    implementation=implementation,
  )


def _check_padding(student: int, teacher: int) -> None:
  """Refuses what no padding explains, such as hidden states without a head."""
  small, large = sorted((student, teacher))
  if large > 2 * small and large - small > 1024:
    raise ValueError(
      f"fused_linear_divergence: the student has {student} classes and the "
      f"teacher {teacher}; expected as many but for padding. A teacher's "
      "hidden states need its head; if the rest is padding, give vocab_size."
    )


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
) -> Array:
  """Returns a criterion of a student's head and a teacher in rows."""
  dtype = _dtype_of((student, teacher))
  scale = row_temperature(temperature, jnp.zeros((*tokens, 1), dtype), -1)
  scale = jnp.broadcast_to(scale, (*tokens, 1)).reshape(-1)
  scale = jax.lax.stop_gradient(scale)
  size = scale.shape[0]
  if not size:
    return jnp.zeros(tokens, dtype)
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
  # What is whole on every device and gets a gradient varies like the rest from
  # here on, so that the gradient is summed over the devices.
  leaves = jax.tree.leaves((student, teacher, scale, factors))
  vary = functools.partial(jax.tree.map, lambda x: vary_like(x, *leaves))
  student = vary(student)
  teacher = teacher if stop_teacher_gradient else vary(teacher)
  plan = _Plan(criterion, chunk, vocab_size, not stop_teacher_gradient)
  inputs = _Inputs(student, teacher, scale, shares, factors)
  return _values(plan, inputs).reshape(tokens)


class _Plan(NamedTuple):
  """What is known at trace time."""

  criterion: Any
  chunk: int
  vocab_size: int
  teacher_gradient: bool


class _Inputs(NamedTuple):
  """The arrays, or the gradients that reach them."""

  student: Linear
  teacher: Any  # Linear, logits, or what the criterion takes
  scale: Any
  shares: Any
  weights: Any  # 0 for a token that does not count


class _Sums(NamedTuple):
  """Gradients of hidden states, a row each, and of heads, summed."""

  by_student: Array
  by_student_head: Head
  by_teacher: Array | None
  by_teacher_head: Head | None


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _values(plan: _Plan, inputs: _Inputs) -> Array:

  def body(carry: None, start: Array, _: Array) -> tuple[None, Array]:
    return carry, _chunk_rows(plan, _take(plan, inputs, start)).value

  _, values = over_chunks(body, None, inputs.scale.shape[0], plan.chunk)
  return values * inputs.weights


def _forward(plan: _Plan, inputs: _Inputs) -> tuple[Array, Any]:
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
  return numbers.value * inputs.weights, (inputs, carry, numbers)


def _backward(plan: _Plan, residuals: Any, cotangent: Array) -> tuple[_Inputs]:
  inputs, sums, numbers = residuals
  size = cotangent.shape[0]
  counted = inputs.weights != 0
  cotangent = jnp.where(counted, cotangent, 0.0)
  # The median of those that count: many may have it, and the difference to it
  # of a small cotangent is not rounded like the largest one.
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
  cotangent *= inputs.weights
  student = Linear(weigh(sums.by_student, cotangent), student_head)
  teacher = None
  if plan.teacher_gradient:
    teacher = weigh(sums.by_teacher, cotangent)
    if isinstance(inputs.teacher, Linear):
      teacher = Linear(teacher, teacher_head)
    teacher = _like(teacher, inputs.teacher)
  return (_Inputs(_like(student, inputs.student), teacher, None, None, None),)


_values.defvjp(_forward, _backward)


def _correct(
  plan: _Plan, heads: Any, chunk: _Inputs, rows: Any, weights: Array
) -> Any:
  """Adds what a chunk gives to the heads by these weights."""
  _, student, _, teacher = _chunk_gradients(plan, chunk, rows, weights)
  return _add(heads, (student, teacher))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _correct_if_needed(
  plan: _Plan, heads: Any, chunk: _Inputs, rows: Any, weights: Array
) -> Any:
  # Mapped over, `cond` lets all that its branches read vary: by then a branch
  # may not do so itself.
  chunk = jax.tree.map(lambda x: vary_like(x, weights), chunk)
  return jax.lax.cond(
    jnp.any(weights != 0),
    lambda heads: _correct(plan, heads, chunk, rows, weights),
    lambda heads: heads,
    heads,
  )


@_correct_if_needed.defjvp
def _(plan: _Plan, primals: Any, tangents: Any) -> tuple[Any, Any]:
  """Where weights are 0 their derivative is not."""
  correct = functools.partial(_correct, plan)
  return _correct_if_needed(plan, *primals), jax.jvp(
    correct, primals, tangents
  )[1]


def _take(plan: _Plan, inputs: _Inputs, start: Array) -> _Inputs:
  """Returns a chunk of the rows, with whole heads.

  Hidden states that do not count are zeros from here on: NaN times a gradient
  of 0 would still be NaN.
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
  )


def _chunk_logits(plan: _Plan, chunk: _Inputs) -> tuple[Array, Any]:
  """Returns the student's and the teacher's logits, padding cut."""
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
  """Returns the numbers of a chunk's rows, with 0 as value of masked ones."""
  rows = plan.criterion.rows(
    *_chunk_logits(plan, chunk), chunk.scale, chunk.shares
  )
  return rows._replace(value=jnp.where(chunk.weights != 0, rows.value, 0.0))


def _chunk_gradients(
  plan: _Plan, chunk: _Inputs, rows: Any, weights: Array
) -> tuple[Array, Head, Array | None, Head | None]:
  """Returns gradients of inputs, a row each, and of heads, summed by weight."""
  by_student, by_teacher = plan.criterion.gradients(
    *_chunk_logits(plan, chunk), chunk.scale, chunk.shares, rows
  )

  def back(side: Any, gradient: Array, vocab: int) -> Any:
    gradient = weigh(gradient, chunk.weights != 0)
    padding = vocab - gradient.shape[1]
    gradient = jnp.pad(gradient, ((0, 0), (0, padding)))
    if not isinstance(side, Linear):
      return gradient.astype(side.dtype), None
    return linear_gradients(side, gradient, weights)

  student = back(chunk.student, by_student, chunk.student.head.weight.shape[0])
  if not plan.teacher_gradient:
    return *student, None, None
  if isinstance(chunk.teacher, Linear):
    vocab = chunk.teacher.head.weight.shape[0]
  else:
    vocab = chunk.teacher.shape[1]
  return *student, *back(chunk.teacher, by_teacher, vocab)


def _add(a: Any, b: Any) -> Any:
  return jax.tree.map(jnp.add, a, b)


def _like(gradients: Any, arrays: Any) -> Any:
  return jax.tree.map(lambda g, x: g.astype(x.dtype), gradients, arrays)


def _dtype_of(sides: Any) -> Any:
  """Returns float32, or float64 if any array is; numbers are of any dtype."""
  floats = [
    x for x in jax.tree.leaves(sides) if jnp.issubdtype(x.dtype, jnp.floating)
  ]
  return jnp.result_type(jnp.float32, *floats)
