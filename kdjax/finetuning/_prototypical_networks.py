"""Prototypical networks: few-shot classification by class means."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from kdjax import ops


@ops.validate
def class_prototypes(
  embeddings: Float[Array, "batch dims"],
  labels: Int[Array, " batch"],
  *,
  num_classes: int | None = None,
  where: Bool[Array, " batch"] | None = None,
  axis_name: str | None = None,
) -> Float[Array, "classes dims"]:
  r"""Class prototypes: the mean embedding of each class.

  .. math:: c_k = \operatorname*{mean}_{i: y_i = k} f(x_i)

  Args:
    embeddings: `[batch, dims]`, of the support examples.
    labels: `[batch]`.
    num_classes: the number of classes; None for the largest label plus 1. Under
      `jax.jit` it must be given.
    where: `[batch]`, True for the examples to use.
    axis_name: the mapped axis that holds the rest of the examples.

  Returns:
    `[classes, dims]`; 0 for a class without examples.

  Raises:
    ValueError: if the batches differ in size, or `num_classes` is None under
      `jax.jit`.
    TypeError: if dtypes are wrong.

  Examples:
    >>> points = jnp.array([[0.0, 1.0], [2.0, 1.0], [5.0, 5.0]])
    >>> print(class_prototypes(points, jnp.array([0, 0, 1])))
    [[1. 1.]
     [5. 5.]]

  References:
    Snell et al., `Prototypical networks for few-shot learning
    <https://arxiv.org/abs/1703.05175>`_, 2017.
  """
  sums, counts = ops.class_sums(
    "class_prototypes", embeddings, labels, num_classes, where, axis_name
  )
  return sums / ops.nonzero_divisor(counts)[:, None]


@ops.validate
def prototypical_logits(
  embeddings: Float[Array, "batch dims"],
  prototypes: Float[Array, "classes dims"],
  *,
  distance: str = "squared_euclidean",
  where: Bool[Array, " classes"] | None = None,
) -> Float[Array, "batch classes"]:
  r"""Prototypical logits: negative distances to the prototypes.

  .. math:: z_{ik} = -\lVert f(x_i) - c_k \rVert^2

  Args:
    embeddings: `[batch, dims]`, of the query examples.
    prototypes: `[classes, dims]`, for example from `class_prototypes`.
    distance: "squared_euclidean", or "cosine" for 1 - cosine, which was much
      less accurate in the paper.
    where: `[classes]`, True for the classes of the episode.

  Returns:
    `[batch, classes]`, at most 0; -inf for a masked class.

  Raises:
    ValueError: if the widths differ, or if the distance is unknown.
    TypeError: if an array is not floating-point.

  Examples:
    >>> prototypes = jnp.array([[0.0, 0.0], [3.0, 4.0]])
    >>> print(prototypical_logits(jnp.array([[0.0, 0.0]]), prototypes))
    [[ -0. -25.]]

  References:
    Snell et al., `Prototypical networks for few-shot learning
    <https://arxiv.org/abs/1703.05175>`_, 2017.
  """
  ops.check_choice(
    "prototypical_logits: distance", distance, ("squared_euclidean", "cosine")
  )
  if distance == "cosine":
    queries, means = map(_unit_vectors, (embeddings, prototypes))
    logits = jnp.matmul(queries, means.T, precision="highest") - 1.0
  else:
    logits = -ops.pairwise_squared_distances(embeddings, prototypes)
  mask = None if where is None else where[None]
  return ops.mask_classes(logits, mask)


@ops.validate
def prototypical_loss(
  support_embeddings: Float[Array, "support dims"],
  support_labels: Int[Array, " support"],
  query_embeddings: Float[Array, "query dims"],
  query_labels: Int[Array, " query"],
  *,
  num_classes: int | None = None,
  distance: str = "squared_euclidean",
  where: Bool[Array, " support"] | None = None,
  axis_name: str | None = None,
) -> Float[Array, " query"]:
  r"""Prototypical networks: the cross-entropy of queries by their distances.

  .. math:: \ell_i = -\log \frac{\exp(-d(f(x_i), c_{y_i}))}
                               {\sum_k \exp(-d(f(x_i), c_k))}

  with the prototypes c of the support examples, for one episode. For several
  episodes, use `jax.vmap`. Support and query may differ in size; gradients
  reach both.

  Args:
    support_embeddings: `[support, dims]`.
    support_labels: `[support]`.
    query_embeddings: `[query, dims]`.
    query_labels: `[query]`.
    num_classes: the number of classes (ways) of the episode; None for the
      largest support label plus 1. Under `jax.jit` it must be given.
    distance: "squared_euclidean" or "cosine", see `prototypical_logits`.
    where: `[support]`, True for the support examples to use.
    axis_name: the mapped axis that holds the rest of the support examples.

  Returns:
    One value a query; infinite if its class has no support example.

  Raises:
    ValueError: if shapes differ, `num_classes` is None under `jax.jit`, or the
      distance is unknown.
    TypeError: if dtypes are wrong.

  The authors train with more ways than they test with: 60 ways on Omniglot, 30
  (one shot) and 20 (five shots) on miniImageNet, tested with 5 ways. The
  numbers of shots are equal. The loss is the mean over queries. Support and
  queries are one batch of the encoder and of its batch normalization.

  Examples:
    >>> support = jnp.array([[0.0], [2.0], [4.0]])
    >>> loss = prototypical_loss(
    ...   support, jnp.array([0, 0, 1]), jnp.array([[2.5]]), jnp.array([1])
    ... )
    >>> print(loss)  # 2.5 is equally far from the prototypes 1 and 4.
    [0.6931472]

  References:
    Snell et al., `Prototypical networks for few-shot learning
    <https://arxiv.org/abs/1703.05175>`_, 2017.
  """
  sums, counts = ops.class_sums(
    "prototypical_loss",
    support_embeddings,
    support_labels,
    num_classes,
    where,
    axis_name,
  )
  logits = prototypical_logits(
    query_embeddings,
    sums / ops.nonzero_divisor(counts)[:, None],
    distance=distance,
    where=counts != 0,
  )
  return ops.cross_entropy(logits, query_labels)


def _unit_vectors(rows: Array) -> Array:
  """Returns rows of unit norm; 0 for a zero row."""
  rows = rows.astype(ops.compute_dtype(rows))
  return rows / ops.nonzero_divisor(ops.safe_norm(rows, keepdims=True))
