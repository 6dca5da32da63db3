"""The layers of the teacher that a student learns from, or copies."""

import types
from collections.abc import Mapping

from kdjax import ops

KINDS = ("uniform", "last", "skip", "copy", "supervise")

# Number of the teacher's layers -> of the student's -> layers, from 0 on, as
# in the tables of "shrink and fine-tune".
_COPY = {
  6: {1: (0,), 2: (0, 5), 3: (0, 2, 5), 4: (0, 1, 3, 5)},
  12: {
    1: (0,),
    2: (0, 6),
    3: (0, 6, 11),
    4: (0, 4, 8, 11),
    6: (0, 2, 4, 7, 9, 11),
    9: (0, 1, 2, 4, 5, 7, 9, 10, 11),
  },
  16: {
    1: (0,),
    2: (0, 15),
    3: (0, 8, 15),
    4: (0, 5, 10, 15),
    6: (0, 3, 6, 9, 12, 15),
    8: (0, 2, 4, 6, 8, 10, 12, 15),
    9: (0, 1, 3, 5, 7, 9, 11, 13, 15),
    12: (0, 1, 2, 3, 4, 5, 6, 7, 9, 11, 13, 15),
  },
}
_SUPERVISE = {
  6: {1: (5,), 2: (3, 5), 3: (1, 4, 5), 4: (1, 2, 4, 5)},
  12: {1: (11,), 2: (5, 11), 3: (3, 7, 11), 6: (1, 3, 5, 8, 10, 11)},
  16: {1: (15,), 4: (4, 9, 12, 15), 8: (1, 3, 5, 7, 9, 11, 13, 15)},
}
TABLES: Mapping[str, Mapping[int, Mapping[int, tuple[int, ...]]]] = (
  types.MappingProxyType({"copy": _COPY, "supervise": _SUPERVISE})
)


def layer_map(
  student_layers: int, teacher_layers: int, kind: str = "uniform"
) -> tuple[int, ...]:
  """Layer map: the teacher's layer of each layer of the student.

  ============= ============================================================
  `uniform`   every k-th layer, ending with the last one (TinyBERT,
                TextBrewer); k = teacher_layers / student_layers
  `last`      the last layers (PKD-Last)
  `skip`      every k-th layer, ending with the last one but one, and the
                last one of the student is not compared (PKD-Skip): one layer
                less than the student has
  `copy`      the published table of the layers that a student starts with
                ("shrink and fine-tune", DistilBERT's 0, 2, 4, 7, 9, 11)
  `supervise` the published table of the layers that a student compares
  ============= ============================================================

  Args:
    student_layers: the number of the student's layers, without the embedding.
    teacher_layers: the number of the teacher's layers.
    kind: one of the above. Where a table has no row, `copy` spaces the layers
      evenly from the first to the last one, and `supervise` is `uniform`.

  Returns:
    Numbers of the teacher's layers, from 0 on, for the student's layers 0, 1
    and so on. In a list of hidden states whose first entry is the embedding,
    both numbers are one larger.

  Raises:
    ValueError: if the student has more layers than the teacher, the kind is
      unknown, or the layers are spaced as in `uniform` or `skip` and the number
      of the teacher's layers is not a multiple of the student's.

  Examples:
    >>> layer_map(4, 12)
    (2, 5, 8, 11)
    >>> layer_map(6, 12, "skip")
    (1, 3, 5, 7, 9)
    >>> layer_map(6, 12, "copy")
    (0, 2, 4, 7, 9, 11)

  References:
    Jiao et al., `TinyBERT <https://arxiv.org/abs/1909.10351>`_, 2020; Sun et
    al., `Patient knowledge distillation <https://arxiv.org/abs/1908.09355>`_,
    2019; Shleifer and Rush, `Pre-trained summarization distillation
    <https://arxiv.org/abs/2010.13002>`_, 2020.
  """
  ops.check_integer("student_layers", student_layers, 1)
  ops.check_integer("teacher_layers", teacher_layers, 1)
  ops.check_choice("kind", kind, KINDS)
  if student_layers > teacher_layers:
    raise ValueError(
      f"layer_map: the student has {student_layers} layers and the teacher "
      f"{teacher_layers}; expected at most as many."
    )
  if kind == "last":
    return tuple(range(teacher_layers - student_layers, teacher_layers))
  if kind in TABLES:
    if student_layers == teacher_layers:
      return tuple(range(teacher_layers))
    row = TABLES[kind].get(teacher_layers, {}).get(student_layers)
    if row is not None:
      return row
    if kind == "copy":
      last = max(student_layers - 1, 1)
      return tuple(
        round(i * (teacher_layers - 1) / last) for i in range(student_layers)
      )
  stride, rest = divmod(teacher_layers, student_layers)
  if rest:
    raise ValueError(
      f"layer_map: the teacher has {teacher_layers} layers; expected a "
      f"multiple of the student's {student_layers} for kind {kind!r}."
    )
  uniform = tuple(stride * (i + 1) - 1 for i in range(student_layers))
  return uniform[:-1] if kind == "skip" else uniform
