"""A student built from layers and slices of a teacher."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from kdjax.ops import check_choice

S = TypeVar("S")
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
      Head widths should stay the same: then whole heads are copied.

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
    check_choice("widths", widths, ("first", "even"))
  source, target = dict(parameters_of(teacher)), dict(parameters_of(student))
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
    values[path] = _slice(path, source[origin], variable.shape, widths).astype(
      jax.dtypes.canonicalize_dtype(variable.dtype)
    )
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
) -> jax.Array:
  """Returns the units of each axis that the student has."""
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
    if longer == shorter:
      continue
    if widths == "first":
      units = np.arange(shorter)
    elif widths == "even":
      units = np.arange(shorter) * longer // shorter
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


def _some(paths: Mapping[str, Any]) -> str:
  return ", ".join(list(paths)[:3])
