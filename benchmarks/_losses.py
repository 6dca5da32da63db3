"""Parts of all benchmarks of losses: inputs, gradients, peers."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks._measure import import_torch


def draw(seed: int, *shape: int) -> jax.Array:
  """Draws from a standard normal distribution, on the device."""
  return jax.random.normal(jax.random.key(seed), shape)


def draw_logits(rows: int, classes: int) -> tuple[jax.Array, jax.Array]:
  """Draws a student's logits, and a teacher's not far from them."""
  teacher = 3 * draw(0, rows, classes)
  return teacher + draw(1, rows, classes), teacher


def with_gradient(loss: Callable[..., jax.Array]) -> Callable[..., Any]:
  """Returns the mean loss and its gradient in the first argument."""
  return jax.value_and_grad(
    lambda first, *rest: jnp.mean(at_least_float32(loss(first, *rest)))
  )


def at_least_float32(x: jax.Array) -> jax.Array:
  """Widens half precision."""
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


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
  torch = import_torch()
  if torch is not None and jax.default_backend() == "gpu":
    peers["torch.compile"] = torch_with_gradient(torch.compile(loss))
  return peers


def softmax(logits: jax.Array, temperature: float = 1.0) -> jax.Array:
  """Softened softmax."""
  return jax.nn.softmax(logits / temperature)


def naive_jsd(student: jax.Array, teacher: jax.Array) -> jax.Array:
  """Generalized Jensen-Shannon divergence by two log_softmax."""
  log_p, log_q = (
    jax.nn.log_softmax(at_least_float32(x)) for x in (teacher, student)
  )
  log_m = jnp.logaddexp(log_p, log_q) - jnp.log(2.0)
  terms = jnp.exp(log_p) * (log_p - log_m) + jnp.exp(log_q) * (log_q - log_m)
  return jnp.sum(terms, -1) / 2


def exact_jsd(student: jax.Array, teacher: jax.Array) -> Any:
  """The same and its gradient, from the formula."""
  p, q = softmax(teacher), softmax(student)
  m = (p + q) / 2
  value = jnp.mean(jnp.sum(p * jnp.log(p / m) + q * jnp.log(q / m), -1)) / 2
  slope = jnp.log(q / m) / 2
  gradient = q * (slope - jnp.sum(q * slope, -1, keepdims=True))
  return value, gradient / len(student)
