"""Penalties that keep a fine-tuned network near where it started."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, PyTree

from kdjax.ops._collectives import agreed
from kdjax.ops._rows import whole_rows
from kdjax.ops._softmax import compute_dtype
from kdjax.ops._validation import as_number
from kdjax.ops._validation import check_integer
from kdjax.ops._validation import check_positive
from kdjax.ops._validation import validate


def l2_sp(
  params: PyTree,
  pretrained_params: PyTree,
  *,
  alpha: ArrayLike = 1.0,
  beta: ArrayLike = 1.0,
) -> Float[Array, ""]:
  r"""L2 penalty towards the starting point (L2-SP) of fine-tuning.

  .. math::
    \ell = \frac\alpha2 \lVert w - w^0 \rVert_2^2
         + \frac\beta2 \lVert w' \rVert_2^2

  with the parameters w that were pretrained and those w' that are new.

  Args:
    params: a pytree of floating-point arrays.
    pretrained_params: a pytree of the same structure; it receives no gradient.
      None in place of an array or of a whole subtree, such as a new head,
      marks what is new.
    alpha: the weight of pretrained parameters. May be traced.
    beta: the weight of new ones. May be traced.

  Returns:
    A scalar. Published weights: beta 0.01 and alpha chosen from 1e-3 to 1
    (paper); 0.01 for both in TLlib, each with no other weight decay.

  Raises:
    ValueError: if structures or shapes differ; the message names the path.
    TypeError: if a leaf is not floating-point.

  It is the sum over parameters, as the paper and TLlib have it; adapt takes
  the mean over them, so its weight does not carry over.

  Examples:
    >>> params = {"body": jnp.array([1.0, 3.0]), "head": jnp.array([2.0])}
    >>> l2_sp(params, {"body": jnp.array([1.0, 1.0]), "head": None})
    Array(4., dtype=float32)

  References:
    Li, Grandvalet and Davoine, `Explicit inductive bias for transfer learning
    with convolutional networks <https://arxiv.org/abs/1802.01483>`_, 2018.
  """
  pairs = _paired(params, pretrained_params)
  dtype = jnp.result_type(jnp.float32, *(compute_dtype(x) for x, _ in pairs))
  sums = {True: jnp.zeros((), dtype), False: jnp.zeros((), dtype)}
  for x, start in pairs:
    gap = x.astype(dtype)
    if start is not None:
      gap = gap - jax.lax.stop_gradient(start).astype(dtype)
    sums[start is None] += 0.5 * jnp.sum(jnp.square(gap))
  return (
    as_number("alpha", alpha, dtype) * sums[False]
    + as_number("beta", beta, dtype) * sums[True]
  )


def _paired(params: Any, start: Any) -> list[tuple[Array, Array | None]]:
  """Returns parameters with their starting points, None for new ones."""
  leaves = jax.tree_util.tree_flatten_with_path(params)[0]
  starts = dict(
    jax.tree_util.tree_flatten_with_path(start, is_leaf=lambda x: x is None)[0]
  )
  pairs = []
  for path, leaf in leaves:
    name = f"params{jax.tree_util.keystr(path)}"
    owner = next(
      (path[:i] for i in range(len(path) + 1) if path[:i] in starts), None
    )
    if owner is None or (starts[owner] is not None and owner != path):
      raise ValueError(
        f"l2_sp: pretrained_params has no counterpart of {name}; expected the "
        "same structure, with None for what is new."
      )
    other = starts[owner]
    leaf = jnp.asarray(leaf)
    if not jnp.issubdtype(leaf.dtype, jnp.floating):
      raise TypeError(f"l2_sp: {name} has dtype {leaf.dtype}; expected float.")
    if other is not None and jnp.shape(other) != leaf.shape:
      raise ValueError(
        f"l2_sp: pretrained_params{jax.tree_util.keystr(path)} has shape "
        f"{jnp.shape(other)}; expected {leaf.shape}, as in params."
      )
    pairs.append((leaf, None if other is None else jnp.asarray(other)))
  known = {path for path, _ in leaves}
  for path, other in starts.items():
    if other is not None and path not in known:
      raise ValueError(
        f"l2_sp: pretrained_params{jax.tree_util.keystr(path)} has no "
        "counterpart in params; expected the same structure."
      )
  return pairs


@validate
def delta_loss(
  student_features: Float[Array, "batch *positions channels"],
  teacher_features: Float[Array, "batch *positions channels"],
  *,
  channel_attention: Float[Array, " channels"] | None = None,
  stop_teacher_gradient: bool = True,
) -> Float[Array, " batch"]:
  r"""DELTA: fine-tuned feature maps stay near the pretrained ones.

  .. math::
    \ell = \frac12 \sum_{hwc} (F_{hwc} - F^0_{hwc})^2, \qquad
    \ell_\text{attention} = \frac{C}{2 H W}
      \sum_c a_c \sum_{hw} (F_{hwc} - F^0_{hwc})^2

  the behavioural penalty, and the one that weighs channels by how much the
  target task needs them. A network's penalty is the sum over its layers.

  Args:
    student_features: `[batch, ..., channels]`, of the network being tuned.
    teacher_features: the same layer of the pretrained network, which stays as
      it was; no gradient.
    channel_attention: `[channels]`, from :func:`delta_channel_attention`; no
      gradient. None for the behavioural penalty.
    stop_teacher_gradient: False lets gradients reach the teacher.

  Returns:
    One value an example. Published weight: 0.01 times the sum over the batch
    of 48 and over the last layer of each of the four stages (TLlib), that is
    0.48 times the mean; L2 of weight 0.01 on the new head.

  Raises:
    ValueError: if shapes differ.
    TypeError: if an array is not floating-point.

  The paper has no 1/2 and no C / (H W); the factors are those of TLlib.

  Examples:
    >>> maps = jnp.ones((1, 2, 2, 3))
    >>> delta_loss(maps, 0.0 * maps)
    Array([6.], dtype=float32)
    >>> weights = jnp.array([1.0, 0.0, 0.0])
    >>> delta_loss(maps, 0.0 * maps, channel_attention=weights)
    Array([1.5], dtype=float32)

  References:
    Li et al., `DELTA: deep learning transfer using feature map with attention
    for convolutional networks <https://arxiv.org/abs/1901.09229>`_, 2019.
  """
  dtype = jnp.promote_types(
    compute_dtype(student_features), compute_dtype(teacher_features)
  )
  student, teacher = (
    x.astype(dtype).reshape(x.shape[0], -1, x.shape[-1])
    for x in (student_features, teacher_features)
  )
  if stop_teacher_gradient:
    teacher = jax.lax.stop_gradient(teacher)
  squares = jnp.sum(jnp.square(student - teacher), 1)
  if channel_attention is not None:
    attention = jax.lax.stop_gradient(channel_attention.astype(dtype))
    squares *= attention[None] * (student.shape[2] / student.shape[1])
  return 0.5 * jnp.sum(squares, 1)


@validate
def delta_channel_attention(
  loss_increases: Float[Array, " channels"], *, temperature: ArrayLike = 5.0
) -> Float[Array, " channels"]:
  r"""DELTA's channel attention: which channels the target task would miss.

  .. math::
    a = \operatorname{softmax}\Bigl(\frac{1}{T}
      \frac{\Delta - \operatorname{mean} \Delta}{\operatorname{std} \Delta}
      \Bigr)

  Args:
    loss_increases: `[channels]`, by how much the loss on the target's examples
      rises when the filter of a channel is set to 0, in the pretrained network
      with a head fitted to the target; averaged over batches.
    temperature: T > 0. May be traced.

  Returns:
    Attention `[channels]`, of sum 1, without gradient; uniform if all channels
    matter alike.

  Raises:
    ValueError: if a static temperature is not above 0.
    TypeError: if the increases are not floating-point.

  Examples:
    >>> print(delta_channel_attention(jnp.array([1.0, 1.0])))
    [0.5 0.5]

  References:
    Li et al., `DELTA: deep learning transfer using feature map with attention
    for convolutional networks <https://arxiv.org/abs/1901.09229>`_, 2019, and
    TLlib's fine-tuning example, whose standard deviation is over all channels.
  """
  check_positive("temperature", temperature)
  increases = jax.lax.stop_gradient(
    loss_increases.astype(compute_dtype(loss_increases))
  )
  scale = as_number("temperature", temperature, increases.dtype)
  centred = increases - jnp.mean(increases)
  deviation = jnp.sqrt(jnp.mean(jnp.square(centred)))
  alike = deviation == 0
  return jax.nn.softmax(centred / (jnp.where(alike, 1.0, deviation) * scale))


@validate
def bss_loss(
  features: Float[Array, "batch dims"],
  *,
  k: int | Array = 1,
  where: Bool[Array, " batch"] | None = None,
  axis_name: str | None = None,
) -> Float[Array, ""]:
  r"""Batch spectral shrinkage (BSS): the smallest singular values go to 0.

  .. math:: \ell = \sum_{i=1}^{k} \sigma_{-i}^2(F)

  with the k smallest of the min(batch, dims) singular values of the batch's
  features: what transfers badly lies in those directions.

  Args:
    features: `[batch, dims]`.
    k: how many singular values are shrunk. May be traced.
    where: `[batch]`, which examples count; the others are no zero rows, they
      are not there.
    axis_name: the mapped axis that holds the rest of the batch, whose rows are
      gathered.

  Returns:
    A scalar; 0 with gradient 0 if nothing counts. Published weight: 0.001,
    with k = 1 and batches of 48.

  Raises:
    ValueError: if a static k is below 1 or above min(batch, dims).
    TypeError: if the features are not floating-point, or k is no integer.

  The singular vectors come from the smaller Gram matrix and get no gradient,
  which changes no first derivative; equal singular values, where that of an
  SVD is infinite, are no exception. Second derivatives are not those of BSS.

  Examples:
    >>> print(f"{bss_loss(jnp.diag(jnp.array([3.0, 2.0, 1.0])), k=2):.4f}")
    5.0000

  References:
    Chen et al., `Catastrophic forgetting meets negative transfer: batch
    spectral shrinkage for safe transfer learning
    <https://proceedings.neurips.cc/paper/2019/hash/c6bff625bdb0393992c9d4db0c6bbe45-Abstract.html>`_,
    2019.
  """
  rows, mask = whole_rows(features, where, axis_name)
  size = min(rows.shape)
  if not isinstance(k, jax.Array):
    check_integer("bss_loss: k", k, 1)
    if k > size:
      raise ValueError(
        f"bss_loss: k is {k}; expected at most min(batch, dims) = {size}."
      )
  x = rows.T if rows.shape[0] < rows.shape[1] else rows
  fixed = jax.lax.stop_gradient(x)
  gram = jnp.matmul(fixed.T, fixed, precision="highest")
  _, vectors = jnp.linalg.eigh(gram)
  # In ascending order; masked rows have brought zeros, which come first.
  count = jnp.minimum(jnp.sum(mask), rows.shape[1])
  place = jnp.arange(size) - (size - count)
  chosen = (place >= 0) & (place < k)
  images = jnp.matmul(x, vectors, precision="highest")
  values = jnp.where(chosen, jnp.sum(jnp.square(images), 0), 0.0)
  return agreed(jnp.sum(values), axis_name)
