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
from benchmarks._losses import (
  at_least_float32,
  draw,
  draw_logits,
  exact_jsd,
  naive_jsd,
  softmax,
  torch_peers,
  with_gradient,
)
from benchmarks._measure import Case, import_torch
from kdjax import distillation, fused

TEMPERATURE = 2.0
ALPHA = 0.5  # the share of the divergence, beside the cross-entropy
# tokens and classes; tokens, classes, student's and teacher's width; and how
# many classes of the teacher a cache holds
SHAPES = {
  "tiny": {
    "logits": [(8, 50)],
    "linear": [(8, 50, 6, 8)],
    "distillation": [(8, 50, 6, 8)],
    "known": 4,
  },
  "cpu": {
    "logits": [(64, 32_000), (512, 32_000)],
    "linear": [(512, 16_000, 128, 256), (2048, 16_000, 128, 256)],
    "distillation": [(1024, 16_000, 128, 256)],
    "known": 64,
  },
  "gpu": {
    "logits": [(8192, 32_000), (8192, 128_256)],
    "linear": [(2048, 128_256, 2048, 4096), (8192, 128_256, 2048, 4096)],
    "distillation": [(8192, 128_256, 2048, 4096)],
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
  cases += [distillation_case(*shape) for shape in shapes["distillation"]]
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


def distillation_case(
  tokens: int, classes: int, width: int, teacher_width: int
) -> Case:
  """The loss of most recipes: alpha T^2 KL + (1 - alpha) cross-entropy."""
  shares = ALPHA * TEMPERATURE**2, 1 - ALPHA

  def inputs() -> tuple[jax.Array, ...]:
    labels = jax.random.randint(jax.random.key(4), (tokens,), 0, classes)
    return (
      draw(0, tokens, width),
      3 * draw(1, classes, width) / width**0.5,
      draw(2, tokens, teacher_width),
      3 * draw(3, classes, teacher_width) / teacher_width**0.5,
      labels,
    )

  def reference(*arrays: jax.Array) -> Any:
    hidden, head, teacher_hidden, teacher_head, labels = arrays
    logits = hidden @ head.T
    q, hard = softmax(logits, TEMPERATURE), softmax(logits)
    p = softmax(teacher_hidden @ teacher_head.T, TEMPERATURE)
    own = hard[jnp.arange(tokens), labels]
    value = shares[0] * (p * jnp.log(p / q)).sum(-1) - shares[1] * jnp.log(own)
    hard = hard.at[jnp.arange(tokens), labels].add(-1)
    gradient = shares[0] * (q - p) / TEMPERATURE + shares[1] * hard
    gradient /= tokens
    return value.mean(), (gradient @ head, gradient.T @ hidden)

  def both(loss: Callable[..., jax.Array]) -> Callable[..., Any]:
    return jax.value_and_grad(lambda *arrays: jnp.mean(loss(*arrays)), (0, 1))

  def one_pass(*arrays: jax.Array) -> jax.Array:
    divergence, hard = fused.linear_distillation(
      *arrays,
      temperature=TEMPERATURE,
      divergence_weight=shares[0],
      cross_entropy_weight=shares[1],
    )
    return divergence + hard

  def outside(*arrays: jax.Array) -> jax.Array:
    divergence, hard = fused.linear_distillation(
      *arrays, temperature=TEMPERATURE
    )
    return shares[0] * divergence + shares[1] * hard

  def two_passes(*arrays: jax.Array) -> jax.Array:
    hidden, head, *_, labels = arrays
    divergence = fused.fused_linear_divergence(
      *arrays[:-1], temperature=TEMPERATURE
    )
    hard = fused.linear_cross_entropy(hidden, head, labels)
    return shares[0] * divergence + shares[1] * hard

  def dense_of(
    hidden: jax.Array,
    head: jax.Array,
    teacher_hidden: jax.Array,
    teacher_head: jax.Array,
    labels: jax.Array,
  ) -> jax.Array:
    """The form with the fewest readings: three log-sum-exps and one mean."""
    logits = at_least_float32(hidden @ head.T)
    divergence = kl_of_logsumexp(logits, teacher_hidden @ teacher_head.T)
    own = jnp.take_along_axis(logits, labels[:, None], -1)[:, 0]
    hard = jax.nn.logsumexp(logits, -1) - own
    return shares[0] * divergence + shares[1] * hard

  def softmaxes(*arrays: jax.Array) -> jax.Array:
    """As in EasyDeL: a softmax, three log-softmaxes, labels gathered."""
    hidden, head, teacher_hidden, teacher_head, labels = arrays
    logits = at_least_float32(hidden @ head.T)
    teacher = at_least_float32(teacher_hidden @ teacher_head.T)
    log_q = jax.nn.log_softmax(logits / TEMPERATURE)
    p = jax.nn.softmax(teacher / TEMPERATURE)
    log_p = jax.nn.log_softmax(teacher / TEMPERATURE)
    divergence = jnp.sum(p * (log_p - log_q), -1)
    log_hard = jax.nn.log_softmax(logits)
    own = jnp.take_along_axis(log_hard, labels[:, None], -1)[:, 0]
    return shares[0] * divergence - shares[1] * own

  def one_hot(*arrays: jax.Array) -> jax.Array:
    """As in MaxText: one-hot labels, and log-probabilities of both at T."""
    hidden, head, teacher_hidden, teacher_head, labels = arrays
    logits = at_least_float32(hidden @ head.T)
    teacher = at_least_float32(teacher_hidden @ teacher_head.T)
    log_q = jax.nn.log_softmax(logits / TEMPERATURE)
    log_p = jax.nn.log_softmax(teacher / TEMPERATURE)
    divergence = jnp.sum(jnp.exp(log_p) * (log_p - log_q), -1)
    targets = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    hard = -jnp.sum(targets * jax.nn.log_softmax(logits), -1)
    return shares[0] * divergence + shares[1] * hard

  def scanned(*arrays: jax.Array) -> jax.Array:
    """As in EasyDeL: a scan over chunks of 128 tokens, computed again."""
    hidden, head, teacher_hidden, teacher_head, labels = arrays
    chunk = min(128, tokens)
    parts = [
      x.reshape(-1, chunk, *x.shape[1:])
      for x in (hidden, teacher_hidden, labels)
    ]
    return jax.lax.map(
      jax.checkpoint(
        lambda part: dense_of(part[0], head, part[1], teacher_head, part[2])
      ),
      parts,
    ).ravel()

  def torch_dense(*arrays: Any) -> Any:
    functional = import_torch().nn.functional
    hidden, head, teacher_hidden, teacher_head, labels = arrays
    hidden, head = (x.detach().requires_grad_() for x in (hidden, head))
    logits = hidden @ head.T
    divergence = torch_kl(logits, teacher_hidden @ teacher_head.T).mean()
    hard = functional.cross_entropy(logits.float(), labels.long())
    value = shares[0] * divergence + shares[1] * hard
    value.backward()
    return value, (hidden.grad, head.grad)

  heads = classes * (width + teacher_width) + classes * width
  hidden = tokens * (width + teacher_width) + tokens * width
  return Case(
    "linear distillation",
    f"[{tokens}, {classes}, {width}, {teacher_width}]",
    tokens,
    "tokens",
    inputs,
    {
      "kdjax": both(one_pass),
      "kdjax, weights outside": both(outside),
      "kdjax, two passes": both(two_passes),
      "dense, logsumexp": both(dense_of),
      "dense, softmaxes": both(softmaxes),
      "dense, one-hot": both(one_hot),
      "scan, checkpoint": both(scanned),
    },
    {"torch eager": torch_dense},
    4 * (heads + hidden),
    operations=2 * tokens * classes * (3 * width + teacher_width),
    reference=reference,
  )


if __name__ == "__main__":
  _frame.run(make_cases, "Times the fused divergences beside their peers.")
