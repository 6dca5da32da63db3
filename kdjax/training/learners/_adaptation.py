"""The front door of domain adaptation."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kdjax import methods
from kdjax.methods import Pass
from kdjax.training.learners._distillation import (
  CLASSIFICATION,
  NO_VIEWS,
  Views,
)
from kdjax.training.learners._learner import Learner, as_objective, make_learner
from kdjax.training.optimizers._optimizers import Optimizer
from kdjax.training.steps._checks import check_views
from kdjax.training.steps._evaluation import Metric
from kdjax.training.steps._passes import Prepare, in_turn, views_of


def adapt(
  student: Any,
  loss: Callable[..., Any] | methods.Objective,
  optimizer: Optimizer,
  *,
  teacher: Any = None,
  on: str | tuple[str, ...] = "image",
  domains: Sequence[str] = ("source", "target"),
  joint: bool = True,
  views: Views = NO_VIEWS,
  passes: Mapping[str, Pass] | None = None,
  prepare: Prepare | None = None,
  metrics: Mapping[str, Metric] | None = None,
  axis_name: str | None = None,
  **hyperparameters: Any,
) -> Learner:
  """Domain adaptation: a learner for a student that sees two domains.

  The roles of the objective are `"source"` and `"target"`. A batch has a part
  for each domain, `{"source": {"image", "label", "mask"}, "target": {"image",
  "mask"}}`; the domains may differ in size, and entries beside the parts are
  of both.

  Args:
    student: the network to train: an NNX module, a `Model` or a `Network`.
    loss: a function whose argument names name its inputs, such as
      `mine(source_logits, source_labels, target_embeddings)`; or an
      `Objective`, such as `methods.preset("dann", steps=1000)`.
    optimizer: an Optax optimizer, which may take extra arguments.
    teacher: a frozen network, such as the student as it was on the source
      (ADDA); or `"average"`, the average of the student's parameters that
      `parameter_ema` keeps in the optimizer (mean teacher). Its outputs
      on both domains are the roles `"source_teacher"` and `"target_teacher"`.
    on: the entry of each part that the student sees; a tuple of entries for a
      network of several inputs, which gets their dictionary.
    domains: the parts of the batch that the student sees, which are the roles:
      `("target",)` for a method without the source, such as SHOT; not even
      batch statistics of another part are seen.
    joint: whether both domains go through the student as one batch, so that
      they share batch statistics (TLlib); otherwise the source goes first,
      then the target (Dassl, DeepDA). The same without batch statistics.
    views: name -> `(key, batch) -> inputs`, other views of the target's
      examples, such as strongly augmented ones; the batch is the target's. The
      outputs of a view `"strong"` are the role `"target_strong"`.
    passes: role -> `Pass`, further passes; one of the role `"source"` or
      `"target"` takes the place of the student's own.
    prepare: `(key, batch, run) -> batch`, before the passes; see
      `pass_loss`.
    metrics: name -> function of arrays, for evaluation on batches of one
      domain; by default accuracy and cross-entropy.
    axis_name: the mapped axis that holds the rest of the batch, where the
      caller maps the step; `parallelize` names it itself.
    **hyperparameters: of the loss; numbers are in the state, as arrays.

  Returns:
    A `Learner`.

  Raises:
    TypeError: if a network is none, or the optimizer not one of Optax.
    ValueError: if the loss has no such hyper-parameter; from `init` or `step`,
      if the batch lacks an entry that is read, or the inputs of the two
      domains do not fit into one batch.

  Examples:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> import optax
    >>> from flax import nnx
    >>> from kdjax.adaptation import coral_loss
    >>> from kdjax.methods import stateless
    >>> student = nnx.Linear(3, 2, rngs=nnx.Rngs(1))
    >>> coral = stateless(coral_loss, ("source_logits", "target_logits"))
    >>> learner = adapt(student, coral, optax.sgd(0.1), on="x")
    >>> domain = {"x": jnp.ones((4, 3)), "mask": jnp.ones(4, bool)}
    >>> batch = {"source": domain, "target": domain}
    >>> state = learner.init(jax.random.key(0), batch)
    >>> state, seen = learner.step(state, {}, batch, jax.random.key(1))
    >>> seen["loss"][0]
    Array(0., dtype=float32)

  References:
    Ganin et al., `Domain-adversarial training of neural networks
    <https://arxiv.org/abs/1505.07818>`_, 2016.
  """
  check_views("adapt", views)
  together = "domains" if joint else None
  table = {
    domain: Pass("student", on=_of(domain, on), train=True, joint=together)
    for domain in domains
  }
  table |= {
    f"target_{name}": Pass("student", on=f"target.{name}", train=True)
    for name in views
  }
  frozen = {}
  if teacher is not None:
    network = "average" if isinstance(teacher, str) else "teacher"
    if network == "teacher":
      frozen["teacher"] = teacher
    elif teacher != "average":
      raise ValueError(
        f"adapt: teacher is {teacher!r}; expected a network or 'average'."
      )
    table |= {
      f"{domain}_teacher": Pass(network, on=_of(domain, on))
      for domain in domains
    }
  return make_learner(
    {"student": student},
    frozen,
    {**table, **(passes or {})},
    as_objective(loss, **hyperparameters),
    optimizer,
    prepare=in_turn(prepare, views_of(views, of="target")),
    metrics=CLASSIFICATION if metrics is None else metrics,
    evaluation={"student": Pass("student", on=on)},
    axis_name=axis_name,
  )


def _of(domain: str, on: str | tuple[str, ...]) -> str | tuple[str, ...]:
  """The entries of a domain's part of the batch."""
  if isinstance(on, str):
    return f"{domain}.{on}"
  return tuple(f"{domain}.{name}" for name in on)
