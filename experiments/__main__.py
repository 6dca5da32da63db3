"""Lists the experiments."""

import ast
import pathlib

FOLDER = pathlib.Path(__file__).parent


def summaries() -> dict[str, str]:
  """Experiment -> the docstring of its package."""
  packages = sorted(x.parent for x in FOLDER.glob("*/__main__.py"))
  return {
    package.name: str(
      ast.get_docstring(ast.parse((package / "__init__.py").read_text()))
    )
    for package in packages
  }


if __name__ == "__main__":
  print("Experiments; --help after one of these commands lists its flags:\n")
  for name, summary in summaries().items():
    print(f"  python -m experiments.{name:<15} {summary}")
