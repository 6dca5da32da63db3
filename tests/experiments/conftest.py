"""Runs of the experiments share their compilations; all figures are checked."""

import itertools

import jax
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


@pytest.fixture(scope="module", autouse=True)
def one_compilation(tmp_path_factory):
  """Runs with the same flags compile once."""
  names = (
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
  )
  before = [getattr(jax.config, name) for name in names]
  for name, value in zip(
    names, (str(tmp_path_factory.mktemp("xla")), 0), strict=True
  ):
    jax.config.update(name, value)
  yield
  for name, value in zip(names, before, strict=True):
    jax.config.update(name, value)


def look_at(figure):
  """Refuses text outside of the canvas and headings on top of each other."""
  canvas = figure.bbox.padded(1)
  drawn = FigureCanvasAgg(figure)
  drawn.draw()  # not as it was saved, in another resolution
  renderer = drawn.get_renderer()
  texts = [x for x in figure.findobj(match=is_text) if x.get_visible()]
  undrawn = undrawn_ticks(figure)
  for text in texts:
    if not text.get_text().strip() or text in undrawn:
      continue
    box = text.get_window_extent(renderer)
    inside = canvas.x0 <= box.x0 and box.x1 <= canvas.x1
    inside = inside and canvas.y0 <= box.y0 and box.y1 <= canvas.y1
    assert inside, f"{text.get_text()!r} is outside of the canvas"
  headings = [figure._suptitle] if figure._suptitle else []
  for axes in figure.axes:
    headings += [axes._left_title, axes.title, axes.xaxis.label]
  headings += [x for part in figure.legends for x in part.get_texts()]
  headings = [x for x in headings if x.get_text() and x.get_visible()]
  for one, other in itertools.combinations(headings, 2):
    boxes = [x.get_window_extent(renderer).padded(-1) for x in (one, other)]
    message = f"{one.get_text()!r} is on top of {other.get_text()!r}"
    assert not boxes[0].overlaps(boxes[1]), message


def is_text(artist):
  return hasattr(artist, "get_text") and hasattr(artist, "get_window_extent")


def undrawn_ticks(figure):
  """The labels of ticks beyond the limits of their axis."""
  axes = [axis for x in figure.axes for axis in (x.xaxis, x.yaxis)]
  every = [tick for x in axes for tick in (*x.majorTicks, *x.minorTicks)]
  drawn = {tick for axis in axes for tick in axis._update_ticks()}
  hidden = [tick for tick in every if tick not in drawn]
  return [label for x in hidden for label in (x.label1, x.label2)]


@pytest.fixture(scope="session", autouse=True)
def figures_are_whole():
  """Every figure that a test saves shows all of its text."""
  with pytest.MonkeyPatch.context() as patch:
    save = Figure.savefig

    def checked(figure, *args, **options):
      save(figure, *args, **options)
      look_at(figure)

    patch.setattr(Figure, "savefig", checked)
    yield
