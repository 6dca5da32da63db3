"""Makers of the rows of adaptation, and the names that their losses read."""

from collections.abc import Callable, Sequence
from typing import Any

from jax.typing import ArrayLike

from kdjax.methods._method import Pass
from kdjax.methods._objective import Objective
from kdjax.methods._row import Row, Search, todo, lift
from kdjax.methods.adaptation import _comparisons
from kdjax.methods.adaptation.adversarial._dann import over_training

BOTH = ("source", "target")
EMBEDDINGS = ("source_embeddings", "target_embeddings")
TARGET = ("target_logits",)
STRONG = ("target_strong_logits", "target_logits")
TAUGHT = ("target_strong_logits", "target_teacher_logits")


def row(title: str, summary: str, method: Any, **needs: Any) -> Row:
  """A method that sees both domains, beside the source's cross-entropy."""
  options: dict[str, Any] = {"domains": BOTH, "source": "TLlib"} | todo(needs)
  return Row(title, summary, method, area="adaptation", **options)


def on_source(title: str, summary: str, **needs: Any) -> Row:
  """A method that changes the source's examples, and trains on them alone."""
  options: dict[str, Any] = {
    "domains": ("source",),
    "tuned": "",
    "source": "paper",
  } | todo(needs)
  return row(title, summary, options.pop("method", None), **options)


def weights(
  title: str, summary: str, reweight: Callable[..., Any], **needs: Any
) -> Row:
  """A method that weights the source's examples."""
  return on_source(
    title,
    summary,
    method=lift(_comparisons.weighted_cross_entropy),
    cross_entropy=0.0,
    reweight=reweight,
    **needs,
  )


def adversary(
  title: str,
  summary: str,
  factory: Callable[..., Objective],
  *,
  scale: float = 1.0,
  **needs: Any,
) -> Row:
  """A player behind a gradient reversal, whose scale rises to the published."""
  options: dict[str, Any] = {"tuned": "scale", "search": Search(scale)} | todo(needs)
  return row(title, summary, factory, **options)


def rising(
  factory: Callable[..., Objective], **defaults: Any
) -> Callable[..., Objective]:
  """A factory whose adversary rises over the training."""

  def build(
    steps: ArrayLike, hidden: Sequence[int] | None = None, **options: Any
  ) -> Objective:
    if hidden is not None:
      options["hidden"] = hidden
    return factory(schedule=over_training(steps), **(defaults | options))

  return build


def rising_weighted(factory: Callable[..., Objective]) -> Any:
  """As `rising`, of a factory that has a weight of its own."""
  raised = rising(factory)

  def build(
    steps: ArrayLike,
    *,
    weight: ArrayLike,
    hidden: Sequence[int] | None = None,
    **options: Any,
  ) -> Objective:
    return raised(steps, hidden, weight=weight, **options)

  return build


def strong(
  title: str,
  summary: str,
  loss: Callable[..., Any],
  names: Sequence[str] = STRONG,
  **needs: Any,
) -> Row:
  """The row of a loss that reads the target's strong view."""
  options: dict[str, Any] = {"views": ("strong",)} | todo(needs)
  return row(title, summary, lift(loss, names), **options)


def seen_twice(name: str, network: str, *domains: str) -> dict[str, Pass]:
  """Passes of another view of the domains, which `prepare` adds."""
  role = name if network == "student" else network
  train = network == "student"
  return {
    f"{domain}_{role}": Pass(network, f"{domain}.{name}", train=train)
    for domain in domains
  }
