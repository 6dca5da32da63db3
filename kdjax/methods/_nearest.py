"""The nearest of some names, for errors."""

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str:
  """The nearest of the known names, for errors.

  Args:
    name: that is not known.
    known: the names.

  Returns:
    `"one of ..."`, or `"none"`.
  """
  known = list(known)
  found = difflib.get_close_matches(name, known, 3, 0.5) or known[:6]
  more = ", ..." if len(known) > len(found) else ""
  return f"one of {', '.join(found)}{more}" if found else "none"
