"""Formulas as MathML, which browsers show without a script or a network."""

import re

from docutils import nodes
from docutils.utils.math import latex2mathml
from sphinx.util import logging

LOG = logging.getLogger(__name__)
# LaTeX commands unknown to Docutils, and commands of the same meaning.
SAME = [
  (re.compile(r"\\[Bb]igg?(?![a-zA-Z])"), ""),
  (re.compile(r"\\dots\b"), r"\\ldots"),
]


def write(translator, node, *, as_block):
  """Writes a formula as MathML, and warns if its LaTeX cannot be read."""
  text = node.astext()
  for pattern, same in SAME:
    text = pattern.sub(same, text)
  try:
    formula = latex2mathml.tex2mathml(text, as_block=as_block)
  except Exception as error:  # MathError, and errors it does not cover
    LOG.warning("not a formula: %s (%s)", text, error, location=node)
    formula = translator.encode(text)
  if as_block:
    formula = f'<div class="math">{formula}</div>\n'
  translator.body.append(formula)
  raise nodes.SkipNode


def inline(translator, node):
  """Writes a formula within a line."""
  write(translator, node, as_block=False)


def display(translator, node):
  """Writes a formula on a line of its own."""
  write(translator, node, as_block=True)


def setup(app):
  """Registers the extension."""
  app.add_html_math_renderer("mathml", (inline, None), (display, None))
  app.connect("config-inited", choose)
  return {"parallel_read_safe": True, "parallel_write_safe": True}


def choose(app, config):
  """Takes this renderer for all pages."""
  del app
  config.html_math_renderer = "mathml"
