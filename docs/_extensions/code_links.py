"""Makes a link of every literal that names something public.

Docstrings and guides write `kd_loss` or `adaptation.dann_loss` in backticks,
which reads well in `help()` too. A name alone is looked for in the page's own
area, then in all areas; a name of two areas, and every other literal, stays.
"""

from docutils import nodes


def public_names(env):
  """From each way to write a public name to its full names."""
  found = {}
  for full in env.get_domain("py").objects:
    parts = full.split(".")
    for start in range(len(parts)):
      found.setdefault(".".join(parts[start:]), set()).add(full)
  return found


def target(names, docname, text):
  """The full name that a literal of a page means, or None."""
  area = docname.replace("api/", "kdjax.")
  own = f"{area}.{text}"
  if own in names.get(text, ()):
    return own
  candidates = names.get(text, ())
  return next(iter(candidates)) if len(candidates) == 1 else None


def enclosing(node):
  """The nodes around a node, from the inside out."""
  while node.parent is not None:
    node = node.parent
    yield node


def link(app, doctree, docname):
  """Replaces literals by links."""
  objects = app.env.get_domain("py").objects
  names = public_names(app.env)
  for literal in list(doctree.findall(nodes.literal)):
    around = list(enclosing(literal))
    if any(isinstance(x, nodes.reference | nodes.title) for x in around):
      continue
    full = target(names, docname, literal.astext().removesuffix("()"))
    if full is None or full in described(around):
      continue
    page = objects[full].docname
    uri = "" if page == docname else app.builder.get_relative_uri(docname, page)
    reference = nodes.reference(
      internal=True, refuri=f"{uri}#{objects[full].node_id}", reftitle=full
    )
    literal.replace_self(reference)
    reference += literal


def described(around):
  """The names whose description a node stands in."""
  return {
    name
    for node in around
    if node.tagname == "desc"
    for name in node[0].get("ids", [])
  }


def setup(app):
  """Registers the extension."""
  app.connect("doctree-resolved", link)
  return {"parallel_read_safe": True, "parallel_write_safe": True}
