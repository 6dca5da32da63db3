"""iCaRL: incremental classifier and representation learning."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from kdjax import ops

_Carry = tuple[Array, Array]


@ops.validate
def icarl_loss(
  student_logits: Float[Array, "*batch classes"],
  past_logits: Float[Array, "*batch classes"],
  labels: Int[Array, "*batch"],
  past_classes: Bool[Array, " classes"],
) -> Float[Array, "*batch"]:
  r"""Loss of iCaRL: binary cross-entropies with past answers and with labels.

  .. math::
    \ell = -\frac1C \sum_c t_c \log \sigma(z_c)
           + (1 - t_c) \log (1 - \sigma(z_c)), \quad
    t_c = \begin{cases}
      \sigma(z_c^\text{past}) & c \text{ past} \\
      [c = y] & \text{otherwise}
    \end{cases}

  Args:
    student_logits: `[*batch, classes]`.
    past_logits: `[*batch, classes]`, of the network before the current task, on
      the same inputs; no gradient. For the first task any array will do.
    labels: `[*batch]`, of the current task and of replayed examples.
    past_classes: `[classes]`, True for the classes of earlier tasks.

  Returns:
    One value an example, a mean over all classes, those of future tasks
    included.

  Raises:
    ValueError: if the shapes differ.
    TypeError: if an array has a wrong dtype.

  A replayed example of a past class has no positive target of its own: its
  class too gets the sigmoid of the past network, as in the paper's algorithm 3
  and in mammoth. iCaRL predicts by the nearest class mean of the exemplars
  (`herding`), not by these logits.

  Examples:
    >>> zeros = jnp.zeros((1, 2))
    >>> old = jnp.array([True, False])
    >>> print(icarl_loss(zeros, zeros, jnp.array([1]), old))
    [0.6931472]

  References:
    Rebuffi et al., `iCaRL: incremental classifier and representation learning
    <https://arxiv.org/abs/1611.07725>`_, 2017; `mammoth
    <https://github.com/aimagelab/mammoth>`_, models/icarl.py.
  """
  classes = student_logits.shape[-1]
  logits = student_logits.astype(ops.compute_dtype(student_logits))
  past = jax.lax.stop_gradient(past_logits).astype(
    ops.compute_dtype(past_logits)
  )
  known = ops.check_labels(labels, classes)
  one_hot = jax.nn.one_hot(known, classes, dtype=logits.dtype)
  old = jnp.broadcast_to(past_classes, logits.shape)
  targets = jnp.where(old, jax.nn.sigmoid(past), one_hot)
  # A target of 0 times a logit of -inf is 0, not NaN.
  products = targets * jnp.where(targets != 0, logits, 0.0)
  values = jnp.mean(jax.nn.softplus(logits) - products, -1)
  return ops.mask_unknown_labels(values, labels, classes)


@ops.validate
def herding(
  embeddings: Float[Array, "batch dims"],
  size: int,
  *,
  where: Bool[Array, " batch"] | None = None,
) -> Int[Array, " size"]:
  r"""Herding: chooses examples whose mean is near the mean of all.

  .. math::
    p_k = \arg\min_{i \notin p} \Bigl\lVert \mu - \frac1k
      \Bigl(\phi_i + \sum_{j<k} \phi_{p_j}\Bigr) \Bigr\rVert

  with unit embeddings phi and their mean mu. The order matters: the first
  examples are the best subset of their number.

  Args:
    embeddings: `[batch, dims]`, normalized here, of the examples of one class.
    size: the number of examples to choose.
    where: `[batch]`, True for the examples to choose from. For all classes at
      once, use `jax.vmap` over the masks of the classes.

  Returns:
    `[size]`, indices in the order of choice, without repetition; -1 where fewer
    than `size` examples are unmasked.

  Raises:
    ValueError: if there are fewer than `size` examples.
    TypeError: if the embeddings are not floating-point or size no integer.

  iCaRL's published code takes the example of the largest product with the
  remaining mean, which is the same for unit vectors, but subtracts an example
  again each time that it comes up again; kdjax never chooses one twice, as in
  the paper.

  Examples:
    >>> points = jnp.array([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    >>> print(herding(points, 2))
    [1 0]

  References:
    Welling, `Herding dynamical weights to learn
    <https://dl.acm.org/doi/10.1145/1553374.1553517>`_, 2009; Rebuffi et al.,
    `iCaRL <https://arxiv.org/abs/1611.07725>`_, 2017, algorithm 4.
  """
  ops.check_integer("herding: size", size, 1)
  rows = embeddings.shape[0]
  if not ops.is_symbolic(rows) and size > rows:
    raise ValueError(
      f"herding: size is {size}; expected at most the number of examples, "
      f"{rows}."
    )
  rows, mask = ops.masked_rows(jax.lax.stop_gradient(embeddings), where)
  rows = ops.unit_vectors(rows)
  mean = jnp.sum(rows, 0) / jnp.maximum(jnp.sum(mask), 1)
  squares = jnp.sum(jnp.square(rows), 1)

  def choose(carry: _Carry, _: None) -> tuple[_Carry, Array]:
    rest, free = carry  # k mu minus the sum of those chosen before
    products = jnp.matmul(rows, rest, precision="highest")
    score = jnp.where(free, products - squares / 2, -jnp.inf)
    best = jnp.argmax(score)
    left = jnp.any(free)
    free = free & (jnp.arange(free.size) != best)
    return (rest + mean - rows[best], free), jnp.where(left, best, -1)

  _, indices = jax.lax.scan(choose, (mean, mask > 0), None, length=size)
  return indices
