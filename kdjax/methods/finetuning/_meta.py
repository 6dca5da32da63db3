"""Meta-learning: parameters from which a few steps lead to any task."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from kdjax import ops
from kdjax.methods.optimizers._layerwise_training import group_indices

# (params, batch) -> scalar.
Loss = Callable[[Any, Any], Float[Array, ""]]


def adapt_to_task(
  loss_fn: Loss,
  params: Any,
  support: Any,
  optimizer: optax.GradientTransformation,
  *,
  steps: int | None = 5,
  adapted: Sequence[str] | None = None,
  first_order: bool = False,
) -> Any:
  r"""Inner loop of meta-learning: a few steps on the examples of one task.

  .. math:: \theta_{k+1} = \theta_k - u(\nabla L_{\text{support}}(\theta_k))

  with the updates u of any Optax optimizer, whose state starts anew. All of it
  can be differentiated with respect to `params`, and to arrays that the
  optimizer holds, such as a traced learning rate. Each step is computed once
  more in the backward pass, so that memory holds parameters for each step, not
  the activations.

  Args:
    loss_fn: (params, batch) -> scalar, a pure function.
    params: a pytree of parameters.
    support: the batch of the task, for each step the same; or, with `steps`
      None, batches with a leading axis of steps.
    optimizer: of the inner loop; MAML's is `optax.sgd`.
    steps: how many, at least 0; a static integer.
    adapted: regular expressions: only parameters in whose path one is found
      move, as "head" in ANIL; by default all do.
    first_order: whether the steps' gradients count as constants, as in
      first-order MAML: no second derivatives.

  Returns:
    The adapted parameters, a pytree like `params`.

  Raises:
    TypeError: if `steps` is no integer.
    ValueError: if it is negative, or if no parameter is adapted by one of the
      expressions.

  Second derivatives of `optax.adam` need its `eps_root` above 0: the root of a
  gradient's square has none at 0.

  Examples:
    >>> loss = lambda params, batch: (params["w"] - batch) ** 2 / 2
    >>> start = {"w": jnp.array(0.0)}
    >>> adapted = adapt_to_task(loss, start, 8.0, optax.sgd(0.5), steps=3)
    >>> print(adapted["w"])
    7.0

  References:
    Finn et al., `Model-agnostic meta-learning for fast adaptation of deep
    networks <https://arxiv.org/abs/1703.03400>`_, 2017.
  """
  if steps is not None:
    ops.check_integer("adapt_to_task: steps", steps, 0)
  groups = ("",) if adapted is None else tuple(adapted)
  indices = group_indices("adapt_to_task", groups, params, check=True)
  # Else devices with other tasks would sum the gradients of their inner steps.
  batches = jax.tree.leaves(support)
  params = jax.tree.map(lambda p: ops.vary_like(p, *batches), params)
  # None, for a parameter that stays, is a leaf to nobody: neither the gradient
  # nor the optimizer sees it.
  start = jax.tree.map(lambda p, i: None if i < 0 else p, params, indices)

  def whole(moving: Any) -> Any:
    return jax.tree.map(lambda p, m: p if m is None else m, params, moving)

  @jax.checkpoint
  def step(carry: tuple[Any, Any], batch: Any) -> tuple[tuple[Any, Any], None]:
    moving, state = carry
    batch = support if steps is not None else batch
    gradients = jax.grad(lambda m: loss_fn(whole(m), batch))(moving)
    if first_order:
      gradients = jax.lax.stop_gradient(gradients)
    updates, state = optimizer.update(gradients, state, moving)
    return (optax.apply_updates(moving, updates), state), None

  (moving, _), _ = jax.lax.scan(
    step,
    (start, optimizer.init(start)),
    support if steps is None else None,
    length=steps,
  )
  return whole(moving)


def maml_losses(
  loss_fn: Loss,
  params: Any,
  support: Any,
  query: Any,
  optimizer: optax.GradientTransformation,
  *,
  steps: int = 5,
  adapted: Sequence[str] | None = None,
  first_order: bool = False,
) -> Float[Array, " tasks"]:
  r"""Model-agnostic meta-learning (MAML), and ANIL: the loss after adaptation.

  .. math:: \ell_t = L_{\text{query}, t}(\theta_K(\theta; \text{support}_t))

  of each task, with `adapt_to_task` between. The gradient of their mean
  is the meta-gradient for the outer optimizer:
  `jax.grad(lambda params: jnp.mean(maml_losses(loss_fn, params, ...)))`. With
  `adapted=["head"]` it is ANIL, which leaves the body to the outer loop; with
  `first_order=True` it is FOMAML.

  Args:
    loss_fn: (params, batch) -> scalar, a pure function.
    params: a pytree of parameters.
    support: a batch of each task to adapt to: leaves `[tasks, ...]`.
    query: a batch of each task to judge by: leaves `[tasks, ...]`.
    optimizer: of the inner loop. The authors' code: SGD at 0.4 with 1 step
      (Omniglot, 5 ways), 0.1 with 5 (20 ways), 0.01 with 5 (miniImageNet),
      0.001 with 1 (sinusoids; the paper: 0.01). Its cross-entropy is that of a
      task's examples summed and divided by the shots: a `loss_fn` that takes
      their mean needs these rates times the ways, 2 instead of 0.4.
    steps: of the inner loop; a static integer.
    adapted: regular expressions of the parameters that move in the inner loop.
    first_order: whether second derivatives are left out.

  Returns:
    `[tasks]`, the query losses.

  Raises:
    TypeError: if `steps` is no integer.
    ValueError: if it is negative, or if no parameter is adapted by one of the
      expressions.

  The authors take Adam at 0.001 for the outer loop, clip its gradient to
  [-10, 10] on miniImageNet, and let BatchNorm see the batch at hand, in tests
  too. Raghu et al. published no code.

  Examples:
    >>> loss = lambda params, batch: (params["w"] - batch) ** 2 / 2
    >>> task = jnp.array([8.0, -8.0])
    >>> maml_losses(
    ...   loss, {"w": jnp.array(0.0)}, task, task, optax.sgd(0.5), steps=2
    ... )
    Array([2., 2.], dtype=float32)

  References:
    Finn et al., `Model-agnostic meta-learning for fast adaptation of deep
    networks <https://arxiv.org/abs/1703.03400>`_, 2017.
    Raghu et al., `Rapid learning or feature reuse? Towards understanding the
    effectiveness of MAML <https://arxiv.org/abs/1909.09157>`_, 2020 (ANIL).
  """

  def loss(support: Any, query: Any) -> Float[Array, ""]:
    after = adapt_to_task(
      loss_fn,
      params,
      support,
      optimizer,
      steps=steps,
      adapted=adapted,
      first_order=first_order,
    )
    return loss_fn(after, query)

  return jax.vmap(loss)(support, query)


def reptile_gradient(
  loss_fn: Loss,
  params: Any,
  support: Any,
  optimizer: optax.GradientTransformation,
  *,
  steps: int | None = None,
  axis_name: str | None = None,
) -> Any:
  r"""Reptile: the way back from where the tasks lead.

  .. math:: g = \operatorname*{mean}_t \bigl(\theta - \theta_K^{(t)}\bigr)

  in place of a gradient: an outer `optax.sgd(epsilon)` is the published
  interpolation `theta + epsilon (theta_K - theta)`, and any other
  optimizer may stand there.

  Args:
    loss_fn: (params, batch) -> scalar, a pure function.
    params: a pytree of parameters.
    support: batches of each task: leaves `[tasks, steps, ...]`, a mini-batch
      for each step; or, with a number of `steps`, `[tasks, ...]`, the same.
    optimizer: of the inner loop. The authors' is Adam at 0.001 with beta1 0,
      whose second moments live on from task to task; here each task starts with
      its own.
    steps: None, or how many; a static integer.
    axis_name: the mapped axis that holds the other tasks.

  Returns:
    A pytree like `params`. Published epsilon: 1, falling linearly to 0, for 5
    tasks at a time.

  Raises:
    TypeError: if `steps` is no integer.
    ValueError: if it is negative.

  Examples:
    >>> loss = lambda params, batch: (params["w"] - batch) ** 2 / 2
    >>> way = reptile_gradient(
    ...   loss, {"w": jnp.array(0.0)}, jnp.array([[8.0, 8]]), optax.sgd(0.5)
    ... )
    >>> print(way["w"])
    -6.0

  References:
    Nichol et al., `On first-order meta-learning algorithms
    <https://arxiv.org/abs/1803.02999>`_, 2018.
  """
  after = jax.vmap(
    lambda batches: adapt_to_task(
      loss_fn, params, batches, optimizer, steps=steps
    )
  )(support)
  way = jax.tree.map(lambda p, q: p - jnp.mean(q, 0), params, after)
  return ops.mean_over_devices(way, axis_name)
