"""Layer maps: published pairs, and what has no row."""

import pytest

from kdjax.language import layer_map


@pytest.mark.parametrize(
  ("arguments", "expected"),
  [
    ((4, 12), (2, 5, 8, 11)),  # TinyBERT-4
    ((6, 12), (1, 3, 5, 7, 9, 11)),
    ((3, 12), (3, 7, 11)),
    ((6, 12, "last"), (6, 7, 8, 9, 10, 11)),
    ((6, 12, "skip"), (1, 3, 5, 7, 9)),  # PKD-Skip: 2, 4, 6, 8, 10
    ((6, 12, "copy"), (0, 2, 4, 7, 9, 11)),  # DistilBERT
    ((3, 6, "copy"), (0, 2, 5)),
    ((12, 12, "copy"), tuple(range(12))),
    ((1, 24, "copy"), (0,)),
    ((4, 10, "copy"), (0, 3, 6, 9)),
    ((6, 12, "supervise"), (1, 3, 5, 8, 10, 11)),
    ((5, 10, "supervise"), (1, 3, 5, 7, 9)),
  ],
)
def test_published_maps(arguments, expected):
  assert layer_map(*arguments) == expected


def test_what_does_not_divide_is_refused():
  for arguments, text in (
    ((13, 12), "at most as many"),
    ((5, 12), "multiple of the student's 5"),
    ((3, 12, "first"), "kind is 'first'"),
  ):
    with pytest.raises(ValueError, match=text):
      layer_map(*arguments)
