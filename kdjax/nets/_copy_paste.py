"""A student built from layers and slices of a teacher."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from kdjax import ops
from kdjax.nets.text._attention import Attention

S = TypeVar("S")
# The layers of attention, and the axis that runs over the heads.
_OVER_HEADS = (
  (re.compile(r"\.(query|key|value)\.(kernel|bias)$"), -1),
  (re.compile(r"\.(output)\.kernel$"), -2),
)
_STACK = re.compile(r"^(?P<stack>blocks|layers|h)\.(?P<index>\d+)\.")


def copy_paste(
  teacher: Any,
  student: S,
  *,
  layers: Sequence[int] | Mapping[str, str] | None = None,
  widths: str | Mapping[int, Sequence[int]] | None = None,
) -> S:
  """Copies chosen layers, and slices of their widths, into a student.

  No method or toolkit of the name CopyPaste is known to the authors of this
  library; the function is the initialization of "shrink and fine-tune", of
  DistilBERT and of TinyCLIP, for the parameters of any network. A parameter of
  the student is copied from the teacher's parameter of the same path, in which
  the number of the block is replaced by `layers`.

  Args:
    teacher: an NNX module, or a pytree of parameters.
    student: an NNX module, which is changed, or a pytree of parameters.
    layers: for each block of the student the number of the teacher's block,
      such as `kdjax.language.layer_map(3, 6, "copy")`; or a mapping from
      beginnings of the student's paths to the teacher's, `{"blocks.0":
      "blocks.3"}`; None for the same numbers.
    widths: which units of a longer axis of the teacher are copied: "first",
      "even" for evenly spaced ones, or a mapping from the length of the
      teacher's axis to the numbers of its units. None expects equal shapes.
      "first" and "even" take whole heads of the attention of a `TextEncoder`
      or a `Decoder`, queries with the keys that they share. Head widths should
      stay the same: of a wider head, "first" or "even" units are taken, and a
      head that is wider than the teacher's gets units of several heads. A
      pytree of parameters tells nothing about heads: there "even" mixes them,
      and "first" takes whole ones if their width stays the same.

  Returns:
    The student, with the teacher's values. Parameters that only the student has
    keep their values.

  Raises:
    ValueError: if no path of the student is one of the teacher, a layer does
      not exist, or a shape does not fit.

  Examples:
    >>> teacher = {"blocks": [{"w": jnp.array([1.0])}, {"w": jnp.array([2.0])}]}
    >>> student = {"blocks": [{"w": jnp.array([0.0])}]}
    >>> copy_paste(teacher, student, layers=[1])
    {'blocks': [{'w': Array([2.], dtype=float32)}]}

  References:
    Shleifer and Rush, `Pre-trained summarization distillation
    <https://arxiv.org/abs/2010.13002>`_, 2020; Sanh et al., `DistilBERT
    <https://arxiv.org/abs/1910.01108>`_, 2019; Wu et al., `TinyCLIP
    <https://arxiv.org/abs/2309.12314>`_, 2023.
  """
  if isinstance(widths, str):
    ops.check_choice("widths", widths, ("first", "even"))
  source, target = dict(parameters_of(teacher)), dict(parameters_of(student))
  theirs, mine = _attentions(teacher), _attentions(student)
  values = {}
  for path, variable in target.items():
    origin = _origin(path, layers)
    if origin not in source:
      if origin != path:
        raise ValueError(
          f"copy_paste: the teacher has no {origin}, for the student's {path}; "
          f"layers is {layers!r}."
        )
      continue
    heads, pair = {}, (theirs.get(_module(origin)), mine.get(_module(path)))
    if isinstance(widths, str) and pair[0] and pair[1]:
      heads = _units_of_heads(path, pair[0], pair[1], widths)
    values[path] = _slice(
      path, source[origin], variable.shape, widths, heads
    ).astype(jax.dtypes.canonicalize_dtype(variable.dtype))
  if not values:
    raise ValueError(
      f"copy_paste: no path of the student ({_some(target)}) is one of the "
      f"teacher ({_some(source)})."
    )
  if isinstance(student, nnx.Module):
    for path, value in values.items():
      target[path].set_value(value)
    return student
  leaves, structure = jax.tree_util.tree_flatten_with_path(student)
  return jax.tree.unflatten(
    structure, [values.get(_name(path), leaf) for path, leaf in leaves]
  )


def parameters_of(tree: Any) -> Iterator[tuple[str, Any]]:
  """Yields paths and arrays, or variables of a module."""
  if isinstance(tree, nnx.Module):
    state = nnx.state(tree, nnx.Any(nnx.Param, nnx.BatchStat))
    for path, _ in nnx.to_flat_state(state):
      variable: Any = tree
      for step in path:
        variable = (
          variable[step]
          if isinstance(step, int)
          else getattr(variable, str(step))
        )
      yield ".".join(map(str, path)), variable
    return
  for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
    yield _name(path), leaf


def _name(path: Sequence[Any]) -> str:
  return ".".join(
    str(getattr(x, "key", getattr(x, "idx", getattr(x, "name", x))))
    for x in path
  )


def _origin(path: str, layers: Sequence[int] | Mapping[str, str] | None) -> str:
  """Returns the teacher's path of a path of the student."""
  if layers is None:
    return path
  if isinstance(layers, Mapping):
    fits = [x for x in layers if path == x or path.startswith(f"{x}.")]
    if not fits:
      return path
    start = max(fits, key=len)
    return layers[start] + path[len(start) :]
  match = _STACK.match(path)
  if match is None:
    return path
  index = int(match["index"])
  if index >= len(layers):
    raise ValueError(
      f"copy_paste: the student has {path}; layers has {len(layers)} entries, "
      "expected one for each block of the student."
    )
  return f"{match['stack']}.{layers[index]}.{path[match.end() :]}"


def _slice(
  path: str,
  value: Any,
  shape: tuple[int, ...],
  widths: str | Mapping[int, Sequence[int]] | None,
  heads: Mapping[int, np.ndarray],
) -> jax.Array:
  """Returns the units of each axis that the student has.

  `heads` holds those of the axis over heads, which is counted from the last.
  """
  array = jnp.asarray(value[...])
  fits = array.ndim == len(shape) and all(
    a == b or (widths is not None and a > b)
    for a, b in zip(array.shape, shape, strict=True)
  )
  if not fits:
    hint = "" if widths is not None else "; widths= cuts longer axes"
    raise ValueError(
      f"copy_paste: {path} has shape {tuple(shape)} and the teacher's "
      f"{array.shape}; expected equal shapes{hint}."
    )
  for axis, (longer, shorter) in enumerate(
    zip(array.shape, shape, strict=True)
  ):
    if axis - array.ndim in heads:
      units = heads[axis - array.ndim]
    elif longer == shorter:
      continue
    elif isinstance(widths, str):
      units = _chosen(longer, shorter, widths)
    else:
      assert isinstance(widths, Mapping)
      if longer not in widths or len(widths[longer]) != shorter:
        raise ValueError(
          f"copy_paste: {path} has an axis of {shorter} and the teacher's of "
          f"{longer}; expected widths[{longer}] with {shorter} numbers."
        )
      units = np.asarray(widths[longer])
    array = jnp.take(array, units, axis)
  return array


def _attentions(tree: Any) -> dict[str, Attention]:
  """Returns the attention layers of a network of text by their paths."""
  if not isinstance(tree, nnx.Module):
    return {}
  return {
    ".".join(map(str, path)): node
    for path, node in nnx.iter_graph(tree)
    if isinstance(node, Attention)
  }


def _module(path: str) -> str:
  """Returns the path of the module of a layer's parameter."""
  return path.rpartition(".")[0].rpartition(".")[0]


def _units_of_heads(
  path: str, source: Attention, target: Attention, widths: str
) -> dict[int, np.ndarray]:
  """Returns the units of the axis that runs over heads, if there is one."""
  found = [(axis, m[1]) for x, axis in _OVER_HEADS if (m := x.search(path))]
  sizes = [(x.num_heads, x.key_heads, x.head_width) for x in (source, target)]
  cuts = all(a >= b for a, b in zip(*sizes, strict=True))
  if not found or not cuts or sizes[0] == sizes[1]:
    return {}
  (axis, layer), *_ = found
  heads = _chosen(source.key_heads, target.key_heads, widths)
  if layer in ("query", "output"):
    # The queries of the chosen keys.
    theirs, mine = (x.num_heads // x.key_heads for x in (source, target))
    if mine <= theirs:
      heads = heads[:, None] * theirs + _chosen(theirs, mine, widths)
    else:
      heads = _chosen(source.num_heads, target.num_heads, widths)
  inside = _chosen(source.head_width, target.head_width, widths)
  return {axis: (heads.reshape(-1, 1) * source.head_width + inside).ravel()}


def _chosen(longer: int, shorter: int, widths: str) -> np.ndarray:
  """Returns the numbers of the first, or of evenly spaced, units."""
  units = np.arange(shorter)
  return units if widths == "first" else units * longer // shorter


def _some(paths: Mapping[str, Any]) -> str:
  return ", ".join(list(paths)[:3])
