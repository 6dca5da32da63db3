"""Times the fused divergences against plain JAX forms and PyTorch.

  python -m benchmarks.fused

Value and gradient with respect to the student: its logits, or its hidden states
and its head.
"""

import argparse
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import _frame
from benchmarks.losses import jsd64
from benchmarks.losses import naive_jsd
from benchmarks.losses import softmax64
from benchmarks.losses import torch_peers
from benchmarks.losses import with_gradient
from kdjax import distillation
from kdjax import fused

TEMPERATURE = 2.0
# tokens and classes; tokens, classes, student's and teacher's width; and how
# many classes of the teacher a cache holds
SHAPES = {
  "tiny": {"logits": [(8, 50)], "linear": [(8, 50, 6, 8)], "known": 4},
  "cpu": {
    "logits": [(64, 32_000), (512, 32_000)],
    "linear": [(512, 16_000, 128, 256), (2048, 16_000, 128, 256)],
    "known": 64,
  },
  "gpu": {
    "logits": [(8192, 32_000), (8192, 128_256)],
    "linear": [(2048, 128_256, 2048, 4096), (8192, 128_256, 2048, 4096)],
    "known": 64,
  },
}
Arrays = tuple[np.ndarray, ...]


def make_cases(flags: argparse.Namespace) -> list[_frame.Case]:
  """Builds the cases of one size."""
  shapes = SHAPES[flags.size]
  rng = np.random.default_rng(0)
  cases = []
  for tokens, classes in shapes["logits"]:
    teacher = 3 * rng.normal(size=(tokens, classes)).astype(np.float32)
    student = teacher + rng.normal(size=teacher.shape).astype(np.float32)
    cases += [
      kl_case(student, teacher),
      jsd_case(student, teacher),
      sparse_case(student, teacher, shapes["known"]),
    ]
  for tokens, classes, width, teacher_width in shapes["linear"]:
    arrays = (
      rng.normal(size=(tokens, width)),
      3 * rng.normal(size=(classes, width)) / np.sqrt(width),
      rng.normal(size=(tokens, teacher_width)),
      3 * rng.normal(size=(classes, teacher_width)) / np.sqrt(teacher_width),
    )
    arrays = tuple(x.astype(np.float32) for x in arrays)
    cases += [linear_case(arrays, weighted=w) for w in (False, True)]
  return cases


def kl_of_softmax(student: jax.Array, teacher: jax.Array) -> jax.Array:
  """The form found in most JAX code, a value a token."""
  log_p = jax.nn.log_softmax(teacher.astype(jnp.float32) / TEMPERATURE)
  log_q = jax.nn.log_softmax(student.astype(jnp.float32) / TEMPERATURE)
  return jnp.sum(jnp.exp(log_p) * (log_p - log_q), -1)


def kl_of_logsumexp(student: jax.Array, teacher: jax.Array) -> jax.Array:
  """The same with fewer readings: two log-sum-exps and one mean."""
  teacher = teacher.astype(jnp.float32) / TEMPERATURE
  student = student.astype(jnp.float32) / TEMPERATURE
  log_p, log_q = (jax.nn.logsumexp(z, -1) for z in (teacher, student))
  p = jnp.exp(teacher - log_p[:, None])
  return jnp.sum(p * (teacher - student), -1) - log_p + log_q


def torch_kl(student: Any, teacher: Any) -> Any:
  """The form of TRL and of PyTorch's documentation, float32 inside."""
  functional = _frame.import_torch().nn.functional
  terms = functional.kl_div(
    functional.log_softmax(student.float() / TEMPERATURE, -1),
    functional.log_softmax(teacher.float() / TEMPERATURE, -1),
    reduction="none",
    log_target=True,
  )
  return terms.sum(-1)


def kl_case(student: np.ndarray, teacher: np.ndarray) -> _frame.Case:
  """KL of logits."""

  def reference(student: np.ndarray, teacher: np.ndarray) -> Any:
    p, q = softmax64(teacher, TEMPERATURE), softmax64(student, TEMPERATURE)
    value = (p * np.log(p / q)).sum(-1).mean()
    return value, (q - p) / (TEMPERATURE * len(student))

  ours = functools.partial(fused.fused_divergence, temperature=TEMPERATURE)
  return _frame.Case(
    f"forward_kl {list(student.shape)}",
    (student, teacher),
    reference,
    {
      "kdjax": with_gradient(ours),
      "kdjax, whole": with_gradient(
        functools.partial(ours, implementation="xla")
      ),
      "kdjax.distillation": with_gradient(
        lambda s, t: (
          distillation.soft_target_loss(s, t, temperature=TEMPERATURE)
          / TEMPERATURE**2
        )
      ),
      "logsumexp": with_gradient(kl_of_logsumexp),
      "log_softmax": with_gradient(kl_of_softmax),
    },
    torch_peers(lambda s, t: torch_kl(s, t).mean()),
    3 * student.nbytes,
  )


def jsd_case(student: np.ndarray, teacher: np.ndarray) -> _frame.Case:
  """Generalized Jensen-Shannon divergence at beta 0.5."""
  return _frame.Case(
    f"jsd {list(student.shape)}",
    (student, teacher),
    jsd64,
    {
      "kdjax": with_gradient(
        functools.partial(fused.fused_divergence, divergence="jsd")
      ),
      "kdjax.distillation": with_gradient(distillation.generalized_jsd_loss),
      "log_softmax": with_gradient(naive_jsd),
    },
    {},
    3 * student.nbytes,
  )


def sparse_case(
  student: np.ndarray, teacher: np.ndarray, known: int
) -> _frame.Case:
  """KL to the teacher's most probable classes, all others as one."""
  ids = np.argpartition(-teacher, known, -1)[:, :known]
  log_probs = np.take_along_axis(np.log(softmax64(teacher)), ids, -1)

  def reference(
    student: np.ndarray, ids: np.ndarray, log_probs: np.ndarray
  ) -> Any:
    p, q = np.zeros_like(student), softmax64(student)
    np.put_along_axis(p, ids, np.exp(log_probs), -1)
    rest_p = 1 - p.sum(-1, keepdims=True)
    rest_q = np.where(p > 0, 0, q).sum(-1, keepdims=True)
    terms = np.where(p > 0, p * np.log(np.where(p > 0, p, 1) / q), 0)
    value = terms.sum(-1) + (rest_p * np.log(rest_p / rest_q))[:, 0]
    gradient = np.where(p > 0, q - p, q * (1 - rest_p / rest_q))
    return value.mean(), gradient / len(student)

  def naive(
    student: jax.Array, ids: jax.Array, log_probs: jax.Array
  ) -> jax.Array:
    """As DistillKit and TRL: the rest is 1 less the known classes."""
    log_q = jax.nn.log_softmax(student.astype(jnp.float32))
    log_p = log_probs.astype(jnp.float32)
    log_q = jnp.take_along_axis(log_q, ids, -1)
    rest_p, rest_q = (
      jnp.log1p(-jnp.sum(jnp.exp(x), -1)) for x in (log_p, log_q)
    )
    known = jnp.sum(jnp.exp(log_p) * (log_p - log_q), -1)
    return known + jnp.exp(rest_p) * (rest_p - rest_q)

  return _frame.Case(
    f"sparse, {known} known, {list(student.shape)}",
    (student, ids, log_probs.astype(np.float32)),
    reference,
    {
      "kdjax": with_gradient(fused.sparse_divergence),
      "kdjax, whole": with_gradient(
        functools.partial(fused.sparse_divergence, implementation="xla")
      ),
      "log_softmax": with_gradient(naive),
    },
    {},
    2 * student.nbytes,
  )


def linear_case(arrays: Arrays, *, weighted: bool) -> _frame.Case:
  """KL from hidden states and heads; the floor is that of five products.

  Weighted, the tokens count unequally and the loss does not know it.
  """
  tokens, width = arrays[0].shape
  classes, teacher_width = arrays[3].shape
  weights = np.linspace(0.5, 1.5, tokens) if weighted else np.ones(tokens)

  def reference(*arrays: np.ndarray) -> Any:
    hidden, head, teacher_hidden, teacher_head, weights = arrays
    q = softmax64(hidden @ head.T, TEMPERATURE)
    p = softmax64(teacher_hidden @ teacher_head.T, TEMPERATURE)
    value = (weights * (p * np.log(p / q)).sum(-1)).mean()
    gradient = weights[:, None] * (q - p) / (TEMPERATURE * len(hidden))
    return value, (gradient @ head, gradient.T @ hidden)

  def both(loss: Callable[..., jax.Array]) -> Callable[..., Any]:
    def mean(*arrays: jax.Array) -> jax.Array:
      return jnp.mean(arrays[-1].astype(jnp.float32) * loss(*arrays[:-1]))

    return jax.value_and_grad(mean, (0, 1))

  def dense(*arrays: jax.Array) -> jax.Array:
    hidden, head, teacher_hidden, teacher_head = arrays
    return kl_of_logsumexp(hidden @ head.T, teacher_hidden @ teacher_head.T)

  def scanned(*arrays: jax.Array) -> jax.Array:
    """A scan over chunks that are computed again, as in EasyDeL."""
    hidden, head, teacher_hidden, teacher_head = arrays
    chunk = min(256, tokens)
    pairs = [
      x.reshape(-1, chunk, x.shape[-1]) for x in (hidden, teacher_hidden)
    ]
    return jax.lax.map(
      jax.checkpoint(lambda pair: dense(pair[0], head, pair[1], teacher_head)),
      pairs,
    ).ravel()

  def peer(*arrays: Any) -> Any:
    hidden, head, teacher_hidden, teacher_head, weights = arrays
    hidden, head = (x.detach().requires_grad_() for x in (hidden, head))
    value = (
      weights * torch_kl(hidden @ head.T, teacher_hidden @ teacher_head.T)
    ).mean()
    value.backward()
    return value, (hidden.grad, head.grad)

  ours = functools.partial(
    fused.fused_linear_divergence, temperature=TEMPERATURE
  )
  shape = [tokens, classes, width, teacher_width]
  return _frame.Case(
    f"linear forward_kl {shape}{', weighted' if weighted else ''}",
    (*arrays, weights.astype(np.float32)),
    reference,
    {
      "kdjax": both(ours),
      "kdjax, whole": both(functools.partial(ours, implementation="xla")),
      "dense": both(dense),
      "scan, checkpoint": both(scanned),
    },
    {"torch eager": peer},
    sum(x.nbytes for x in (*arrays, *arrays[:2])),
    operations=2 * tokens * classes * (3 * width + teacher_width),
  )


if __name__ == "__main__":
  _frame.run(make_cases, "Times the fused divergences beside their peers.")
