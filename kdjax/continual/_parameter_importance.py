"""Penalties by the importance of parameters: EWC and SI."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, PyTree

from kdjax import ops


@ops.validate
def ewc_penalty(
  params: PyTree, past_params: PyTree, fisher: PyTree
) -> Float[Array, ""]:
  r"""Elastic weight consolidation (EWC): important parameters stay in place.

  .. math:: \ell = \sum_i F_i (\theta_i - \theta^\text{past}_i)^2

  Args:
    params: a pytree of floating-point arrays.
    past_params: the parameters after the last task, in the same structure; no
      gradient.
    fisher: the diagonal of the Fisher information, in the same structure, from
      `ewc_fisher`; no gradient.

  Returns:
    A scalar, without the paper's factor 1/2, as in mammoth. Published weight:
    90 on Split-MNIST, 0.7 on Permuted MNIST, both with a decay of 1 (mammoth).

  Raises:
    ValueError: if structures or shapes differ; the message names the path.
    TypeError: if a leaf is not floating-point.

  Online EWC keeps one anchor: the last parameters, and the Fisher information
  `decay * fisher + new_fisher`. EWC itself has a penalty for each earlier task.

  Examples:
    >>> params, past, fisher = ([jnp.array([x])] for x in (3.0, 1.0, 0.5))
    >>> print(ewc_penalty(params, past, fisher))
    2.0

  References:
    Kirkpatrick et al., `Overcoming catastrophic forgetting in neural networks
    <https://arxiv.org/abs/1612.00796>`_, 2017; Schwarz et al., `Progress and
    compress <https://arxiv.org/abs/1805.06370>`_, 2018 (online).
  """
  return _weighted_distance(
    "ewc_penalty", params, ("past_params", past_params), ("fisher", fisher)
  )


@functools.partial(ops.validate, runs_functions=True)
def ewc_fisher(
  log_likelihood: Callable[[Any, Any], Array],
  params: PyTree,
  examples: PyTree,
  *,
  where: Bool[Array, " batch"] | None = None,
  weighted: bool = True,
  axis_name: str | None = None,
) -> PyTree:
  r"""EWC's Fisher information: its diagonal, on the examples of a task.

  .. math::
    F_i = \frac1n \sum_x p(y \mid x)
      \left(\frac{\partial \log p(y \mid x)}{\partial \theta_i}\right)^2

  Args:
    log_likelihood: `(params, example) -> log p(y | x)`, a scalar, for one
      example.
    params: a pytree of floating-point arrays.
    examples: a pytree of arrays `[batch, ...]`, that the function reads.
    where: `[batch]`, True for the examples to use.
    weighted: whether the squared gradient of an example counts with its
      likelihood, as in mammoth's online EWC; False gives the empirical Fisher
      information.
    axis_name: the mapped axis that holds the rest of the examples.

  Returns:
    A pytree like `params`, without gradient; 0 if all examples are masked.

  Raises:
    ValueError: if there are no examples, or their numbers differ.

  Examples are taken one at a time, in constant memory.

  Examples:
    >>> def log_likelihood(params, example):
    ...   return jax.nn.log_sigmoid(params * example)
    >>> x = jnp.array([0.0, 2.0])
    >>> print(ewc_fisher(log_likelihood, jnp.array(0.0), x))
    0.25

  References:
    Kirkpatrick et al., `Overcoming catastrophic forgetting in neural networks
    <https://arxiv.org/abs/1612.00796>`_, 2017; `mammoth
    <https://github.com/aimagelab/mammoth>`_, models/ewc_on.py.
  """
  batch = ops.leading_size("ewc_fisher: examples", examples)
  likelihood = ops.real_scalar("ewc_fisher: log_likelihood", log_likelihood)
  mask = jnp.ones(batch, bool) if where is None else where
  if mask.shape != (batch,):
    raise ValueError(
      f"ewc_fisher: where has shape {mask.shape}; expected ({batch},), one "
      "value an example."
    )
  examples = _arrays(examples)
  # Each device squares the gradients of its own examples: `jax.shard_map` would
  # sum the gradient by parameters that all devices share.
  rows = [mask, *jax.tree.leaves(examples)]
  params = jax.tree.map(
    lambda x: ops.vary_like(jax.lax.stop_gradient(x), *rows),
    ops.float_leaves("ewc_fisher: params", params),
  )

  def add(total: Any, row: tuple[Any, Array]) -> tuple[Any, None]:
    example, used = row
    value, gradient = jax.value_and_grad(likelihood)(params, example)
    weight = jnp.exp(value) if weighted else jnp.ones_like(value)

    def leaf(sum_of_squares: Array, g: Array) -> Array:
      square = weight.astype(g.dtype) * jnp.square(g)
      return sum_of_squares + jnp.where(used, square, 0.0)

    return jax.tree.map(leaf, total, gradient), None

  zeros = jax.tree.map(jnp.zeros_like, params)
  total, _ = jax.lax.scan(add, zeros, (examples, mask))
  total, count = ops.sum_over_devices((total, jnp.sum(mask)), axis_name)
  return jax.tree.map(
    lambda x: jax.lax.stop_gradient(x / jnp.maximum(count, 1).astype(x.dtype)),
    total,
  )


@ops.exportable
class SynapticIntelligence(NamedTuple):
  """State of synaptic intelligence (SI); each field is like the parameters.

  Attributes:
    path: how much each parameter has lowered the loss of the current task.
    importance: of each parameter for earlier tasks.
    anchor: the parameters after the last task.

  References:
    Zenke, Poole and Ganguli, `Continual learning through synaptic intelligence
    <https://arxiv.org/abs/1703.04200>`_, 2017.
  """

  path: PyTree
  importance: PyTree
  anchor: PyTree


@ops.validate
def si_init(params: PyTree) -> SynapticIntelligence:
  """Initial state of synaptic intelligence (SI).

  Args:
    params: a pytree of floating-point arrays, as before the first task.

  Returns:
    A state with importance 0, anchored at the parameters.

  Examples:
    >>> si_init(jnp.array([1.0])).importance
    Array([0.], dtype=float32)

  References:
    Zenke, Poole and Ganguli, `Continual learning through synaptic intelligence
    <https://arxiv.org/abs/1703.04200>`_, 2017.
  """
  params = _arrays(params)
  zeros = jax.tree.map(jnp.zeros_like, params)
  return SynapticIntelligence(zeros, zeros, params)


@ops.validate
def si_update(
  state: SynapticIntelligence, gradients: PyTree, updates: PyTree
) -> SynapticIntelligence:
  r"""Synaptic intelligence (SI): adds a step to the path integral.

  .. math:: \omega_i \leftarrow \omega_i - g_i \Delta\theta_i

  Args:
    state: the state.
    gradients: of the loss of the task without penalty, like the parameters.
    updates: what the optimizer adds to the parameters.

  Returns:
    The new state.

  Raises:
    ValueError: if the structures differ.

  Examples:
    >>> state = si_init(jnp.array([1.0]))
    >>> si_update(state, jnp.array([2.0]), jnp.array([-0.5])).path
    Array([1.], dtype=float32)

  References:
    Zenke, Poole and Ganguli, `Continual learning through synaptic intelligence
    <https://arxiv.org/abs/1703.04200>`_, 2017, equation 3.
  """
  for name, tree in (("gradients", gradients), ("updates", updates)):
    _check_like("si_update", name, tree, "the parameters", state.path)
  path = jax.tree.map(
    lambda w, g, d: w - jnp.asarray(g * d, w.dtype),
    state.path,
    gradients,
    updates,
  )
  return state._replace(path=path)


@ops.validate
def si_consolidate(
  state: SynapticIntelligence, params: PyTree, *, damping: ArrayLike = 0.1
) -> SynapticIntelligence:
  r"""Synaptic intelligence (SI): the end of a task.

  .. math::
    \Omega_i \leftarrow \max\left(0, \Omega_i + \frac{\omega_i}
      {(\theta_i - \theta^\text{anchor}_i)^2 + \xi}\right)

  Args:
    state: the state after the last step of the task.
    params: the parameters after the task.
    damping: xi > 0. May be traced.

  Returns:
    The state for the next task: path 0, anchored at the parameters.

  Raises:
    ValueError: if structures differ or a static damping is not above 0.

  As in the authors' code, the importance stays at least 0: a negative one, of a
  parameter that raised the loss, would reward distance. mammoth keeps it.

  Examples:
    >>> state = si_init(jnp.array([1.0]))._replace(path=jnp.array([1.1]))
    >>> si_consolidate(state, jnp.array([2.0])).importance
    Array([1.], dtype=float32)

  References:
    Zenke, Poole and Ganguli, `Continual learning through synaptic intelligence
    <https://arxiv.org/abs/1703.04200>`_, 2017, equation 5.
  """
  ops.check_positive("si_consolidate: damping", damping)
  _check_like("si_consolidate", "params", params, "the state", state.anchor)
  params = _arrays(params)

  def leaf(omega: Array, path: Array, new: Array, old: Array) -> Array:
    xi = ops.as_number("damping", damping, omega.dtype)
    return jax.nn.relu(omega + path / (jnp.square(new - old) + xi))

  importance = jax.tree.map(
    leaf, state.importance, state.path, params, state.anchor
  )
  zeros = jax.tree.map(jnp.zeros_like, state.path)
  return SynapticIntelligence(zeros, importance, params)


@ops.validate
def si_penalty(params: PyTree, state: SynapticIntelligence) -> Float[Array, ""]:
  r"""Synaptic intelligence (SI): important parameters stay in place.

  .. math:: \ell = \sum_i \Omega_i (\theta_i - \theta^\text{anchor}_i)^2

  Args:
    params: a pytree of floating-point arrays.
    state: the state; no gradient.

  Returns:
    A scalar. Published weight: 0.1 on Permuted MNIST (paper), 0.5 there and 1
    with a damping of 0.9 on Split-MNIST (mammoth).

  Raises:
    ValueError: if structures or shapes differ; the message names the path.
    TypeError: if a leaf is not floating-point.

  Examples:
    >>> state = si_init(jnp.array([1.0]))._replace(importance=jnp.array([0.5]))
    >>> print(si_penalty(jnp.array([3.0]), state))
    2.0

  References:
    Zenke, Poole and Ganguli, `Continual learning through synaptic intelligence
    <https://arxiv.org/abs/1703.04200>`_, 2017, equation 4.
  """
  return _weighted_distance(
    "si_penalty",
    params,
    ("state.anchor", state.anchor),
    ("state.importance", state.importance),
  )


def _arrays(tree: Any) -> Any:
  return jax.tree.map(jnp.asarray, tree)


def _check_like(
  function: str, name: str, tree: Any, of: str, like: Any
) -> None:
  """Raises ValueError unless a pytree has the structure of another."""
  found, expected = jax.tree.structure(tree), jax.tree.structure(like)
  if found != expected:
    raise ValueError(
      f"{function}: {name} has the structure {found}; expected {expected}, "
      f"that of {of}."
    )


def _weighted_distance(
  function: str,
  params: Any,
  anchor: tuple[str, Any],
  importance: tuple[str, Any],
) -> Array:
  """Returns the sum of importance times squared distance."""
  leaves = jax.tree_util.tree_leaves_with_path(params)
  others = []
  for name, tree in (anchor, importance):
    _check_like(function, name, tree, "params", params)
    others.append([jnp.asarray(x) for x in jax.tree.leaves(tree)])
  total = jnp.zeros((), jnp.float32)
  for (path, leaf), start, weight in zip(leaves, *others, strict=True):
    where = jax.tree_util.keystr(path)
    x = jnp.asarray(leaf)
    for name, y in (
      (f"params{where}", x),
      (f"{anchor[0]}{where}", start),
      (f"{importance[0]}{where}", weight),
    ):
      if y.shape != x.shape:
        raise ValueError(
          f"{function}: {name} has shape {y.shape}; expected {x.shape}, the "
          "shape in params."
        )
      if not jnp.issubdtype(y.dtype, jnp.floating):
        raise TypeError(
          f"{function}: {name} has dtype {y.dtype}; expected float."
        )
    dtype = ops.compute_dtype(x)
    gap = x.astype(dtype) - jax.lax.stop_gradient(start).astype(dtype)
    weight = jax.lax.stop_gradient(weight).astype(dtype)
    total = total + jnp.sum(weight * jnp.square(gap))
  return total
