"""Averages over clients: of parameters, predictions and prototypes."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, PyTree

from kdjax import ops


@ops.validate
def federated_average(
  params: PyTree,
  weights: ArrayLike | Sequence[float],
  *,
  axis_name: str | None = None,
) -> PyTree:
  r"""Federated averaging (FedAvg): the weighted mean of clients' parameters.

  .. math:: \theta = \frac{\sum_k n_k \theta_k}{\sum_k n_k}

  Args:
    params: a pytree of floating-point arrays `[clients, ...]`.
    weights: n, `[clients]`, such as the numbers of examples; at least 0. A
      client that was lost, or has no data, gets 0: what its parameters hold
      does not matter then, even NaN. If all weights are 0, each client counts
      equally.
    axis_name: the mapped axis that holds the other clients.

  Returns:
    A pytree of arrays without the axis of clients.

  Raises:
    ValueError: if an array has another number of clients than `weights`, or a
      known weight is negative.
    TypeError: if a leaf is not floating-point.

  Examples:
    >>> params = {"w": jnp.array([[1.0, 2.0], [4.0, 8.0]])}
    >>> print(federated_average(params, jnp.array([2, 1]))["w"])
    [2. 4.]

  References:
    McMahan et al., `Communication-efficient learning of deep networks from
    decentralized data <https://arxiv.org/abs/1602.05629>`_, 2017.
  """
  shares = _shares("federated_average", weights, None, axis_name)
  if shares.ndim != 1:
    raise ValueError(
      f"federated_average: weights has shape {shares.shape}; expected "
      "[clients]."
    )

  def average(path: tuple[Any, ...], leaf: ArrayLike) -> Array:
    x = jnp.asarray(leaf)
    name = f"federated_average: params{jax.tree_util.keystr(path)}"
    if not jnp.issubdtype(x.dtype, jnp.floating):
      raise TypeError(f"{name} has dtype {x.dtype}; expected float.")
    if x.shape[:1] != shares.shape:
      raise ValueError(
        f"{name} has shape {x.shape}; expected {shares.size} clients along its "
        "first axis, as in weights."
      )
    wide = x.astype(ops.compute_dtype(x))
    share = jnp.expand_dims(shares, range(1, x.ndim)).astype(wide.dtype)
    # A weight of 0 times NaN is 0: a client that was lost sends anything.
    total = jnp.sum(share * jnp.where(share == 0, 0.0, wide), 0)
    return ops.sum_over_devices(total, axis_name).astype(x.dtype)

  return jax.tree_util.tree_map_with_path(average, params)


@ops.validate
def consensus_logits(
  logits: Float[Array, "clients batch classes"],
  *,
  average: str = "logits",
  weights: ArrayLike | Sequence[float] | None = None,
  axis_name: str | None = None,
) -> Float[Array, "batch classes"]:
  r"""Consensus of clients: the mean of their predictions on public examples.

  .. math::
    \text{logits: } \sum_k w_k z_k \qquad
    \text{probabilities: } \log \sum_k w_k \, \mathrm{softmax}(z_k)

  Args:
    logits: z, `[clients, batch, classes]`.
    average: "logits" (FedMD, FedDF) or "probabilities"; the two differ, by
      0.27 of a probability on random logits.
    weights: w, at least 0 and divided by their sum: `[clients]`, such as the
      numbers of examples, or `[clients, batch]`, such as `confidence_weights`;
      None for equal ones. A client with weight 0 does not matter.
    axis_name: the mapped axis that holds the other clients.

  Returns:
    `[batch, classes]`, logits whose softmax is the consensus.

  Raises:
    ValueError: if shapes do not fit, the average is unknown or a known weight
      is negative.
    TypeError: if the logits are not floating-point.

  Examples:
    >>> logits = jnp.array([[[2.0, 0.0]], [[0.0, 4.0]]])
    >>> print(consensus_logits(logits))
    [[1. 2.]]

  References:
    Li and Wang, `FedMD: heterogenous federated learning via model distillation
    <https://arxiv.org/abs/1910.03581>`_, 2019; Lin et al., `Ensemble
    distillation for robust model fusion in federated learning
    <https://arxiv.org/abs/2006.07242>`_, 2020.
  """
  name = "consensus_logits"
  ops.check_choice(f"{name}: average", average, ("logits", "probabilities"))
  logits = logits.astype(ops.compute_dtype(logits))
  clients, batch, _ = logits.shape
  if weights is None:
    weights = jnp.ones(clients, logits.dtype)
  shares = _shares(name, weights, logits.dtype, axis_name)
  if shares.shape not in ((clients,), (clients, batch)):
    raise ValueError(
      f"{name}: weights has shape {shares.shape}; expected ({clients},), one a "
      f"client, or ({clients}, {batch})."
    )
  shares = jnp.expand_dims(shares, range(shares.ndim, 3))
  if average == "logits":
    # A weight of 0 times -inf or NaN is 0.
    used = jnp.where(shares == 0, 0.0, logits)
    return ops.sum_over_devices(jnp.sum(shares * used, 0), axis_name)
  log_p = ops.log_softened_softmax(jnp.where(shares == 0, 0.0, logits))
  if axis_name is not None:
    total = jax.lax.psum(jnp.sum(shares * jnp.exp(log_p), 0), axis_name)
    zero = total == 0
    return jnp.where(zero, -jnp.inf, jnp.log(jnp.where(zero, 1.0, total)))
  log_w = jnp.log(jnp.where(shares == 0, 1.0, shares))
  terms = jnp.where(shares == 0, -jnp.inf, log_w + log_p)
  masked = jnp.max(terms, 0) == -jnp.inf
  terms = jnp.where(masked[None], 0.0, terms)
  return jnp.where(masked, -jnp.inf, jax.nn.logsumexp(terms, 0))


@ops.validate
def confidence_weights(
  logits: Float[Array, "clients batch classes"],
) -> Float[Array, "clients batch"]:
  r"""Weights of clients by confidence: the variance of each client's logits.

  .. math:: w_k(x) = \operatorname*{Var}_c z_{kc}(x)

  Args:
    logits: `[clients, batch, classes]`.

  Returns:
    `[clients, batch]`, at least 0, without gradient, for `consensus_logits`,
    which divides them by their sum over clients. Classes at -inf do not count.

  Raises:
    ValueError: if the logits have another number of axes.
    TypeError: if the logits are not floating-point.

  Examples:
    >>> logits = jnp.array([[[2.0, -2.0]], [[1.0, -1.0]]])
    >>> print(confidence_weights(logits).T)
    [[4. 1.]]

  References:
    Cho et al., `Heterogeneous ensemble knowledge transfer for training large
    models in federated learning <https://arxiv.org/abs/2204.12703>`_, 2022
    (Fed-ET).
  """
  logits = jax.lax.stop_gradient(logits)
  logits = logits.astype(ops.compute_dtype(logits))
  used = logits != -jnp.inf
  count = jnp.maximum(jnp.sum(used, -1, keepdims=True), 1)
  finite = jnp.where(used, logits, 0.0)
  gaps = jnp.where(used, finite - jnp.sum(finite, -1, keepdims=True) / count, 0)
  return jnp.sum(jnp.square(gaps), -1) / count[..., 0]


@ops.validate
def federated_prototypes(
  prototypes: Float[Array, "clients classes dims"],
  counts: Float[Array, "clients classes"],
  *,
  weighted: bool = False,
  axis_name: str | None = None,
) -> tuple[Float[Array, "classes dims"], Bool[Array, " classes"]]:
  r"""Global prototypes of FedProto: the mean of the clients' prototypes.

  Args:
    prototypes: `[clients, classes, dims]`, of
      `kdjax.finetuning.class_prototypes`.
    counts: `[clients, classes]`, the number of examples of each client and
      class. A client without examples of a class does not count for it.
    weighted: whether clients count by their examples (the paper) or equally
      (the authors' code).
    axis_name: the mapped axis that holds the other clients.

  Returns:
    `[classes, dims]`, 0 for a class that no client has, and `[classes]`, True
    for those that one has: the arguments of `fedproto_loss`.

  Raises:
    ValueError: if shapes do not fit.
    TypeError: if an array is not floating-point.

  Examples:
    >>> prototypes = jnp.array([[[1.0], [7.0]], [[4.0], [0.0]]])
    >>> counts = jnp.array([[2.0, 0.0], [1.0, 0.0]])
    >>> means, available = federated_prototypes(
    ...   prototypes, counts, weighted=True
    ... )
    >>> print(means[:, 0], available)
    [2. 0.] [ True False]

  References:
    Tan et al., `FedProto: federated prototype learning across heterogeneous
    clients <https://arxiv.org/abs/2105.00243>`_, 2022.
  """
  rows = prototypes.astype(ops.compute_dtype(prototypes))
  counts = counts.astype(rows.dtype)
  used = ~(counts <= 0)  # True for NaN, which must reach the caller
  weights = jnp.where(used, counts if weighted else 1.0, 0.0)
  rows = jnp.where(used[..., None], rows, 0.0)
  sums = jnp.sum(weights[..., None] * rows, 0), jnp.sum(weights, 0)
  total, weight = ops.sum_over_devices(sums, axis_name)
  return total / ops.nonzero_divisor(weight)[:, None], weight > 0


def _shares(
  function: str,
  weights: ArrayLike | Sequence[float],
  dtype: jnp.dtype | None,
  axis_name: str | None,
) -> Array:
  """Returns weights divided by their sum over clients; equal if all are 0."""
  if not isinstance(weights, jax.Array):
    known = np.asarray(weights)
    if known.dtype.kind not in "biuf":
      raise TypeError(
        f"{function}: weights is {weights!r}; expected numbers, [clients]."
      )
    if not np.all(known >= 0):
      raise ValueError(
        f"{function}: weights is {known.tolist()}; expected numbers from 0 on."
      )
  values = jnp.asarray(weights)
  if dtype is None:
    dtype = ops.compute_dtype(values)
  values = values.astype(dtype)
  if not values.ndim:
    raise ValueError(f"{function}: weights is a scalar; expected [clients].")
  total = ops.sum_over_devices(jnp.sum(values, 0, keepdims=True), axis_name)
  count = ops.sum_over_devices(jnp.asarray(values.shape[0], dtype), axis_name)
  # NaN is not 0: it must reach the caller.
  return jnp.where(total == 0, 1 / count, values / ops.nonzero_divisor(total))
