"""Distillation-oriented training: two gradients, two momenta, one student."""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from kdjax import ops
from kdjax.methods import GradientRule, Objective, combine, loss_metric
from kdjax.training.steps._passes import Metrics
from kdjax.training.steps._steps import Loss


class DOTState(NamedTuple):
  """State of `dot`: the two momentum buffers."""

  task: Any
  distillation: Any


def dot(
  learning_rate: optax.ScalarOrSchedule,
  *,
  momentum: float | Array = 0.9,
  delta: float | Array = 0.075,
  weight_decay: float | Array = 0.0,
) -> optax.GradientTransformationExtraArgs:
  r"""Distillation-oriented trainer (DOT): the distillation gradient leads.

  .. math::
    v_t \leftarrow (\mu - \Delta)\, v_t + g_t + w \theta, \qquad
    v_d \leftarrow (\mu + \Delta)\, v_d + g_d, \qquad
    \theta \leftarrow \theta - \eta\, (v_t + v_d)

  The task's gradient `g_t` and the distillation's `g_d` have
  momentum buffers of their own. With `Delta = 0` it is SGD with momentum
  on the sum of both losses.

  Args:
    learning_rate: `eta`, a number or a schedule.
    momentum: `mu`.
    delta: `Delta`; .075 on CIFAR-100 and Tiny-ImageNet, .09 on ImageNet.
    weight_decay: `w`, added to the task's gradient alone; 5e-4 on
      CIFAR-100, 1e-4 on ImageNet.

  Returns:
    An Optax transformation whose `update(task_gradients, state, params,
    distillation_gradients=...)` needs the parameters and both gradients; see
    `dot_gradients`. A parameter of one loss only, such as a projector,
    is None among the other's gradients: its momentum is `mu` and its
    own gradient is decayed, as in the authors' code. The momentum is so too
    where the other's gradient is 0 throughout: a classifier, say, that a loss
    of features does not reach.

  Raises:
    ValueError: if static momenta `mu +- Delta` leave [0, 1]; from
      `update`, without parameters or distillation gradients.

  Differs from the authors' code: a parameter of the distillation loss alone is
  decayed from the first step on, not from the second.

  Examples:
    >>> optimizer = dot(1.0, momentum=0.5, delta=0.25)
    >>> params = jnp.array(0.0)
    >>> state, ones = optimizer.init(params), jnp.array(1.0)
    >>> for _ in range(2):
    ...   updates, state = optimizer.update(
    ...     ones, state, params, distillation_gradients=ones
    ...   )
    >>> updates
    Array(-3., dtype=float32)

  References:
    Zhao et al., `DOT: A distillation-oriented trainer
    <https://arxiv.org/abs/2307.08436>`_, 2023.
  """
  low: Any = momentum - delta
  high: Any = momentum + delta
  ops.check_range("dot: momentum - delta", low, 0.0, 1.0)
  ops.check_range("dot: momentum + delta", high, 0.0, 1.0)

  def init(params: Any) -> DOTState:
    zeros = jax.tree.map(jnp.zeros_like, params)
    return DOTState(zeros, jax.tree.map(jnp.copy, zeros))

  def update(
    updates: Any,
    state: Any,
    params: Any = None,
    *,
    distillation_gradients: Any = None,
    **_: Any,
  ) -> tuple[Any, DOTState]:
    for name, tree in (
      ("params", params),
      ("distillation_gradients", distillation_gradients),
    ):
      if tree is None:
        raise ValueError(
          f"dot: {name} is None; expected update(task_gradients, state, "
          "params, distillation_gradients=...), as dot_gradients gives them."
        )

    def leaf(
      rate: Any, decay: Any, param: Any, own: Any, other: Any, buffer: Any
    ) -> Any:
      if own is None:
        return buffer
      if other is None:
        rate, decay = momentum, weight_decay
      else:
        rate = jnp.where(jnp.any(other != 0), rate, momentum)
      return (rate * buffer + own + decay * param).astype(buffer.dtype)

    gradients = updates, distillation_gradients
    task = functools.partial(leaf, low, weight_decay)
    task = jax.tree.map(task, params, *gradients, state.task)
    distilled = functools.partial(leaf, high, 0.0)
    distilled = jax.tree.map(
      distilled, params, *gradients[::-1], state.distillation
    )
    return optax.tree.add(task, distilled), DOTState(task, distilled)

  return optax.chain(
    optax.GradientTransformationExtraArgs(init, update),
    optax.scale_by_learning_rate(learning_rate),
  )


def dot_objective(task: Objective, distillation: Objective) -> Objective:
  """Objective of two losses that are not added up, for `dot_gradients`.

  Args:
    task: the objective of the labels, such as the cross-entropy.
    distillation: the weighted objective of the teacher; several by `combine`.

  Returns:
    An objective whose loss is `[task, distillation]`. Its parameters and its
    state are `{"task": ..., "distillation": ...}`; its metrics the losses' sum,
    `"loss"`, and the parts' own under `"task/..."` and `"distillation/..."`.

  Raises:
    ValueError: if both answer for the student.

  Examples:
    >>> from kdjax.distillation import soft_target_loss
    >>> from kdjax.methods import stateless
    >>> cross_entropy = optax.softmax_cross_entropy_with_integer_labels
    >>> objective = dot_objective(
    ...   stateless(cross_entropy), stateless(soft_target_loss, temperature=4.0)
    ... )

  References:
    Zhao et al., `DOT: A distillation-oriented trainer
    <https://arxiv.org/abs/2307.08436>`_, 2023.
  """
  objectives = {"task": task, "distillation": distillation}
  frame = combine({k: (1.0, v) for k, v in objectives.items()})

  def init(key: Array, specs: Any) -> tuple[Any, Any]:
    params, state = frame.init(key, specs)
    return params, state["objectives"]

  def apply(
    params: Any,
    state: Any,
    outputs: Any,
    batch: Any,
    key: Array,
    *,
    axis_name: str | None = None,
  ) -> tuple[Array, Any, Metrics]:
    losses, states, metrics = [], {}, {}
    for i, (name, objective) in enumerate(objectives.items()):
      loss, states[name], parts = objective.apply(
        params[name],
        state[name],
        outputs,
        batch,
        jax.random.fold_in(key, i),
        axis_name=axis_name,
      )
      losses.append(loss)
      metrics |= {f"{name}/{metric}": pair for metric, pair in parts.items()}
    loss = jnp.stack(losses)
    return loss, states, loss_metric(loss.sum(), batch) | metrics

  return frame._replace(init=init, apply=apply)


def dot_gradients() -> GradientRule:
  """Gradient rule of DOT: one forward and two backward passes.

  For a loss `[task, distillation]`, as a `dot_objective` has it, and the
  optimizer `dot`, or a chain with it.

  Returns:
    A `GradientRule` for `make_train_step` and `distill`.
    The step raises ValueError if the loss is no pair, or if the optimizer has
    no `dot`: another one would leave the distillation out.

  Examples:
    >>> from kdjax.training import TrainState, make_train_step
    >>> def loss_fn(params, state, frozen, batch, key):
    ...   task_and_distillation = (params["student"] - batch["target"]) ** 2
    ...   return task_and_distillation, (state, {})
    >>> optimizer = dot(0.25)
    >>> params = {"student": jnp.array(0.0), "objective": {}}
    >>> state = TrainState(jnp.array(0), params, {}, optimizer.init(params))
    >>> step = make_train_step(loss_fn, optimizer, rule=dot_gradients())
    >>> batch = {"target": jnp.array([2.0, 1.0])}
    >>> state, metrics = jax.jit(step)(state, {}, batch, jax.random.key(0))
    >>> state.params["student"]
    Array(1.5, dtype=float32)

  References:
    Zhao et al., `DOT: A distillation-oriented trainer
    <https://arxiv.org/abs/2307.08436>`_, 2023, algorithm 1.
  """

  def apply(
    loss: Loss, params: Any, batch: Any, key: Array, state: Any
  ) -> tuple[tuple[Array, Any], Any, Mapping[str, Any], Any]:
    del key

    def losses(params: Any) -> tuple[Array, Any]:
      pair, aux = loss(params, batch)
      if jnp.shape(pair) != (2,):
        raise ValueError(
          f"dot_gradients: the loss has the shape {jnp.shape(pair)}; expected "
          "[task, distillation], of a dot_objective."
        )
      return pair, aux

    pair, pullback, aux = jax.vjp(losses, params, has_aux=True)

    def gradients(own: str) -> Any:
      one = jnp.array([k == own for k in ("task", "distillation")], pair.dtype)
      (tree,) = pullback(one)
      # A part of one loss alone has no gradient of the other.
      parts = {
        k: v if k == own else jax.tree.map(lambda _: None, v)
        for k, v in tree["objective"].items()
      }
      return tree | {"objective": parts}

    extra = {"distillation_gradients": gradients("distillation")}
    return (pair, aux), gradients("task"), extra, state

  return GradientRule(lambda params: (), apply, _check_dot)


def _check_dot(optimizer_state: Any) -> None:
  def is_dot(x: Any) -> bool:
    return isinstance(x, DOTState)

  if not any(map(is_dot, jax.tree.leaves(optimizer_state, is_dot))):
    raise ValueError(
      "dot_gradients: the optimizer's state has no two momenta; expected dot, "
      "or a chain with it."
    )
