"""Google docstrings with Markdown's backticks, as reStructuredText.

Docstrings are written to be read in `help()`: `code` stands in single
backticks, and text around it may hold stars and bars. Formulas, examples and
links are reStructuredText already.
"""

import re

INLINE = re.compile(
  r"(?P<link>`[^`]+<[^<>`]+>`_)(?!_)"
  r"|(?P<done>``.+?``|:[\w:]+:`[^`]+`|`[^`]+`__?)"
  r"|`(?P<code>[^`]+)`"
  r"|(?P<mark>[*|])",
  re.DOTALL,
)
# Blocks that are not text: what follows `.. math::` or `::`, and examples.
BLOCK = re.compile(r"(.. \w+::.*|.*::)$")


def inline(text):
  """Paragraphs, with literals, links and stars put as Sphinx wants them."""

  def replace(match):
    if match["link"]:
      return match["link"] + "_"  # two links of a page may have one name
    if match["code"]:
      after = match.string[match.end() : match.end() + 1]
      gap = "\\ " if after.isalnum() else ""  # the plural of `Model`s
      return f"``{' '.join(match['code'].split())}``{gap}"
    if match["mark"]:
      return "\\" + match["mark"]
    return match[0]

  return INLINE.sub(replace, text)


def indentation(line):
  """How far a line is indented."""
  return len(line) - len(line.lstrip())


def convert(lines):
  """The lines of a docstring as reStructuredText and Google sections."""
  converted, paragraph = [], []
  position = 0

  def flush():
    converted.extend(inline("\n".join(paragraph)).split("\n"))
    paragraph.clear()

  while position < len(lines):
    line = lines[position]
    if line.lstrip().startswith(">>>"):
      end = position
      while end < len(lines) and lines[end].strip():
        end += 1
    elif BLOCK.match(line.strip()):
      end = position + 1
      while end < len(lines) and (
        not lines[end].strip() or indentation(lines[end]) > indentation(line)
      ):
        end += 1
    else:
      paragraph.append(line)
      position += 1
      continue
    flush()
    converted += lines[position:end]
    position = end
  flush()
  return list(returns(converted))


def returns(lines):
  """Makes `Returns:` a field: no word of its text is taken for a type."""
  inside = False
  for line in lines:
    if line in {"Returns:", "Yields:"}:
      inside, start = True, f":{line[:-1].lower()}: "
      continue
    if inside and line.strip() and not indentation(line):
      inside = False
    if inside and start and line.strip():
      line, start = start + line.strip(), ""
    yield line


def process(app, what, name, value, options, lines):
  """Converts a docstring in place, before Napoleon reads it."""
  del app, what, name, value, options
  lines[:] = convert(lines)


def setup(app):
  """Registers the extension."""
  app.connect("autodoc-process-docstring", process, priority=400)
  return {"parallel_read_safe": True, "parallel_write_safe": True}
