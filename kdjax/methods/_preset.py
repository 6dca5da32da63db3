"""A row of the table of methods."""

import types
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from kdjax.methods._objective import Objective, stateless
from kdjax.methods._pass import Pass


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


class Preset(NamedTuple):
  """Preset: a method, the losses that its authors add, and their weights.

  The loss is `cross_entropy * H(y, q) + kd * T^2 KL + weight * method`.

  Attributes:
    title: the method's name, as papers write it.
    summary: one line on the method.
    method: makes the method's objective from hyper-parameters, and from the
      `options` that it has parameters for; None if there is nothing but
      cross-entropy and KD.
    area: the room of its losses: "distillation", "adaptation",
      "generalization", "finetuning", ...
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
      "average" (the student's own average), "source" (the student as trained
      on the source, which is the teacher), several of a kind ("peer_0",
      "teacher_1", "stale_0", "teacher_image"), or the name of one that is
      trained too.
    domains: the parts of a batch that it reads, such as ("source", "target").
    views: the other views of each example that it reads, by name.
    start: the stage whose weights the student starts with: "" for none,
      "source" for a student trained on the source, "past" for a pretrained
      one, or the name of the function of `kdjax.training` that pretrains.
    passes: role -> `Pass`, beside those of the student and of the views.
    prepare: makes the function that prepares a batch
      (`kdjax.training.pass_loss`), from hyper-parameters; or None.
    rule: makes the gradient rule of the train step, from hyper-parameters; or
      None.
    goes: whether the rule returns, in place of a gradient, a whole way back,
      which the optimizer `optax.sgd(1.0)` goes.
    reweight: weights the source's examples before training; the source's part
      of the batch has them as `"weight"`. A function of
      `kdjax.reweighting`, whose first parameters name its inputs:
      `source` and `target` (rows), `source_labels`, `source_logits`,
      `target_logits` (of a network trained on the source). Or None.
    transform: fits a map of the rows of both domains before training, as
      `reweight` reads them; a function of `kdjax.transforms`. Or None.
    training: the function of `kdjax.training` that it needs besides, by
      name: of the student's network ("stochastic_norms"), of the optimizer
      ("gradual_unfreezing"), or of the step ("maml_losses"); or "".
    tuned: the hyper-parameter that is tuned first: "weight", or one of the
      method's, of `prepare` or of `rule`, by name; or "" for none.
    search: its published default and range, where other than `weight`.
    anneal: of those whose weight counts after some steps only, the share of
      the training that comes before.
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
  passes: Mapping[str, Pass] = types.MappingProxyType({})
  prepare: Callable[..., Any] | None = None
  rule: Callable[..., Any] | None = None
  goes: bool = False
  reweight: Callable[..., Any] | None = None
  transform: Callable[..., Any] | None = None
  training: str = ""
  tuned: str = "weight"
  search: Search | None = None
  anneal: Search | None = None
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
