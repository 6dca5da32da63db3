"""Distillation-oriented training (DOT)."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import distillation, ops
from kdjax.methods._combine import combine
from kdjax.methods._method import Method, Update
from kdjax.methods._objective import Objective, stateless
from kdjax.methods.distillation._row_kinds import row

_PARTS = "task", "distillation"


def _dot(
  *,
  momentum: ArrayLike = 0.9,
  delta: ArrayLike = 0.075,
  weight_decay: ArrayLike = 0.0,
  temperature: ArrayLike = 4.0,
  cross_entropy: ArrayLike = 0.1,
  kd: ArrayLike = 0.9,
) -> Method:
  """KD of which both losses have a momentum of their own; see `two_momenta`."""
  soft = distillation.soft_target_loss
  return Method(
    apart(
      (cross_entropy, stateless(ops.cross_entropy, ("logits", "labels"))),
      (kd, stateless(soft, temperature=temperature)),
    ),
    update=two_momenta(momentum, delta, weight_decay),
  )


def apart(
  task: tuple[ArrayLike, Objective], distillation: tuple[ArrayLike, Objective]
) -> Objective:
  """The sum of two weighted objectives, each of which is a part of it."""
  pair = combine({"task": task, "distillation": distillation})

  def part(name: str, objective: Objective) -> Any:
    def apply(
      params: Any,
      state: Any,
      outputs: Any,
      batch: Any,
      key: Array,
      *,
      axis_name: str | None = None,
    ) -> Any:
      loss, moved, metrics = objective.apply(
        params[name],
        state["objectives"][name],
        outputs,
        batch,
        jax.random.fold_in(key, _PARTS.index(name)),
        axis_name=axis_name,
      )
      states = state["objectives"] | {name: moved}
      value = state["weights"][name] * loss
      return value, state | {"objectives": states}, metrics

    return apply

  parts = {"task": part("task", task[1])}
  parts["distillation"] = part("distillation", distillation[1])
  return pair._replace(parts=parts)


def two_momenta(
  momentum: ArrayLike = 0.9,
  delta: ArrayLike = 0.075,
  weight_decay: ArrayLike = 0.0,
) -> Update:
  r"""Update: the distillation's gradient leads.

  .. math::
    v_t \leftarrow (\mu - \Delta)\, v_t + g_t + w \theta, \qquad
    v_d \leftarrow (\mu + \Delta)\, v_d + g_d

  of the objective's parts `"task"` and `"distillation"`. The optimizer takes
  `v_t + v_d` as the gradient: with `optax.sgd(learning_rate)`, without
  momentum, it is DOT, and with `Delta = 0` SGD with momentum on the sum of both
  losses. A parameter that one of the losses does not reach, such as a
  projector, has the momentum `mu` in both.

  Departs from the authors' code: a parameter of the distillation alone is
  decayed from the first step on, not from the second.

  Args:
    momentum: `mu`.
    delta: `Delta`; .075 on CIFAR-100 and Tiny-ImageNet, .09 on ImageNet.
    weight_decay: `w`, added to the task's gradient alone; 5e-4 on CIFAR-100,
      1e-4 on ImageNet.

  Returns:
    An `Update`.
  """
  middle: Any = momentum
  low, high = middle - delta, middle + delta
  ops.check_range("dot: momentum - delta", low, 0.0, 1.0)
  ops.check_range("dot: momentum + delta", high, 0.0, 1.0)
  numbers = {"momentum": momentum, "delta": delta, "weight_decay": weight_decay}

  def init(params: Any, optimizer: Any) -> Any:
    zeros = jax.tree.map(jnp.zeros_like, params)
    return {
      "optimizer": optimizer.init(params),
      "momenta": {name: jax.tree.map(jnp.copy, zeros) for name in _PARTS},
      **{k: jnp.asarray(v, float) for k, v in numbers.items()},
    }

  def apply(
    loss: Callable[..., Any],
    params: Any,
    batch: Any,
    key: Array,
    state: Any,
    optimizer: Any,
    *,
    axis_name: str | None = None,
  ) -> tuple[tuple[Array, Any], Any, Any]:
    del key

    # One run of the networks forward, and two gradients.
    pair, pullback, aux = jax.vjp(
      lambda params: loss(params, batch, part=_PARTS), params, has_aux=True
    )
    network_state, metrics = aux
    if "loss" in metrics:
      count = metrics["loss"][1]
      metrics = metrics | {"loss": (jnp.sum(pair) * count, count)}
    seen = jnp.sum(pair), (network_state, metrics)
    gradients = [pullback(one)[0] for one in jnp.eye(2, dtype=pair.dtype)]
    gradients = ops.mean_over_devices(gradients, axis_name)

    def leaf(
      rate: Any, decay: Any, param: Any, own: Any, other: Any, buffer: Any
    ) -> Any:
      both = jnp.any(own != 0) & jnp.any(other != 0)
      rate = jnp.where(both, rate, state["momentum"])
      return (rate * buffer + own + decay * param).astype(buffer.dtype)

    momenta = {}
    for i, (name, sign) in enumerate(zip(_PARTS, (-1, 1), strict=True)):
      move = functools.partial(
        leaf,
        state["momentum"] + sign * state["delta"],
        state["weight_decay"] if name == "task" else 0.0,
      )
      momenta[name] = jax.tree.map(
        move, params, gradients[i], gradients[1 - i], state["momenta"][name]
      )
    total = jax.tree.map(jnp.add, *momenta.values())
    updates, moved = optimizer.update(
      total, state["optimizer"], params, seen=seen
    )
    return seen, updates, state | {"optimizer": moved, "momenta": momenta}

  return Update(init, apply)


ROWS = {
  "dot": row(
    "logits",
    "Distillation-oriented training, Zhao 2023",
    "gives the gradient of the distillation more momentum than the task's",
    _dot,
    cross_entropy=0.0,
    source="DOT, configs/cifar100",
  ),
}
