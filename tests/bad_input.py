"""Bad input: mutations of valid calls, and how the functions answer.

Each public function is called as its docstring shows, with one argument
changed: another type, another rank, no examples. An answer is clear if the
error is of kdjax and names the argument, obscure if it is any other error, and
accepted if there is no error, or one of a function that the example passes. To
count them:

  python -m tests.bad_input
"""

import argparse
import collections
import dataclasses
import sys
import traceback
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from tests import documented

CLEAR, OBSCURE, ACCEPTED = "clear", "obscure", "accepted"


@dataclasses.dataclass(frozen=True)
class Answer:
  """What a function did with a mutated argument."""

  name: str
  argument: str
  mutation: str
  verdict: str
  message: str = ""

  def __str__(self):
    where = f"{self.name}({self.argument}={self.mutation})"
    return f"{self.verdict}: {where}: {self.message}"


def mutations(value: Any) -> dict[str, Any]:
  """Other values for an argument, by name of the change."""
  wrong = {"string": "linear", "None": None, "object": object()}
  if documented.is_array(value):
    value = np.asarray(value)
    return wrong | {
      "list": value.tolist(),
      "scalar": value.dtype.type(0),
      "number": 1.5,
      "one axis more": value[..., None],
      "no examples": value[:0] if value.ndim else "",
      "no columns": value[..., :0] if value.ndim else "",
      "longer": np.concatenate([value, value]) if value.ndim else "",
      "wider": np.repeat(value, 2, -1) if value.ndim else "",
      "complex": value.astype(complex),
      "other kind": value.astype(
        int if np.issubdtype(value.dtype, np.floating) else float
      ),
    }
  if isinstance(value, bool):
    return {}
  if isinstance(value, int | float):
    return wrong | {
      "negative": -value - 1,
      "NaN": float("nan"),
      "infinity": float("inf"),
      "list": [value, value],
      "array": np.full((7, 5), value),
    }
  if isinstance(value, str):
    return {"other string": "no such choice", "number": 3, "None": None}
  if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
    return wrong | {"empty": value[:0], "number": 3, "shorter": value[:1]}
  return {"string": "linear", "None": None, "number": 3, "empty tuple": ()}


def answers(
  call: documented.Call, changes: Sequence[str] | None = None
) -> list[Answer]:
  """What the function does with mutations of its example; None: with all."""
  name = f"{call.area}.{call.name}"
  found = []
  for argument, parameter in call.parameters.items():
    value = call.arguments.get(argument, parameter.default)
    if value is parameter.empty or value is None or callable(value):
      continue
    if parameter.kind is parameter.VAR_KEYWORD:
      continue
    for label, wrong in mutations(value).items():
      if changes is not None and label not in changes:
        continue
      if wrong is None and parameter.default is None:
        continue
      verdict, message = ACCEPTED, ""
      try:
        jax.block_until_ready(call(**{argument: wrong}))
      except Exception as error:
        verdict, message = _judge(error, argument)
      found.append(Answer(name, argument, label, verdict, message))
  return found


def _judge(error: Exception, argument: str) -> tuple[str, str]:
  """Clear are errors that kdjax raises, with an argument and an expectation."""
  frames = traceback.extract_tb(error.__traceback__)
  names = [frame.filename for frame in frames]
  if any(name.startswith("<") for name in names):
    return ACCEPTED, ""
  ours = "/kdjax/" in frames[-1].filename.replace("\\", "/")
  text = " ".join(str(error).split())
  message = f"{type(error).__name__}: {text}"[:160]
  said = "expected" in text or "needs" in text
  good = ours and isinstance(error, TypeError | ValueError) and said
  return (CLEAR if good else OBSCURE), message


def table(results: list[Answer]) -> list[str]:
  """Rows of counts, an area each."""
  lines = [
    "| area | tried | clear | obscure | accepted |",
    "|---|--:|--:|--:|--:|",
  ]
  areas = sorted({x.name.split(".")[0] for x in results})
  for area in [*areas, "all"]:
    chosen = [x for x in results if area in ("all", x.name.split(".")[0])]
    counts = collections.Counter(x.verdict for x in chosen)
    lines.append(
      f"| {area} | {len(chosen)} | {counts[CLEAR]} | {counts[OBSCURE]} | "
      f"{counts[ACCEPTED]} |"
    )
  return lines


def main(argv: Sequence[str] | None = None) -> int:
  """Prints the obscure answers and the table; returns their number."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("names", nargs="*", help="parts of names of functions")
  parser.add_argument("--changes", nargs="+", help="only these changes")
  flags = parser.parse_args(argv)
  results = []
  for name, call in documented.recorded().items():
    if flags.names and not any(x in name for x in flags.names):
      continue
    results += answers(call, flags.changes)
    jax.clear_caches()
  obscure = [answer for answer in results if answer.verdict == OBSCURE]
  print("\n".join([*map(str, obscure), *table(results)]))
  return len(obscure)


if __name__ == "__main__":
  sys.exit(min(main(), 1))
