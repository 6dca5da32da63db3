"""The front doors of peers that learn from each other, and of many teachers."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from kdjax import methods, ops
from kdjax.methods import GradientRule, Pass
from kdjax.metrics import accuracy, agreement
from kdjax.training.learners._distillation import CLASSIFICATION
from kdjax.training.learners._learner import Learner, as_objective, make_learner
from kdjax.training.networks._models import Variables
from kdjax.training.optimizers._optimizers import Optimizer, as_optimizer
from kdjax.training.steps._evaluation import Metric
from kdjax.training.steps._passes import Prepare, augmented_or_prepared
from kdjax.training.steps._state import TrainState


def collaborate(
  peers: Sequence[Any],
  loss: Callable[..., Any] | methods.Objective,
  optimizer: Optimizer,
  *,
  update: str = "simultaneous",
  stale: bool = False,
  on: str | tuple[str, ...] = "image",
  augment: Callable[[Array, Any], Any] | None = None,
  prepare: Prepare | None = None,
  metrics: Mapping[str, Metric] | None = None,
  axis_name: str | None = None,
  **hyperparameters: Any,
) -> Learner:
  """Collaboration: a learner for peers that teach each other.

  The roles of the objective are `"peer_0"`, `"peer_1"` and so on, and so are
  the networks' names in the state. Peers may have different architectures, and
  see the same examples.

  Args:
    peers: the networks to train, two or more.
    loss: a function whose argument names name its inputs, such as
      `mine(peer_0_logits, peer_1_logits, labels)`; or an `Objective`, such as
      `methods.preset("mutual")`, which includes the labels.
    optimizer: an Optax optimizer.
    update: "simultaneous" moves all peers by one gradient (the answers of the
      step's start); "sequential" moves one after the other, each with the new
      answers of those before, as the code of deep mutual learning does. The
      objective's own parameters move last then, and a step takes as many
      forward and backward passes as there are peers.
    stale: whether there are the roles `"stale_0"`, `"stale_1"` and so on: the
      peers as `frozen` has them (codistillation). They start with weights of
      their own; `stale_peers(state)` are the current ones.
    on: the entry of the batch that the networks see; a tuple of entries for
      networks of several inputs.
    augment: `(key, inputs) -> inputs`; all peers see the same view.
    prepare: `(key, batch, run) -> batch`, before the passes; see `pass_loss`.
    metrics: name -> function of arrays, for evaluation. By default the accuracy
      of each peer (`"peer_0/accuracy"`), of their mean probabilities
      (`"ensemble/accuracy"`), and `"disagreement"`, the share of pairs of peers
      that answer differently, which shows a collapse.
    axis_name: the mapped axis that holds the rest of the batch, where the
      caller maps the step; `parallelize` names it itself.
    **hyperparameters: of the loss; numbers are in the state, as arrays.

  Returns:
    A `Learner`.

  Raises:
    TypeError: if a network is none, or the optimizer not one of Optax.
    ValueError: if there are fewer than two peers, the update is unknown, or the
      loss has no such hyper-parameter; from `init` or `step`, if the batch
      lacks an entry that is read, or peers have different classes.

  Examples:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> import optax
    >>> from flax import nnx
    >>> from kdjax.methods import preset
    >>> peers = [nnx.Linear(3, 2, rngs=nnx.Rngs(i)) for i in range(3)]
    >>> learner = collaborate(peers, preset("mutual"), optax.sgd(0.1), on="x")
    >>> batch = {
    ...   "x": jnp.ones((4, 3)),
    ...   "label": jnp.zeros(4, int),
    ...   "mask": jnp.ones(4, bool),
    ... }
    >>> state = learner.init(jax.random.key(0), batch)
    >>> sorted(state.params)
    ['objective', 'peer_0', 'peer_1', 'peer_2']

  References:
    Zhang et al., `Deep mutual learning <https://arxiv.org/abs/1706.00384>`_,
    2018; Anil et al., `Large scale distributed neural network training through
    online distillation <https://arxiv.org/abs/1804.03235>`_, 2018.
  """
  ops.check_choice(
    "collaborate: update", update, ("simultaneous", "sequential")
  )
  if len(peers) < 2:
    raise ValueError(
      f"collaborate: peers has {len(peers)} networks; expected two or more."
    )
  networks = {f"peer_{i}": peer for i, peer in enumerate(peers)}
  passes = {name: Pass(name, on=on, train=True) for name in networks}
  frozen = {}
  if stale:
    frozen = {f"stale_{i}": peer for i, peer in enumerate(peers)}
    passes |= {name: Pass(name, on=on) for name in frozen}
  rule = None
  if update == "sequential":
    rule = sequential_updates(list(networks), optimizer)
    optimizer = optax.sgd(1.0)  # goes the way that the rule has gone
  return make_learner(
    networks,
    frozen,
    passes,
    as_objective(loss, **hyperparameters),
    optimizer,
    prepare=augmented_or_prepared("collaborate", prepare, augment, on),
    metrics=_metrics(list(networks)) if metrics is None else metrics,
    evaluation={name: Pass(name, on=on) for name in networks},
    rule=rule,
    axis_name=axis_name,
  )


def stale_peers(state: TrainState) -> dict[str, Variables]:
  """The peers as they are now, for `frozen` of the steps to come.

  Args:
    state: of a learner of `collaborate`.

  Returns:
    `"stale_0"`, `"stale_1"` and so on -> variables. Update them every some
    thousand steps: `frozen = {**learner.frozen, **stale_peers(state)}`.

  Examples:
    >>> params = {"peer_0": 1.0, "objective": {}}
    >>> state = TrainState(0, params, {"peer_0": {}, "objective": {}}, ())
    >>> stale_peers(state)["stale_0"].params
    1.0

  References:
    Anil et al., `Large scale distributed neural network training through online
    distillation <https://arxiv.org/abs/1804.03235>`_, 2018.
  """
  return {
    name.replace("peer_", "stale_"): Variables(params, state.state[name])
    for name, params in state.params.items()
    if name.startswith("peer_")
  }


def guide(
  student: Any,
  teachers: Sequence[Any],
  loss: Callable[..., Any] | methods.Objective,
  optimizer: Optimizer,
  *,
  on: str | tuple[str, ...] = "image",
  augment: Callable[[Array, Any], Any] | None = None,
  prepare: Prepare | None = None,
  metrics: Mapping[str, Metric] | None = None,
  axis_name: str | None = None,
  **hyperparameters: Any,
) -> Learner:
  """Several teachers: a learner for one student that all of them guide.

  The roles of the objective are `"student"`, `"teacher_0"`, `"teacher_1"` and
  so on: a teacher and its assistants (`methods.preset("dgkd")`), or teachers
  of different classes (`methods.preset("amalgamation",
  teacher_classes=...)`). A mean of teachers is `training.ensemble`.

  Args:
    student: the network to train.
    teachers: the frozen networks, in evaluation mode.
    loss: a function whose argument names name its inputs, or an `Objective`.
    optimizer: an Optax optimizer.
    on: the entry of the batch that the networks see; a tuple of entries for
      networks of several inputs.
    augment: `(key, inputs) -> inputs`; all networks see the same view.
    prepare: `(key, batch, run) -> batch`, before the passes; see `pass_loss`.
    metrics: name -> function of arrays, for evaluation; by default accuracy
      and cross-entropy.
    axis_name: the mapped axis that holds the rest of the batch, where the
      caller maps the step; `parallelize` names it itself.
    **hyperparameters: of the loss; numbers are in the state, as arrays.

  Returns:
    A `Learner`.

  Raises:
    TypeError: if a network is none, or the optimizer not one of Optax.
    ValueError: if there is no teacher, or the loss has no such hyper-parameter;
      from `init` or `step`, if the batch lacks an entry that is read.

  Examples:
    >>> import optax
    >>> from flax import nnx
    >>> from kdjax.methods import preset
    >>> teachers = [nnx.Linear(3, 2, rngs=nnx.Rngs(i)) for i in range(2)]
    >>> student = nnx.Linear(3, 2, rngs=nnx.Rngs(9))
    >>> learner = guide(student, teachers, preset("dgkd"), optax.sgd(0.1))
    >>> sorted(learner.frozen)
    ['teacher_0', 'teacher_1']

  References:
    Son et al., `Densely guided knowledge distillation using multiple teacher
    assistants <https://arxiv.org/abs/2009.08825>`_, 2021.
  """
  if not len(teachers):
    raise ValueError("guide: teachers is empty; expected one or more networks.")
  frozen = {f"teacher_{i}": teacher for i, teacher in enumerate(teachers)}
  passes = {"student": Pass("student", on=on, train=True)}
  return make_learner(
    {"student": student},
    frozen,
    passes | {name: Pass(name, on=on) for name in frozen},
    as_objective(loss, **hyperparameters),
    optimizer,
    prepare=augmented_or_prepared("guide", prepare, augment, on),
    metrics=CLASSIFICATION if metrics is None else metrics,
    evaluation={"student": Pass("student", on=on)},
    axis_name=axis_name,
  )


def sequential_updates(
  names: Sequence[str], optimizer: Optimizer
) -> GradientRule:
  """Gradient rule: networks move one after the other.

  Each step of the rule goes through the networks; the gradient of each is taken
  where those before it have already moved. The learner's optimizer is
  `optax.sgd(1.0)`, which goes that whole way.

  Args:
    names: of the networks, in their order; the objective's parameters follow.
    optimizer: of each network, with a state of its own.

  Returns:
    A rule. Metrics, batch statistics and the objective's state are those of the
    first network's gradient.
  """
  own = as_optimizer("sequential_updates", optimizer)
  order = [*names, "objective"]

  def init(params: Any) -> Any:
    return {name: own.init(params[name]) for name in order}

  def apply(
    loss: Callable[..., Any],
    params: Any,
    batch: Any,
    key: Array,
    state: Any,
    *,
    axis_name: str | None = None,
  ) -> tuple[tuple[Array, Any], Any, Mapping[str, Any], Any]:
    del key
    moved, states, first = dict(params), dict(state), None
    for name in order:
      if not jax.tree.leaves(params[name]):
        continue

      def of_one(part: Any, name: str = name) -> Any:
        return loss({**moved, name: part}, batch)

      seen, gradient = jax.value_and_grad(of_one, has_aux=True)(moved[name])
      first = seen if first is None else first
      gradient = ops.mean_over_devices(gradient, axis_name)
      updates, states[name] = own.update(gradient, states[name], moved[name])
      moved[name] = optax.apply_updates(moved[name], updates)
    assert first is not None
    way = jax.tree.map(lambda old, new: old - new, params, moved)
    return first, way, {}, states

  return GradientRule(init, apply)


def _metrics(names: Sequence[str]) -> dict[str, Metric]:
  logits = tuple(f"{name}_logits" for name in names)

  def ensemble(*arguments: Array) -> Array:
    *each, labels = arguments
    p = jnp.mean(jnp.stack([jax.nn.softmax(z) for z in each]), 0)
    return accuracy(p, labels)

  def disagreement(*each: Array) -> Array:
    pairs = [(a, b) for i, a in enumerate(each) for b in each[:i]]
    same = jnp.stack([agreement(a, b) for a, b in pairs])
    return 1 - jnp.mean(same, 0)

  alone: dict[str, Metric] = {
    f"{name}/accuracy": (accuracy, (z, "labels"))
    for name, z in zip(names, logits, strict=True)
  }
  return alone | {
    "ensemble/accuracy": (ensemble, (*logits, "labels")),
    "disagreement": (disagreement, logits),
  }
