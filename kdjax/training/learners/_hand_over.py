"""From one stage of training to the next."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from kdjax.training.learners._learner import Learner
from kdjax.training.steps._state import TrainState


def hand_over(learner: Learner, state: TrainState) -> Learner:
  """Handing over: a learner that starts where the stage before has ended.

  The student starts with the parameters of the stage, and so do parts of the
  objective of the same name and shapes (the paraphraser of factor transfer).
  A frozen network that the method reads and the caller did not give, such as
  ADDA's teacher, is the student as the stage left it. The optimizer starts
  anew. `fit` does all of it.

  Args:
    learner: whose method has a stage before it.
    state: at the end of that stage, the last of `learner.stages`.

  Returns:
    A `Learner` without stages.

  Examples:
    >>> import optax
    >>> from flax import nnx
    >>> from kdjax import methods, training
    >>> student = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    >>> adabn = training.adapt(
    ...   student, methods.create("adabn"), optax.sgd(0.1), on="x"
    ... )
    >>> source = adabn.stages["source"]
    >>> part = {"x": jnp.ones((4, 3)), "label": jnp.zeros(4, int)}
    >>> state = source.init(jax.random.key(0), {"source": part})
    >>> hand_over(adabn, state)
    Learner(adabn of student)

  References:
    Tian et al., `RepDistiller <https://github.com/HobbitLong/RepDistiller>`_,
    `helper/pretrain.py`.
  """
  lacking = [
    name
    for name in learner.method.needs.networks
    if name not in learner.frozen and name in learner.loss_fn.forwards
  ]

  def init(key: Array, batch: Any, **values: Any) -> TrainState:
    begun = learner.start(key, batch, **values)
    params, own = dict(begun.params), dict(begun.state)
    for name in set(params) & set(state.params) - {"objective"}:
      params[name], own[name] = state.params[name], state.state[name]
    before = state.params["objective"]
    for name, part in _parts(begun.params["objective"]).items():
      if _alike(part, before):
        params["objective"] = params["objective"] | {name: before}
        memory = state.state["objective"]
        if isinstance(memory, Mapping) and "module" in memory:
          states = own["objective"]["objectives"]
          states = states | {name: states[name] | {"module": memory["module"]}}
          own["objective"] = own["objective"] | {"objectives": states}
    # Copies, which a step may take the memory of.
    params, own = jax.tree.map(jnp.copy, (params, own))
    return begun._replace(params=params, state=own)

  frozen = {**learner.frozen, **dict.fromkeys(lacking, state.student)}
  method = learner.method._replace(before={})
  return learner._replace(
    init=init, start=init, frozen=frozen, stages={}, method=method
  )


def _parts(params: Any) -> Mapping[str, Any]:
  return params if isinstance(params, Mapping) else {}


def _alike(one: Any, other: Any) -> bool:
  """Whether two trees have arrays of the same paths and shapes."""
  shapes = [
    [(path, x.shape) for path, x in jax.tree_util.tree_leaves_with_path(tree)]
    for tree in (one, other)
  ]
  return bool(shapes[0]) and shapes[0] == shapes[1]
