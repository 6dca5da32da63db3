"""Makers of the rows of adaptation, and the names that their losses read."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import ops
from kdjax.methods._objective import Objective, Schedule
from kdjax.methods._row import Row, Search, lift

BOTH = ("source", "target")
EMBEDDINGS = ("source_embeddings", "target_embeddings")
TARGET = ("target_logits",)
STRONG = ("target_strong_logits", "target_logits")
TAUGHT = ("target_strong_logits", "target_teacher_logits")


def row(title: str, summary: str, make: Any, **needs: Any) -> Row:
  """A method that sees both domains, beside the source's cross-entropy."""
  options: dict[str, Any] = {"domains": BOTH, "source": "TLlib"} | needs
  return Row(title, summary, make, area="adaptation", **options)


def on_source(title: str, summary: str, make: Any = None, **needs: Any) -> Row:
  """A method that changes the source's examples, and trains on them alone."""
  options: dict[str, Any] = {
    "domains": ("source",),
    "tuned": "",
    "source": "paper",
  } | needs
  return row(title, summary, make, **options)


def adversary(
  title: str,
  summary: str,
  make: Callable[..., Any],
  *,
  scale: float = 1.0,
  **needs: Any,
) -> Row:
  """A player behind a gradient reversal, whose scale rises to the published."""
  options: dict[str, Any] = {"tuned": "scale", "search": Search(scale)} | needs
  return row(title, summary, make, **options)


def rising(
  factory: Callable[..., Objective], **defaults: Any
) -> Callable[..., Objective]:
  """A factory whose adversary rises over the training.

  It takes `steps`, the number of the training's steps, and the factory's
  hyper-parameters; its signature has those, so that errors name them.
  """
  known = inspect.signature(factory).parameters
  own = [v for k, v in known.items() if k not in ("schedule", *defaults)]
  steps = inspect.Parameter("steps", inspect.Parameter.POSITIONAL_OR_KEYWORD)

  def build(steps: ArrayLike, **options: Any) -> Objective:
    return factory(schedule=over_training(steps), **(defaults | options))

  vars(build)["__signature__"] = inspect.Signature([steps, *own])
  return build


def over_training(steps: ArrayLike, *, sharpness: float = 10.0) -> Schedule:
  """The rise of a reversal's scale from 0 to 1 over a training."""

  def schedule(step: Array) -> Array:
    progress = jnp.asarray(step, float) / jnp.asarray(steps, float)
    return ops.reversal_ramp(progress, sharpness=sharpness)

  return schedule


def strong(
  title: str,
  summary: str,
  loss: Callable[..., Any],
  names: Sequence[str] = STRONG,
  **needs: Any,
) -> Row:
  """The row of a loss that reads the target's strong view."""
  options: dict[str, Any] = {"views": ("strong",)} | needs
  return row(title, summary, lift(loss, names), **options)
