"""A row of the table of methods."""

from collections.abc import Callable
from typing import Any, NamedTuple

from kdjax.methods._objective import Objective, stateless


class Search(NamedTuple):
  """Search: the default of a hyper-parameter and its published range.

  Attributes:
    default: the published value.
    low: the least value that its authors search, or None.
    high: the largest one, or None.
    linear: whether the values in between are uniform; else their logarithms
      are.

  References:
    Gulrajani and Lopez-Paz, `In search of lost domain generalization
    <https://arxiv.org/abs/2007.01434>`_, 2021, appendix D.
  """

  default: float
  low: float | None = None
  high: float | None = None
  linear: bool = False


class Row(NamedTuple):
  """Row: a method, the losses that its authors add, and their weights.

  The loss is `cross_entropy * H(y, q) + kd * T^2 KL + weight * method`.

  Attributes:
    title: the method's name, as papers write it.
    summary: one sentence on the method.
    make: makes the method, or its objective, from hyper-parameters and the
      facts of the run that it has parameters for; None if there is nothing but
      cross-entropy and KD.
    area: the room of its losses: "distillation", "adaptation",
      "generalization", "finetuning", ...
    group: the family within the area, as the documentation groups it.
    weight: of the method. A method that has a hyper-parameter `weight` of its
      own, beside parts that keep theirs, gets it there.
    cross_entropy: weight of the cross-entropy with the labels; 0 if the method
      includes its task.
    kd: weight of the soft-target loss beside the method.
    temperature: of that soft-target loss.
    warmup_epochs: over how many epochs the method's weight grows linearly.
    first_epoch: the number of the first one: 1 starts at 1 / warmup_epochs,
      0 at nothing.
    networks: the networks it reads beside the student: "teacher", "past",
      "average" (the student's own average), several of a kind ("peer_0",
      "teacher_1", "stale_0", "teacher_image"), or one that is trained too.
    domains: the parts of a batch that it reads, such as ("source", "target").
    views: the other views of each example that it reads, by name.
    start: the stage whose weights the student starts with: "" for none,
      "source" for a student trained on the source, which `create` puts into
      `Method.before`, or "past" for a pretrained network of the caller.
    tuned: the hyper-parameter that is tuned first: "weight", or one of the
      method's, by name; or "" for none.
    search: its published default and range, where other than `weight`.
    anneal: of those whose weight counts after some steps only, the share of
      the training that comes before.
    initialization: makes the stage before, or its objective; or None. Parts of
      the same name in both stages keep their variables.
    initialization_epochs: how long that stage takes.
    source: where the published values come from.

  References:
    Tian et al., `RepDistiller <https://github.com/HobbitLong/RepDistiller>`_,
    whose command line has the three weights.
  """

  title: str
  summary: str
  make: Callable[..., Any] | None
  area: str = "distillation"
  group: str = ""
  weight: float = 1.0
  cross_entropy: float = 1.0
  kd: float = 0.0
  temperature: float = 4.0
  warmup_epochs: int = 0
  first_epoch: int = 1
  networks: tuple[str, ...] = ()
  domains: tuple[str, ...] = ()
  views: tuple[str, ...] = ()
  start: str = ""
  tuned: str = "weight"
  search: Search | None = None
  anneal: Search | None = None
  initialization: Callable[..., Any] | None = None
  initialization_epochs: int = 0
  source: str = ""

  def __repr__(self) -> str:
    return f"Row({self.title}: {self.summary}; {self.area})"


def lift(
  loss: Callable[..., Any], select: Any = None, **defaults: Any
) -> Callable[..., Objective]:
  """A factory of a pure loss's objective, with published defaults."""

  def factory(**hyperparameters: Any) -> Objective:
    return stateless(loss, select, **(defaults | hyperparameters))

  return factory
