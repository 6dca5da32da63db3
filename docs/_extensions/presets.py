"""Writes one page an area to `docs/presets`, from `methods.PRESETS`."""

import pathlib

import reference

from kdjax import methods

TITLES = {
  "distillation": "From a teacher to a student",
  "adaptation": "From a source domain to a target domain",
  "generalization": "From several domains to a new one",
  "finetuning": "From a pretrained network to a task",
  "continual": "From the past to the present",
  "collaboration": "From peer to peer",
  "federated": "From client to client",
  "cross_modal": "From one modality to another",
  "language": "From language model to language model",
}
NETWORKS = {
  "teacher": "a teacher",
  "average": "an average of the student",
  "past": "the pretrained network",
  "source": "a student trained on the source",
}
COLUMNS = ("preset", "method", "needs", "CE", "KD", "weight", "source")


def number(value):
  """A weight as text; nothing if it is 0."""
  return f"{value:g}" if value else ""


def needs(row):
  """What a method reads besides the student and its labeled batch."""
  parts = [
    *(NETWORKS.get(name, f"the network `{name}`") for name in row.networks),
    *(f"the view `{name}`" for name in row.views),
  ]
  if row.domains:
    parts.append("batches of " + " and ".join(row.domains))
  if row.start:
    parts.append(f"initial weights of {NETWORKS.get(row.start, row.start)}")
  if row.initialization_epochs:
    parts.append(f"a first stage of {row.initialization_epochs} epochs")
  return ", ".join(parts)


def cells(name, row):
  """The cells of a preset."""
  weight = number(row.weight) if row.method else ""
  if row.warmup_epochs:
    weight += f", {row.warmup_epochs} epochs of warm-up"
  kd = f"{row.kd:g}, T = {row.temperature:g}" if row.kd else ""
  return (
    f"`{name}`",
    f"**{row.title}**: {row.summary}",
    needs(row),
    number(row.cross_entropy),
    kd,
    weight,
    row.source,
  )


def table(rows):
  """A Markdown table."""
  lines = [COLUMNS, ["---"] * len(COLUMNS), *rows]
  text = (
    " | ".join(cell.replace("|", "\\|") for cell in line) for line in lines
  )
  return "\n".join(f"| {line} |" for line in text) + "\n"


def page(area):
  """The page of an area."""
  rows = [
    cells(name, row)
    for name, row in sorted(methods.PRESETS.items())
    if row.area == area
  ]
  title = TITLES.get(area, area.replace("_", " ").capitalize())
  return f"""# {title}

Each preset of `kdjax.{area}`: `methods.preset(name)` returns the method with
these weights. CE is the weight of the cross-entropy with the labels, KD the
weight of the soft-target loss at temperature T, and "weight" the weight of the
method's own loss.

{table(rows)}"""


def generate(app):
  """Writes the pages before Sphinx looks for them."""
  areas = dict.fromkeys(row.area for row in methods.PRESETS.values())
  pages = {f"{area}.md": page(area) for area in areas}
  toctree = "\n".join(areas)
  pages["index.md"] = f"""# Presets

Every method that `methods.preset(name)` makes, with the weights that its
authors published. The pages are generated from `methods.PRESETS`.

```{{toctree}}
{toctree}
```
"""
  reference.write(pathlib.Path(app.srcdir, "presets"), pages)


def setup(app):
  """Registers the extension."""
  app.connect("builder-inited", generate)
  return {"parallel_read_safe": True, "parallel_write_safe": True}
