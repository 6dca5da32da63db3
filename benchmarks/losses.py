"""Times the losses against a plain JAX form, Optax and PyTorch.

  python -m benchmarks.losses

Every logit loss is timed as value and gradient with respect to the student,
which is what training asks for.
"""

import argparse
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import _frame
from kdjax import adaptation
from kdjax import distillation

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


def make_cases(flags: argparse.Namespace) -> list[_frame.Case]:
  """Builds the cases of one size."""
  shapes = SHAPES[flags.size]
  rng = np.random.default_rng(0)
  cases = []
  for rows, classes in shapes["logits"]:
    teacher = 3 * rng.normal(size=(rows, classes)).astype(np.float32)
    student = teacher + rng.normal(size=teacher.shape).astype(np.float32)
    labels = rng.integers(0, classes, rows)
    cases += [
      soft_target_case(student, teacher),
      kd_case(student, teacher, labels),
      jsd_case(student, teacher),
    ]
  n, width = shapes["embeddings"]
  source, target = rng.normal(size=(2, n, width)).astype(np.float32)
  cases += [mmd_case(source, target + 0.1), coral_case(source, 1.1 * target)]
  n, width = shapes["probe"]
  source, target = rng.normal(size=(2, n, width)).astype(np.float32)
  cases.append(probe_case(source, target + 1 / np.sqrt(width)))
  return cases


def with_gradient(loss: Callable[..., jax.Array]) -> Callable[..., Any]:
  """Returns the mean loss and its gradient in the first argument."""
  return jax.value_and_grad(
    lambda first, *rest: jnp.mean(loss(first, *rest).astype(jnp.float32))
  )


def torch_with_gradient(loss: Callable[..., Any]) -> Callable[..., Any]:
  """The same for PyTorch."""

  def call(first: Any, *rest: Any) -> tuple[Any, Any]:
    first = first.detach().requires_grad_()
    value = loss(first, *rest)
    value.backward()
    return value, first.grad

  return call


def torch_peers(loss: Callable[..., Any]) -> dict[str, Callable[..., Any]]:
  """Eager and, on a GPU, compiled PyTorch."""
  peers = {"torch eager": torch_with_gradient(loss)}
  torch = _frame.import_torch()
  if torch is not None and jax.default_backend() == "gpu":
    peers["torch.compile"] = torch_with_gradient(torch.compile(loss))
  return peers


def softmax64(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
  """Softened softmax in float64."""
  z = logits / temperature
  z = np.exp(z - z.max(-1, keepdims=True))
  return z / z.sum(-1, keepdims=True)


def naive_kl(student: jax.Array, teacher: jax.Array) -> jax.Array:
  """The form found in most JAX code: softmax, two log-softmaxes, a sum."""
  log_p = jax.nn.log_softmax(teacher.astype(jnp.float32) / TEMPERATURE)
  log_q = jax.nn.log_softmax(student.astype(jnp.float32) / TEMPERATURE)
  return TEMPERATURE**2 * jnp.sum(jnp.exp(log_p) * (log_p - log_q), -1)


def optax_kl(student: jax.Array, teacher: jax.Array) -> jax.Array:
  """Optax's divergence of log-probabilities and probabilities."""
  log_q = jax.nn.log_softmax(student.astype(jnp.float32) / TEMPERATURE)
  p = jax.nn.softmax(teacher.astype(jnp.float32) / TEMPERATURE)
  return TEMPERATURE**2 * optax.losses.kl_divergence(log_q, p)


def torch_kl(student: Any, teacher: Any) -> Any:
  """The form of RepDistiller and mdistiller."""
  functional = _frame.import_torch().nn.functional
  return TEMPERATURE**2 * functional.kl_div(
    functional.log_softmax(student / TEMPERATURE, dim=1),
    functional.softmax(teacher / TEMPERATURE, dim=1),
    reduction="batchmean",
  )


def soft_target_case(student: np.ndarray, teacher: np.ndarray) -> _frame.Case:
  """T^2 KL of logits."""

  def reference(student: np.ndarray, teacher: np.ndarray) -> Any:
    p, q = softmax64(teacher, TEMPERATURE), softmax64(student, TEMPERATURE)
    value = TEMPERATURE**2 * (p * np.log(p / q)).sum(-1).mean()
    return value, TEMPERATURE * (q - p) / len(student)

  return _frame.Case(
    f"soft_target_loss {list(student.shape)}",
    (student, teacher),
    reference,
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
    3 * student.nbytes,
  )


def kd_case(
  student: np.ndarray, teacher: np.ndarray, labels: np.ndarray
) -> _frame.Case:
  """The whole distillation loss."""

  def reference(
    student: np.ndarray, teacher: np.ndarray, labels: np.ndarray
  ) -> Any:
    p, q = softmax64(teacher, TEMPERATURE), softmax64(student, TEMPERATURE)
    hard = softmax64(student)
    rows = np.arange(len(labels))
    value = ALPHA * TEMPERATURE**2 * (p * np.log(p / q)).sum(-1).mean()
    value -= (1 - ALPHA) * np.log(hard[rows, labels]).mean()
    hard[rows, labels] -= 1
    gradient = ALPHA * TEMPERATURE * (q - p) + (1 - ALPHA) * hard
    return value, gradient / len(labels)

  def naive(student: jax.Array, teacher: jax.Array, labels: jax.Array) -> Any:
    hard = optax.softmax_cross_entropy_with_integer_labels(
      student.astype(jnp.float32), labels
    )
    return ALPHA * naive_kl(student, teacher) + (1 - ALPHA) * hard

  def peer(student: Any, teacher: Any, labels: Any) -> Any:
    hard = _frame.import_torch().nn.functional.cross_entropy(student, labels)
    return ALPHA * torch_kl(student, teacher) + (1 - ALPHA) * hard

  return _frame.Case(
    f"kd_loss {list(student.shape)}",
    (student, teacher, labels),
    reference,
    {
      "kdjax": with_gradient(
        lambda s, t, y: distillation.kd_loss(
          s, t, y, temperature=TEMPERATURE, alpha=ALPHA
        )
      ),
      "log_softmax": with_gradient(naive),
    },
    torch_peers(peer),
    3 * student.nbytes,
  )


def jsd64(student: np.ndarray, teacher: np.ndarray) -> Any:
  """Generalized Jensen-Shannon divergence at beta 0.5, with its gradient."""
  p, q = softmax64(teacher), softmax64(student)
  m = (p + q) / 2
  value = (p * np.log(p / m) + q * np.log(q / m)).sum(-1).mean() / 2
  slope = np.log(q / m) / 2
  gradient = q * (slope - (q * slope).sum(-1, keepdims=True))
  return value, gradient / len(student)


def naive_jsd(student: jax.Array, teacher: jax.Array) -> jax.Array:
  """Generalized Jensen-Shannon divergence by two log_softmax."""
  log_p = jax.nn.log_softmax(teacher.astype(jnp.float32))
  log_q = jax.nn.log_softmax(student.astype(jnp.float32))
  log_m = jnp.logaddexp(log_p, log_q) - jnp.log(2.0)
  terms = jnp.exp(log_p) * (log_p - log_m) + jnp.exp(log_q) * (log_q - log_m)
  return jnp.sum(terms, -1) / 2


def jsd_case(student: np.ndarray, teacher: np.ndarray) -> _frame.Case:
  """Generalized Jensen-Shannon divergence at beta 0.5."""

  def peer(student: Any, teacher: Any) -> Any:
    torch = _frame.import_torch()
    log_p = torch.log_softmax(teacher, -1)
    log_q = torch.log_softmax(student, -1)
    log_m = torch.logaddexp(log_p, log_q) - float(np.log(2))
    kl = torch.nn.functional.kl_div
    both = kl(log_m, log_p, reduction="batchmean", log_target=True) + kl(
      log_m, log_q, reduction="batchmean", log_target=True
    )
    return both / 2

  return _frame.Case(
    f"generalized_jsd_loss {list(student.shape)}",
    (student, teacher),
    jsd64,
    {
      "kdjax": with_gradient(distillation.generalized_jsd_loss),
      "log_softmax": with_gradient(naive_jsd),
    },
    torch_peers(peer),
    3 * student.nbytes,
  )


def mmd_case(source: np.ndarray, target: np.ndarray) -> _frame.Case:
  """Biased multi-kernel MMD with fixed gammas, the form of DomainBed."""
  gammas = (0.001, 0.01, 0.1)

  def reference(source: np.ndarray, target: np.ndarray) -> Any:
    def kernel(a: np.ndarray, b: np.ndarray) -> tuple[float, np.ndarray]:
      squares = (a * a).sum(1)[:, None] + (b * b).sum(1) - 2 * a @ b.T
      k = np.sum([np.exp(-g * squares) for g in gammas], 0)
      slope = np.sum([-2 * g * np.exp(-g * squares) for g in gammas], 0)
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
    torch = _frame.import_torch()

    def kernel(a: Any, b: Any) -> Any:
      squares = torch.cdist(a, b).square()
      return (
        torch.stack([torch.exp(-g * squares) for g in gammas]).sum(0).mean()
      )

    cross = kernel(source, target)
    return kernel(source, source) + kernel(target, target) - 2 * cross

  return _frame.Case(
    f"mmd {list(source.shape)}",
    (source, target),
    reference,
    {
      "kdjax": with_gradient(
        lambda s, t: adaptation.mmd(s, t, gammas=jnp.array(gammas))
      ),
      "(n, n, d) tensor": with_gradient(naive),
    },
    torch_peers(peer),
    3 * source.nbytes,
  )


def coral_case(source: np.ndarray, target: np.ndarray) -> _frame.Case:
  """Deep CORAL in the paper's scaling."""

  def reference(source: np.ndarray, target: np.ndarray) -> Any:
    n, width = source.shape
    difference = np.cov(source.T) - np.cov(target.T)
    value = np.square(difference).sum() / (4 * width**2)
    centred = source - source.mean(0)
    return value, centred @ difference / ((n - 1) * width**2)

  def naive(source: jax.Array, target: jax.Array) -> jax.Array:
    difference = jnp.cov(source.T) - jnp.cov(target.T)
    return jnp.sum(jnp.square(difference)) / (4 * source.shape[1] ** 2)

  def peer(source: Any, target: Any) -> Any:
    torch = _frame.import_torch()
    difference = torch.cov(source.T) - torch.cov(target.T)
    return difference.square().sum() / (4 * source.shape[1] ** 2)

  return _frame.Case(
    f"coral_loss {list(source.shape)}",
    (source, target),
    reference,
    {
      "kdjax": with_gradient(adaptation.coral_loss),
      "jnp.cov": with_gradient(naive),
    },
    torch_peers(peer),
    3 * source.nbytes,
  )


def probe_case(source: np.ndarray, target: np.ndarray) -> _frame.Case:
  """The exact H-divergence, five folds; the reference is itself in float64."""
  estimate = functools.partial(adaptation.h_divergence, folds=5)

  def reference(source: np.ndarray, target: np.ndarray) -> Any:
    with jax.enable_x64(True):
      return np.asarray(jax.jit(estimate)(source, target).value)

  return _frame.Case(
    f"h_divergence {list(source.shape)}",
    (source, target),
    reference,
    {"kdjax": lambda source, target: estimate(source, target).value},
    {},
    source.nbytes + target.nbytes,
  )


if __name__ == "__main__":
  _frame.run(make_cases, "Times the losses of kdjax beside their peers.")
