"""Layer by layer: rates that fall with depth, groups trained in turn."""

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Int

from kdjax import ops


def layerwise_learning_rates(
  groups: Sequence[str],
  *,
  decay: ArrayLike | None = None,
  factors: ArrayLike | Sequence[float] | None = None,
) -> optax.GradientTransformation:
  r"""Layer-wise learning rates: layers near the input move less.

  .. math:: \eta_g = \eta\, \xi^{G - g}, \qquad g = 1, \dots, G

  The last link of an `optax.chain`, after the optimizer: it scales updates, by
  groups of parameters, weight decay included.

  Args:
    groups: regular expressions, from the input's layers to the output's. A
      parameter belongs to the first that is found in its path, such as
      "student/stem/kernel"; one that none is found in keeps its rate.
    decay: xi > 0: the last group has factor 1, each earlier one xi times that
      of the next. Published: 1 / 2.6 (ULMFiT), 0.65 to 0.75 (masked image
      models of ViT), 0.95 (BERT). May be traced.
    factors: instead of it, one factor a group: [0.1] for `["backbone"]` is the
      usual tenth of TLlib. May be traced.

  Returns:
    An Optax transformation without state.

  Raises:
    ValueError: if not exactly one of decay and factors is given, static decay
      is not above 0, or the number of factors is not that of the groups; from
      `init`, if no parameter is in a group.

  Examples:
    >>> optimizer = optax.chain(
    ...   optax.sgd(1.0), layerwise_learning_rates(["stem", "head"], decay=0.5)
    ... )
    >>> params = {"head": jnp.array(1.0), "stem": jnp.array(1.0)}
    >>> updates, _ = optimizer.update(params, optimizer.init(params))
    >>> print(updates["head"], updates["stem"])
    -1.0 -0.5

  References:
    Howard and Ruder, `Universal language model fine-tuning for text
    classification <https://arxiv.org/abs/1801.06146>`_, 2018.
  """
  name = "layerwise_learning_rates"
  if (decay is None) == (factors is None):
    raise ValueError(f"{name}: expected one of decay and factors.")
  if decay is not None:
    ops.check_positive(f"{name}: decay", decay)
    rates = jnp.asarray(decay, float) ** jnp.arange(len(groups) - 1, -1, -1)
  else:
    rates = jnp.asarray(factors, float)
  if rates.shape != (len(groups),):
    raise ValueError(
      f"{name}: factors has shape {rates.shape}; expected ({len(groups)},), "
      "one a group."
    )

  def init(params: Any) -> optax.EmptyState:
    group_indices(name, groups, params, check=True)
    return optax.EmptyState()

  def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
    del params
    indices = group_indices(name, groups, updates)
    scaled = jax.tree.map(
      lambda u, i: u if i < 0 else u * rates[i].astype(u.dtype),
      updates,
      indices,
    )
    return scaled, state

  return optax.GradientTransformation(init, update)


class GradualUnfreezingState(NamedTuple):
  """State of `gradual_unfreezing` and of `stagewise_training`."""

  step: Int[Array, ""]
  optimizer_state: Any


def gradual_unfreezing(
  optimizer: optax.GradientTransformation,
  groups: Sequence[str],
  *,
  every: int | Array,
) -> optax.GradientTransformationExtraArgs:
  """Gradual unfreezing: one more group of layers is trained at a time.

  The last group is trained from the start, the one before it from step
  `every` on, the first from (groups - 1) * every on. A frozen parameter stays
  exactly where it is, weight decay or not, and the optimizer sees gradient 0,
  so that its momentum is 0 when it is unfrozen.

  Args:
    optimizer: any Optax transformation; it is wrapped.
    groups: regular expressions, from the input's layers to the output's. A
      parameter belongs to the first that is found in its path, such as
      "student/stem/kernel"; one that none is found in is never frozen.
    every: steps between two unfreezings; ULMFiT's is an epoch. May be traced.

  Returns:
    An Optax transformation around the optimizer. Batch statistics are no
    parameters and move from the start.

  Raises:
    ValueError: if a static `every` is below 1; from `init`, if no parameter is
      in a group.
    TypeError: if `every` is no integer.

  Examples:
    >>> optimizer = gradual_unfreezing(
    ...   optax.sgd(1.0), ["stem", "head"], every=1
    ... )
    >>> params = {"head": jnp.array(1.0), "stem": jnp.array(1.0)}
    >>> state = optimizer.init(params)
    >>> for _ in range(2):
    ...   updates, state = optimizer.update(params, state, params)
    ...   print(updates["head"], updates["stem"])
    -1.0 0.0
    -1.0 -1.0

  References:
    Howard and Ruder, `Universal language model fine-tuning for text
    classification <https://arxiv.org/abs/1801.06146>`_, 2018.
  """
  name = "gradual_unfreezing"
  if not isinstance(every, jax.Array):
    ops.check_integer(f"{name}: every", every, 1)

  def is_open(group: int, step: Any) -> Any:
    return len(groups) - group <= 1 + step // every

  return _gated(name, optimizer, groups, is_open)


def stagewise_training(
  optimizer: optax.GradientTransformation,
  groups: Sequence[str],
  *,
  every: int | Array,
) -> optax.GradientTransformationExtraArgs:
  """Stage-wise training: one group of layers is trained at a time.

  The first group is trained for `every` steps while all others are frozen,
  then the second one, and so on; the last group stays open. It is the freezing
  of stage-by-stage and of block-wise distillation, whose loss is
  `methods.create("stagewise", steps=steps)`: loss and groups change at the
  same steps if `every` is `steps // len(groups)`. A frozen parameter stays
  exactly where it is, weight decay or not, and the optimizer sees gradient 0.
  The optimizer is not started anew for a stage; moments of its parameters are 0
  at its start.

  Args:
    optimizer: any Optax transformation; it is wrapped.
    groups: regular expressions, from the input's layers to the output's. A
      parameter belongs to the first that is found in its path, such as
      "student/stem/kernel"; one that none is found in is never frozen.
    every: steps of a stage. May be traced.

  Returns:
    An Optax transformation around the optimizer. Batch statistics are no
    parameters and move from the start.

  Raises:
    ValueError: if a static `every` is below 1; from `init`, if no parameter is
      in a group.
    TypeError: if `every` is no integer.

  Examples:
    >>> optimizer = stagewise_training(
    ...   optax.sgd(1.0), ["stem", "head"], every=1
    ... )
    >>> params = {"head": jnp.array(1.0), "stem": jnp.array(1.0)}
    >>> state = optimizer.init(params)
    >>> for _ in range(2):
    ...   updates, state = optimizer.update(params, state, params)
    ...   print(updates["head"], updates["stem"])
    0.0 -1.0
    -1.0 0.0

  References:
    Gao et al., `An embarrassingly simple approach for knowledge distillation
    <https://arxiv.org/abs/1812.01819>`_, 2018; Wang et al., `Progressive
    blockwise knowledge distillation for neural network acceleration
    <https://www.ijcai.org/proceedings/2018/384>`_, 2018.
  """
  name = "stagewise_training"
  if not isinstance(every, jax.Array):
    ops.check_integer(f"{name}: every", every, 1)

  def is_open(group: int, step: Any) -> Any:
    return group == jnp.minimum(step // every, len(groups) - 1)

  return _gated(name, optimizer, groups, is_open)


def _gated(
  name: str,
  optimizer: optax.GradientTransformation,
  groups: Sequence[str],
  is_open: Callable[[int, Any], Any],
) -> optax.GradientTransformationExtraArgs:
  """The optimizer, of groups that are open at a step."""
  inner = optax.with_extra_args_support(optimizer)

  def init(params: Any) -> GradualUnfreezingState:
    group_indices(name, groups, params, check=True)
    return GradualUnfreezingState(jnp.zeros((), jnp.int32), inner.init(params))

  def update(
    updates: Any, state: Any, params: Any = None, **extra: Any
  ) -> tuple[Any, GradualUnfreezingState]:
    indices = group_indices(name, groups, updates)

    def thawed(tree: Any) -> Any:
      return jax.tree.map(
        lambda u, i: (
          u if i < 0 else jnp.where(is_open(i, state.step), u, 0)
        ).astype(u.dtype),
        tree,
        indices,
      )

    moved, inner_state = inner.update(
      thawed(updates), state.optimizer_state, params, **extra
    )
    step = jnp.asarray(optax.safe_increment(state.step))
    return thawed(moved), GradualUnfreezingState(step, inner_state)

  return optax.GradientTransformationExtraArgs(init, update)


def group_indices(
  name: str, groups: Sequence[str], tree: Any, *, check: bool = False
) -> Any:
  """Returns the number of each leaf's group, -1 if it is in none."""
  patterns = [re.compile(group) for group in groups]

  def index(path: tuple[Any, ...]) -> int:
    text = jax.tree_util.keystr(path, simple=True, separator="/")
    found = (i for i, p in enumerate(patterns) if p.search(text))
    return next(found, -1)

  indices = jax.tree_util.tree_map_with_path(lambda path, _: index(path), tree)
  if check:
    used = set(jax.tree.leaves(indices))
    for i, group in enumerate(groups):
      if i not in used:
        raise ValueError(
          f"{name}: groups[{i}] is {group!r}; expected an expression that is "
          "found in the path of a parameter, and no earlier one."
        )
  return indices
