"""Figures in one house style and one palette; each function saves one PNG."""

import contextlib
import pathlib
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments.frame import statistics

# Okabe and Ito's palette: told apart by color-blind readers too. A thing has
# the same color in every figure.
BLUE, SKY, GREEN, ORANGE = "#0072b2", "#56b4e9", "#009e73", "#e69f00"
PINK, RED, BROWN, VIOLET = "#cc79a7", "#d55e00", "#a6761d", "#8c6bb1"
INK, DARK, GREY, FAINT = "#262626", "#3d3d3d", "#8c8c8c", "#d9d9d9"
SERIES = (RED, BLUE, GREEN, PINK, ORANGE, SKY, VIOLET, DARK)
VERDICTS = {"helped": BLUE, "hurt": RED}
VERDICTS |= dict.fromkeys(("unclear", "unknown", "diverged"), GREY)
BLUES = LinearSegmentedColormap.from_list(
  "blues", ("#f4f8fb", "#9cc9e3", BLUE, "#003f66")
)
GAINS = LinearSegmentedColormap.from_list("gains", (RED, "#f7f7f7", BLUE))
STYLE = {
  "axes.axisbelow": True,
  "axes.edgecolor": GREY,
  "axes.grid": True,
  "axes.labelcolor": INK,
  "axes.spines.right": False,
  "axes.spines.top": False,
  "axes.titlelocation": "left",
  "axes.titlesize": 10.5,
  "axes.titleweight": "bold",
  "figure.titlesize": 11.5,
  "figure.titleweight": "bold",
  "font.size": 10.0,
  "grid.color": "#e6e6e6",
  "legend.frameon": False,
  "lines.linewidth": 2.0,
  "text.color": INK,
  "xtick.color": "#595959",
  "ytick.color": "#595959",
}
TITLE_CHARACTERS = 10.0  # of a title in an inch, at least
LEGEND_CHARACTERS = 13.0  # the same of a legend

Path = pathlib.Path


def percent(share: float, _: Any = None) -> str:
  """A tick of an axis of shares, without a digit too many or too few."""
  return f"{round(100 * share, 6) + 0.0:g}%"


@contextlib.contextmanager
def figure(
  path: Path,
  *,
  title: str,
  rows: int = 1,
  columns: int = 1,
  width: float,
  height: float,
) -> Iterator[Any]:
  """Axes in the house style, one or `[rows * columns]`, saved on leaving."""
  room = max(20, int(TITLE_CHARACTERS * width))
  lines = textwrap.wrap(title, room, break_on_hyphens=False)
  height += 0.2 * (len(lines) - 1)
  with matplotlib.rc_context(STYLE):
    canvas = Figure(figsize=(width, height), layout="constrained")
    canvas.suptitle("\n".join(lines), x=0.015, ha="left")
    grid = canvas.subplots(rows, columns)
    yield grid.ravel() if rows * columns > 1 else grid
    canvas.savefig(path, dpi=160)


def legend(axes: Any, handles: Sequence[Any] = ()) -> None:
  """A legend below all axes, of as many columns as the figure has room for.

  Without handles it has those that the first axes has drawn.
  """
  first = np.ravel(axes)[0]
  handles, canvas = (
    handles or first.get_legend_handles_labels()[0],
    first.figure,
  )
  widths = [len(str(handle.get_label())) + 6 for handle in handles]
  room = LEGEND_CHARACTERS * canvas.get_figwidth()
  columns = len(handles)
  # The legend is filled column by column, each as wide as its longest label.
  while columns > 1:
    parts = np.array_split(widths, columns)
    if sum(int(part.max()) for part in parts) <= room:
      break
    columns -= 1
  canvas.legend(
    handles=list(handles),
    loc="outside lower center",
    ncols=columns,
    fontsize=9,
    columnspacing=1.2,
    handletextpad=0.5,
  )


def mark(label: str, colour: str, marker: str = "s", **style: Any) -> Line2D:
  """A marker of a legend."""
  return Line2D(
    [], [], ls="", marker=marker, color=colour, label=label, **style
  )


def line(label: str, colour: str, style: str, width: float = 1.2) -> Line2D:
  """A line of a legend."""
  return Line2D([], [], ls=style, lw=width, color=colour, label=label)


def name_rows(axes: Any, names: Sequence[str], **style: Any) -> None:
  """Names the rows of an axes, the first on top."""
  axes.set_yticks(range(len(names)), names, **style)
  axes.set_ylim(len(names) - 0.4, -0.6)
  axes.grid(visible=False, axis="y")
  axes.tick_params(axis="y", length=0)


def blank(axes: Any) -> None:
  """Removes the grid, the frame and the ticks of an axes."""
  axes.grid(visible=False)
  axes.spines[:].set_visible(False)
  axes.tick_params(length=0)


def band(
  axes: Any,
  x: np.ndarray,
  values: np.ndarray,
  label: str,
  colour: str,
  **style: Any,
) -> None:
  """The mean of `[points, seeds]` in a band of one standard deviation."""
  mean, deviation = values.mean(1), values.std(1)
  ends = mean - deviation, mean + deviation
  axes.fill_between(x, *ends, color=colour, alpha=0.18, lw=0)
  axes.plot(x, mean, color=colour, label=label, **style)


def accuracy_bars(
  path: Path,
  rates: Mapping[str, np.ndarray],
  *,
  groups: Mapping[str, str],
  colours: Mapping[str, str],
  oracles: Mapping[str, np.ndarray],
  oracle_label: str,
  reference: str,
  title: str,
  of: str = "target test images",
) -> None:
  """Accuracies `[seeds]` as bars with 95 % intervals, each seed as a dot.

  The first name is on top; a group has a color, the reference a line, and an
  oracle a diamond.
  """
  height = 1.9 + (0.45 if len(rates) < 12 else 0.28) * len(rates)
  with figure(path, title=title, width=7.2, height=height) as axes:
    for i, (name, values) in enumerate(rates.items()):
      mean, colour = values.mean(), colours[groups[name]]
      axes.barh(i, mean, 0.64, color=colour, alpha=0.85, lw=0)
      axes.plot(values, np.full(len(values), i), ".", color=INK, alpha=0.35)
      if ends := statistics.interval(values):
        # No accuracy is outside of [0, 1].
        axes.plot(np.clip(ends, 0, 1), (i, i), color=INK, lw=1.5, marker="|")
      if name in oracles:
        place = oracles[name].mean()
        axes.plot(place, i, "D", mfc="white", mec=INK, ms=5.5, zorder=4)
      # Beside the axes, where nothing else is drawn.
      place = {"va": "center", "transform": axes.get_yaxis_transform()}
      axes.text(1.01, i, f"{mean:.1%}", fontsize=9, **place)
    axes.axvline(rates[reference].mean(), color=DARK, ls="--", lw=1.2)
    name_rows(axes, list(rates))
    lowest = min(values.min() for values in rates.values())
    left = max(0.0, np.floor(10 * lowest - 0.5) / 10)
    axes.set(xlabel=f"accuracy on {of}", xlim=(left, 1))
    axes.xaxis.set_major_formatter(percent)
    used = [group for group in colours if group in groups.values()]
    handles = [mark(group, colours[group]) for group in used]
    handles.append(line(reference, DARK, "--"))
    if oracles:
      handles.append(mark(oracle_label, INK, "D", mfc="white"))
    legend(axes, handles)


def embedding_maps(
  path: Path,
  panels: Mapping[str, Sequence[tuple[np.ndarray, np.ndarray]]],
  *,
  markers: Mapping[str, Any],
  title: str,
) -> None:
  """Points on a plane, a panel for each network, coloured by class.

  A panel has the points `[n, 2]` and the classes `[n]` of each domain, and
  `markers` the style of each domain, by name if there are several.
  """
  columns = min(3, len(panels))
  rows = -(-len(panels) // columns)
  size = {"width": 3.1 * columns, "height": 1.1 + 3.0 * rows}
  palette = np.array(matplotlib.color_sequences["tab10"])
  labels = [y for domains in panels.values() for _, y in domains]
  classes = np.unique(np.concatenate(labels)).tolist()
  with figure(path, title=title, rows=rows, columns=columns, **size) as grid:
    every = np.ravel(grid)
    for axes in every:
      axes.set(xticks=[], yticks=[])
      blank(axes)
    for axes, (name, domains) in zip(every, panels.items(), strict=False):
      axes.set_title(name)
      styles = markers.values()
      for (points, labels), style in zip(domains, styles, strict=True):
        axes.scatter(*points.T, c=palette[labels % len(palette)], **style)
    marks = []
    if len(markers) > 1:
      looks = zip(markers.items(), (GREY, INK), strict=False)
      marks = [mark(k, c, x.get("marker", "o")) for (k, x), c in looks]
    if len(classes) <= len(palette):
      marks += [mark(str(k), palette[k], "o") for k in classes]
    if marks:
      legend(grid, marks)


def heat_map(
  axes: Any,
  values: np.ndarray,
  *,
  rows: Sequence[str],
  columns: Sequence[str],
  texts: Iterable[str],
  bold: np.ndarray | None = None,
  **style: Any,
) -> None:
  """A map of values `[rows, columns]` with a text in each cell."""
  image = axes.imshow(values, aspect="auto", **style)
  for (i, j), text in zip(np.ndindex(values.shape), texts, strict=True):
    red, green, blue, _ = image.cmap(image.norm(values[i, j]))
    dark = 0.3 * red + 0.6 * green + 0.1 * blue < 0.5
    colour = "white" if dark else INK
    weight = "bold" if bold is not None and bold[i, j] else "normal"
    place = {"ha": "center", "va": "center"}
    axes.text(j, i, text, color=colour, weight=weight, **place)
  axes.set_xticks(range(len(columns)), columns)
  axes.set_yticks(range(len(rows)), rows)
  blank(axes)
