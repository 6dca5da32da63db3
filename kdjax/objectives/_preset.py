"""A row of the table of methods."""

from collections.abc import Callable
from typing import Any, NamedTuple

from kdjax.objectives._objective import Objective
from kdjax.objectives._objective import stateless


class Preset(NamedTuple):
  """Preset: a method, and what its authors add to it with which weights.

  The loss is `cross_entropy * H(y, q) + kd * T^2 KL + weight * method`.

  Attributes:
    title: the method's name, as papers write it.
    summary: one line on what it does.
    method: makes the method's objective from hyper-parameters, and from the
      `options` that it has parameters for; None if there is nothing but
      cross-entropy and KD.
    area: the room of its losses: "distillation", "adaptation",
      "generalization", "finetuning", ...
    weight: of the method.
    cross_entropy: weight of the cross-entropy with the labels; 0 if the method
      includes its task.
    kd: weight of the soft-target loss beside the method.
    temperature: of that soft-target loss.
    warmup_epochs: over how many epochs the method's weight grows linearly.
    first_epoch: the number of the first one: 1 starts at 1 / warmup_epochs,
      0 at nothing.
    networks: the networks it reads beside the student: "teacher", "past",
      "average" (the student's own average), "source" (the student as trained
      on the source), or the name of one that is trained too.
    domains: the parts of a batch that it reads, such as ("source", "target").
    views: the other views of each example that it reads, by name.
    start: the stage whose weights the student starts with: "" for none,
      "source" for a student trained on the source, "past" for a pretrained
      one.
    prepare: makes the function that prepares a batch (:func:`pass_loss`), from
      the options that it has parameters for; or None.
    rule: makes the gradient rule of the train step; or None.
    initialization: the objective of a stage before, or None. Parts of the same
      name in both stages keep their variables.
    initialization_epochs: how long that stage takes.
    source: where the weights come from.

  References:
    Tian et al., `RepDistiller <https://github.com/HobbitLong/RepDistiller>`_,
    whose command line has the three weights.
  """

  title: str
  summary: str
  method: Callable[..., Objective] | None
  area: str = "distillation"
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
  prepare: Callable[..., Any] | None = None
  rule: Callable[..., Any] | None = None
  initialization: Callable[..., Objective] | None = None
  initialization_epochs: int = 0
  source: str = ""


def lift(
  loss: Callable[..., Any], select: Any = None, **defaults: Any
) -> Callable[..., Objective]:
  """A factory of a pure loss's objective, with published defaults."""

  def factory(**hyperparameters: Any) -> Objective:
    return stateless(loss, select, **(defaults | hyperparameters))

  return factory
