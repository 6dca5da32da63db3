"""Times the losses against a plain JAX form, Optax and PyTorch.

  python -m benchmarks.losses

Every logit loss is timed as value and gradient with respect to the student,
which is what training asks for.
"""

import argparse
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

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
from kdjax import adaptation, distillation

TEMPERATURE = 4.0
ALPHA = 0.9
# rows and classes of the logits; rows and width of the embeddings
SHAPES = {
  "tiny": {"logits": [(8, 10)], "embeddings": (16, 4), "probe": (40, 3)},
  "cpu": {
    "logits": [(1024, 100), (64, 32_000)],
    "embeddings": (512, 256),
    "probe": (10_000, 256),
  },
  "gpu": {
    "logits": [(1024, 1000), (8192, 32_000)],
    "embeddings": (4096, 256),
    "probe": (10_000, 256),
  },
}


def make_cases(flags: argparse.Namespace) -> list[Case]:
  """Builds the cases of one size."""
  shapes = SHAPES[flags.size]
  cases = []
  for rows, classes in shapes["logits"]:
    cases += [
      make(rows, classes) for make in (soft_target_case, kd_case, jsd_case)
    ]
  rows, width = shapes["embeddings"]
  cases += [mmd_case(rows, width), coral_case(rows, width)]
  return [*cases, probe_case(*shapes["probe"])]


def naive_kl(student: jax.Array, teacher: jax.Array) -> jax.Array:
  """The form found in most JAX code: softmax, two log-softmaxes, a sum."""
  log_p = jax.nn.log_softmax(at_least_float32(teacher) / TEMPERATURE)
  log_q = jax.nn.log_softmax(at_least_float32(student) / TEMPERATURE)
  return TEMPERATURE**2 * jnp.sum(jnp.exp(log_p) * (log_p - log_q), -1)


def optax_kl(student: jax.Array, teacher: jax.Array) -> jax.Array:
  """Optax's divergence of log-probabilities and probabilities."""
  log_q = jax.nn.log_softmax(at_least_float32(student) / TEMPERATURE)
  p = jax.nn.softmax(at_least_float32(teacher) / TEMPERATURE)
  return TEMPERATURE**2 * optax.losses.kl_divergence(log_q, p)


def torch_kl(student: Any, teacher: Any) -> Any:
  """The form of RepDistiller and mdistiller."""
  functional = import_torch().nn.functional
  return TEMPERATURE**2 * functional.kl_div(
    functional.log_softmax(student / TEMPERATURE, dim=1),
    functional.softmax(teacher / TEMPERATURE, dim=1),
    reduction="batchmean",
  )


def soft_target_case(rows: int, classes: int) -> Case:
  """T^2 KL of logits."""

  def reference(student: jax.Array, teacher: jax.Array) -> Any:
    p, q = softmax(teacher, TEMPERATURE), softmax(student, TEMPERATURE)
    value = TEMPERATURE**2 * (p * jnp.log(p / q)).sum(-1).mean()
    return value, TEMPERATURE * (q - p) / len(student)

  return Case(
    "soft_target_loss",
    f"[{rows}, {classes}]",
    rows,
    "examples",
    functools.partial(draw_logits, rows, classes),
    {
      "kdjax": with_gradient(
        lambda s, t: distillation.soft_target_loss(
          s, t, temperature=TEMPERATURE
        )
      ),
      "log_softmax": with_gradient(naive_kl),
      "optax": with_gradient(optax_kl),
    },
    torch_peers(torch_kl),
    12 * rows * classes,
    reference=reference,
  )


def kd_case(rows: int, classes: int) -> Case:
  """The whole distillation loss."""

  def reference(
    student: jax.Array, teacher: jax.Array, labels: jax.Array
  ) -> Any:
    p, q = softmax(teacher, TEMPERATURE), softmax(student, TEMPERATURE)
    hard = softmax(student)
    own = jax.nn.one_hot(labels, classes, dtype=hard.dtype)
    soft_value = TEMPERATURE**2 * (p * jnp.log(p / q)).sum(-1).mean()
    hard_value = -jnp.log((hard * own).sum(-1)).mean()
    gradient = ALPHA * TEMPERATURE * (q - p) + (1 - ALPHA) * (hard - own)
    return ALPHA * soft_value + (1 - ALPHA) * hard_value, gradient / rows

  def naive(student: jax.Array, teacher: jax.Array, labels: jax.Array) -> Any:
    hard = optax.softmax_cross_entropy_with_integer_labels(
      at_least_float32(student), labels
    )
    return ALPHA * naive_kl(student, teacher) + (1 - ALPHA) * hard

  def peer(student: Any, teacher: Any, labels: Any) -> Any:
    hard = import_torch().nn.functional.cross_entropy(student, labels)
    return ALPHA * torch_kl(student, teacher) + (1 - ALPHA) * hard

  def inputs() -> tuple[jax.Array, ...]:
    labels = jax.random.randint(jax.random.key(2), (rows,), 0, classes)
    return *draw_logits(rows, classes), labels

  return Case(
    "kd_loss",
    f"[{rows}, {classes}]",
    rows,
    "examples",
    inputs,
    {
      "kdjax": with_gradient(
        lambda s, t, y: distillation.kd_loss(
          s, t, y, temperature=TEMPERATURE, alpha=ALPHA
        )
      ),
      "log_softmax": with_gradient(naive),
    },
    torch_peers(peer),
    12 * rows * classes,
    reference=reference,
  )


def jsd_case(rows: int, classes: int) -> Case:
  """Generalized Jensen-Shannon divergence at beta 0.5."""

  def peer(student: Any, teacher: Any) -> Any:
    torch = import_torch()
    log_p = torch.log_softmax(teacher, -1)
    log_q = torch.log_softmax(student, -1)
    log_m = torch.logaddexp(log_p, log_q) - float(np.log(2))
    kl = torch.nn.functional.kl_div
    both = kl(log_m, log_p, reduction="batchmean", log_target=True) + kl(
      log_m, log_q, reduction="batchmean", log_target=True
    )
    return both / 2

  return Case(
    "generalized_jsd_loss",
    f"[{rows}, {classes}]",
    rows,
    "examples",
    functools.partial(draw_logits, rows, classes),
    {
      "kdjax": with_gradient(distillation.generalized_jsd_loss),
      "log_softmax": with_gradient(naive_jsd),
    },
    torch_peers(peer),
    12 * rows * classes,
    reference=exact_jsd,
  )


def mmd_case(rows: int, width: int) -> Case:
  """Biased multi-kernel MMD with fixed gammas, the form of DomainBed."""
  gammas = (0.001, 0.01, 0.1)

  def reference(source: jax.Array, target: jax.Array) -> Any:
    def kernel(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
      squares = (a * a).sum(1)[:, None] + (b * b).sum(1)[None] - 2 * a @ b.T
      terms = [jnp.exp(-g * squares) for g in gammas]
      k = sum(terms, jnp.zeros(()))
      slope = sum(
        (-2 * g * x for g, x in zip(gammas, terms, strict=True)), k * 0
      )
      gradient = a * slope.sum(1, keepdims=True) - slope @ b
      return k.mean(), gradient / k.size

    (ss, grad_ss), (st, grad_st) = (
      kernel(source, source),
      kernel(source, target),
    )
    tt, _ = kernel(target, target)
    return ss + tt - 2 * st, 2 * grad_ss - 2 * grad_st

  def naive(source: jax.Array, target: jax.Array) -> jax.Array:
    def kernel(a: jax.Array, b: jax.Array) -> jax.Array:
      squares = jnp.sum(jnp.square(a[:, None] - b[None]), -1)
      return jnp.mean(sum(jnp.exp(-g * squares) for g in gammas))

    cross = kernel(source, target)
    return kernel(source, source) + kernel(target, target) - 2 * cross

  def peer(source: Any, target: Any) -> Any:
    torch = import_torch()

    def kernel(a: Any, b: Any) -> Any:
      squares = torch.cdist(a, b).square()
      return (
        torch.stack([torch.exp(-g * squares) for g in gammas]).sum(0).mean()
      )

    cross = kernel(source, target)
    return kernel(source, source) + kernel(target, target) - 2 * cross

  return Case(
    "mmd",
    f"[{rows}, {width}]",
    rows,
    "examples",
    lambda: (draw(0, rows, width), draw(1, rows, width) + 0.1),
    {
      "kdjax": with_gradient(
        lambda s, t: adaptation.mmd(s, t, gammas=jnp.array(gammas))
      ),
      "(n, n, d) tensor": with_gradient(naive),
    },
    torch_peers(peer),
    12 * rows * width,
    reference=reference,
  )


def coral_case(rows: int, width: int) -> Case:
  """Deep CORAL in the paper's scaling."""

  def reference(source: jax.Array, target: jax.Array) -> Any:
    difference = jnp.cov(source.T) - jnp.cov(target.T)
    value = jnp.square(difference).sum() / (4 * width**2)
    centred = source - source.mean(0, keepdims=True)
    return value, centred @ difference / ((rows - 1) * width**2)

  def naive(source: jax.Array, target: jax.Array) -> jax.Array:
    difference = jnp.cov(source.T) - jnp.cov(target.T)
    return jnp.sum(jnp.square(difference)) / (4 * source.shape[1] ** 2)

  def peer(source: Any, target: Any) -> Any:
    torch = import_torch()
    difference = torch.cov(source.T) - torch.cov(target.T)
    return difference.square().sum() / (4 * source.shape[1] ** 2)

  return Case(
    "coral_loss",
    f"[{rows}, {width}]",
    rows,
    "examples",
    lambda: (draw(0, rows, width), 1.1 * draw(1, rows, width)),
    {
      "kdjax": with_gradient(adaptation.coral_loss),
      "jnp.cov": with_gradient(naive),
    },
    torch_peers(peer),
    12 * rows * width,
    reference=reference,
  )


def probe_case(rows: int, width: int) -> Case:
  """The exact H-divergence, five folds, against itself in float64."""
  estimate = functools.partial(adaptation.h_divergence, folds=5)

  def inputs() -> tuple[jax.Array, ...]:
    return draw(0, rows, width), draw(1, rows, width) + width**-0.5

  return Case(
    "h_divergence",
    f"[{rows}, {width}]",
    rows,
    "examples",
    inputs,
    {"kdjax": lambda source, target: estimate(source, target).value},
    {},
    8 * rows * width,
    reference=lambda source, target: estimate(source, target).value,
  )


if __name__ == "__main__":
  _frame.run(make_cases, "Times the losses of kdjax beside their peers.")
