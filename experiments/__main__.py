"""Lists the experiments."""

import ast
import pathlib


def summaries() -> dict[str, str]:
  """Experiment -> the first line of its docstring."""
  files = sorted(pathlib.Path(__file__).parent.glob("*/__main__.py"))
  return {
    file.parent.name: (
      ast.get_docstring(ast.parse(file.read_text())) or ""
    ).splitlines()[0]
    for file in files
  }


if __name__ == "__main__":
  print("Experiments; --help after one of these commands lists its flags:\n")
  for name, summary in summaries().items():
    print(f"  python -m experiments.{name:<11} {summary}")
