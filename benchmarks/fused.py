"""Times the fused divergences against plain JAX forms and PyTorch.

  python -m benchmarks.fused

Value and gradient with respect to the student: its logits, or its hidden states
and its head.
"""

import argparse
import functools
import importlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import _frame
from benchmarks._losses import at_least_float32
from benchmarks._losses import draw
from benchmarks._losses import draw_logits
from benchmarks._losses import exact_jsd
from benchmarks._losses import naive_jsd
from benchmarks._losses import softmax
from benchmarks._losses import torch_peers
from benchmarks._losses import with_gradient
from benchmarks._measure import Case
from benchmarks._measure import import_torch
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


def make_cases(flags: argparse.Namespace) -> list[Case]:
  """Builds the cases of one size."""
  shapes = SHAPES[flags.size]
  cases = []
  for tokens, classes in shapes["logits"]:
    cases += [
      kl_case(tokens, classes),
      jsd_case(tokens, classes),
      sparse_case(tokens, classes, shapes["known"]),
    ]
  for shape in shapes["linear"]:
    cases += [linear_case(*shape, weighted=w) for w in (False, True)]
  return cases


def kl_of_softmax(student: jax.Array, teacher: jax.Array) -> jax.Array:
  """The form found in most JAX code, a value a token."""
  log_p = jax.nn.log_softmax(at_least_float32(teacher) / TEMPERATURE)
  log_q = jax.nn.log_softmax(at_least_float32(student) / TEMPERATURE)
  return jnp.sum(jnp.exp(log_p) * (log_p - log_q), -1)


def kl_of_logsumexp(student: jax.Array, teacher: jax.Array) -> jax.Array:
  """The same with fewer readings: two log-sum-exps and one mean."""
  teacher = at_least_float32(teacher) / TEMPERATURE
  student = at_least_float32(student) / TEMPERATURE
  log_p, log_q = (jax.nn.logsumexp(z, -1) for z in (teacher, student))
  p = jnp.exp(teacher - log_p[:, None])
  return jnp.sum(p * (teacher - student), -1) - log_p + log_q


def torch_kl(student: Any, teacher: Any) -> Any:
  """The form of TRL and of PyTorch's documentation, float32 inside."""
  functional = import_torch().nn.functional
  terms = functional.kl_div(
    functional.log_softmax(student.float() / TEMPERATURE, -1),
    functional.log_softmax(teacher.float() / TEMPERATURE, -1),
    reduction="none",
    log_target=True,
  )
  return terms.sum(-1)


def liger_peers() -> dict[str, Callable[..., Any]]:
  """Liger's chunks of 1024 tokens, where its package can be imported."""
  try:
    chunked_loss = importlib.import_module("liger_kernel.chunked_loss.jsd_loss")
  except ImportError:
    return {}
  loss = chunked_loss.LigerFusedLinearJSDLoss(
    weight_hard_loss=0.0,
    weight_soft_loss=1.0,
    beta=0.0,  # the forward KL
    temperature=TEMPERATURE,
    compiled=jax.default_backend() == "gpu",
  )

  def peer(*arrays: Any) -> Any:
    hidden, head, teacher_hidden, teacher_head, _ = arrays
    hidden, head = (x.detach().requires_grad_() for x in (hidden, head))
    labels = hidden.new_zeros(len(hidden)).long()
    value = loss(hidden, head, teacher_hidden, teacher_head, labels)
    value.backward()
    return value, (hidden.grad, head.grad)

  return {"torch, Liger chunked": peer}


def kl_case(tokens: int, classes: int) -> Case:
  """KL of logits."""

  def reference(student: jax.Array, teacher: jax.Array) -> Any:
    p, q = softmax(teacher, TEMPERATURE), softmax(student, TEMPERATURE)
    value = (p * jnp.log(p / q)).sum(-1).mean()
    return value, (q - p) / (TEMPERATURE * len(student))

  ours = functools.partial(fused.fused_divergence, temperature=TEMPERATURE)
  return Case(
    "forward_kl",
    f"[{tokens}, {classes}]",
    tokens,
    "tokens",
    functools.partial(draw_logits, tokens, classes),
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
    12 * tokens * classes,
    reference=reference,
  )


def jsd_case(tokens: int, classes: int) -> Case:
  """Generalized Jensen-Shannon divergence at beta 0.5."""
  return Case(
    "jsd",
    f"[{tokens}, {classes}]",
    tokens,
    "tokens",
    functools.partial(draw_logits, tokens, classes),
    {
      "kdjax": with_gradient(
        functools.partial(fused.fused_divergence, divergence="jsd")
      ),
      "kdjax.distillation": with_gradient(distillation.generalized_jsd_loss),
      "log_softmax": with_gradient(naive_jsd),
    },
    {},
    12 * tokens * classes,
    reference=exact_jsd,
  )


def sparse_case(tokens: int, classes: int, known: int) -> Case:
  """KL to the teacher's most probable classes, all others as one."""

  def inputs() -> tuple[jax.Array, ...]:
    student, teacher = draw_logits(tokens, classes)
    log_probs, ids = jax.lax.top_k(jax.nn.log_softmax(teacher), known)
    return student, ids, log_probs

  def reference(
    student: jax.Array, ids: jax.Array, log_probs: jax.Array
  ) -> Any:
    q, row = softmax(student), jnp.arange(tokens)[:, None]
    p = jnp.zeros_like(q).at[row, ids].set(jnp.exp(log_probs))
    rest_p = 1 - p.sum(-1, keepdims=True)
    rest_q = jnp.where(p > 0, 0, q).sum(-1, keepdims=True)
    terms = jnp.where(p > 0, p * jnp.log(jnp.where(p > 0, p, 1) / q), 0)
    value = terms.sum(-1) + (rest_p * jnp.log(rest_p / rest_q))[:, 0]
    gradient = jnp.where(p > 0, q - p, q * (1 - rest_p / rest_q))
    return value.mean(), gradient / tokens

  def naive(
    student: jax.Array, ids: jax.Array, log_probs: jax.Array
  ) -> jax.Array:
    """As DistillKit and TRL: the rest is 1 less the known classes."""
    log_q = jax.nn.log_softmax(at_least_float32(student))
    log_p = at_least_float32(log_probs)
    log_q = jnp.take_along_axis(log_q, ids, -1)
    rest_p, rest_q = (
      jnp.log1p(-jnp.sum(jnp.exp(x), -1)) for x in (log_p, log_q)
    )
    known = jnp.sum(jnp.exp(log_p) * (log_p - log_q), -1)
    return known + jnp.exp(rest_p) * (rest_p - rest_q)

  return Case(
    f"sparse, {known} known",
    f"[{tokens}, {classes}]",
    tokens,
    "tokens",
    inputs,
    {
      "kdjax": with_gradient(fused.sparse_divergence),
      "kdjax, whole": with_gradient(
        functools.partial(fused.sparse_divergence, implementation="xla")
      ),
      "log_softmax": with_gradient(naive),
    },
    {},
    8 * tokens * classes,
    reference=reference,
  )


def linear_case(
  tokens: int, classes: int, width: int, teacher_width: int, *, weighted: bool
) -> Case:
  """KL from hidden states and heads; the floor is that of five products.

  Weighted, the tokens count unequally; outside, the loss does not know it.
  """

  def inputs() -> tuple[jax.Array, ...]:
    ones = jnp.ones(tokens)
    return (
      draw(0, tokens, width),
      3 * draw(1, classes, width) / width**0.5,
      draw(2, tokens, teacher_width),
      3 * draw(3, classes, teacher_width) / teacher_width**0.5,
      jnp.linspace(0.5, 1.5, tokens) if weighted else ones,
    )

  def reference(*arrays: jax.Array) -> Any:
    hidden, head, teacher_hidden, teacher_head, weights = arrays
    q = softmax(hidden @ head.T, TEMPERATURE)
    p = softmax(teacher_hidden @ teacher_head.T, TEMPERATURE)
    value = (weights * (p * jnp.log(p / q)).sum(-1)).mean()
    gradient = weights[:, None] * (q - p) / (TEMPERATURE * tokens)
    return value, (gradient @ head, gradient.T @ hidden)

  def both(loss: Callable[..., jax.Array]) -> Callable[..., Any]:
    def mean(*arrays: jax.Array) -> jax.Array:
      return jnp.mean(at_least_float32(arrays[-1]) * loss(*arrays[:-1]))

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

  def inside(*arrays: jax.Array) -> jax.Array:
    return jnp.mean(ours(*arrays[:-1], weights=arrays[-1]))

  heads = classes * (width + teacher_width) + classes * width
  hidden = tokens * (width + teacher_width) + tokens * width
  return Case(
    f"linear forward_kl{', weighted' if weighted else ''}",
    f"[{tokens}, {classes}, {width}, {teacher_width}]",
    tokens,
    "tokens",
    inputs,
    {
      "kdjax": jax.value_and_grad(inside, (0, 1)),
      **({"kdjax, weights outside": both(ours)} if weighted else {}),
      "kdjax, whole": both(functools.partial(ours, implementation="xla")),
      "dense": both(dense),
      "scan, checkpoint": both(scanned),
    },
    # Liger's loss has no weights of tokens.
    {"torch eager": peer} | ({} if weighted else liger_peers()),
    4 * (heads + hidden),
    operations=2 * tokens * classes * (3 * width + teacher_width),
    reference=reference,
  )


if __name__ == "__main__":
  _frame.run(make_cases, "Times the fused divergences beside their peers.")
