"""Reverse validation."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from kdjax import ops


@ops.validate
def reverse_validation(
  key: Any | None,
  variables: Any,
  source: Any,
  source_labels: Int[Array, " source"],
  target: Any,
  fit: Callable[..., Any],
  predict: Callable[[Any, Any], ArrayLike],
  *,
  initial: Any = None,
  where_source: Bool[Array, " source"] | None = None,
  where_target: Bool[Array, " target"] | None = None,
) -> Float[Array, ""]:
  r"""Reverse (circular) validation: source accuracy after target training.

  .. math::
    s = \operatorname{mean}_{i \in S} \mathbb 1[f'(x_i) = y_i], \qquad
    f' = \operatorname{fit}\bigl(\{(x, f(x)) : x \in T\}\bigr)

  If the pseudo-labels of the target are correct, a model that is trained on
  them can be adapted back to the source, whose labels are known.

  Args:
    key: a JAX random key for `fit`; None if it draws nothing.
    variables: the model f to score, any pytree.
    source: labeled inputs `[source, ...]`, held out if possible.
    source_labels: `[source]`.
    target: unlabeled inputs `[target, ...]`.
    fit: `fit(variables, inputs, labels, mask, key) -> variables`, as in
      `gradual_self_training`: the adaptation method with the target as labeled
      and the source as unlabeled domain. Its closure may hold the source
      inputs.
    predict: `predict(variables, inputs) -> logits`.
    initial: the variables from which `fit` starts. The default is the model
      itself, which gives higher scores; adapt and skada start from new
      variables.
    where_source: mask of the source examples.
    where_target: mask of the target examples.

  Returns:
    A scalar, the accuracy in [0, 1]: higher is better. A model that predicts
    one class for the whole target scores the share of this class in the source.

  Raises:
    ValueError: if predictions and labels differ in length.

  Examples:
    >>> def fit(means, x, labels, mask, key):
    ...   member = jax.nn.one_hot(labels, 2) * mask[:, None]
    ...   return member.T @ x / member.sum(0)
    >>> def predict(means, x):
    ...   return -((x[:, None] - means[None]) ** 2)
    >>> source, labels = jnp.array([-1.0, 1.0]), jnp.array([0, 1])
    >>> target = source + 0.5
    >>> arguments = source, labels, target, fit, predict
    >>> key = jax.random.key(0)
    >>> reverse_validation(key, jnp.array([-1.0, 1.0]), *arguments)
    Array(1., dtype=float32)
    >>> reverse_validation(key, jnp.array([1.0, -1.0]), *arguments)
    Array(0., dtype=float32)

  References:
    Bruzzone and Marconcini, `Domain adaptation problems: a DASVM
    classification technique and a circular validation strategy
    <https://doi.org/10.1109/TPAMI.2009.57>`_, 2010; Ganin et al.,
    `Domain-adversarial training of neural networks
    <https://arxiv.org/abs/1505.07818>`_, 2016.
  """
  labels = _classes(predict(variables, target))
  if where_target is None:
    where_target = jnp.ones(labels.shape, bool)
  start = variables if initial is None else initial
  learned = fit(
    start, target, labels.astype(jnp.int32), jnp.asarray(where_target), key
  )
  predicted = _classes(predict(learned, source))
  known = jnp.asarray(source_labels)
  if predicted.shape != known.shape:
    raise ValueError(
      f"reverse_validation: source_labels has shape {known.shape}; expected "
      f"{predicted.shape}, one label a prediction."
    )
  where = None if where_source is None else jnp.asarray(where_source)
  return ops.masked_mean((predicted == known).astype(float), where)


def _classes(logits: ArrayLike) -> Array:
  logits = jnp.asarray(logits)
  if not logits.ndim or not logits.size or logits.dtype.kind not in "biufV":
    raise ValueError(
      f"reverse_validation: predict returned {logits.dtype} of shape "
      f"{logits.shape}; expected logits, [batch, classes]."
    )
  return jnp.argmax(logits, -1)
