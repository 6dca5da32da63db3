"""Feeds: the batch of each step, as a pure function of the key and the step."""

import collections
import concurrent.futures
import functools
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from kdjax.data import ArrayExamples, BatchStream, SourceExamples, open_data
from kdjax.training.learners._learner import Learner
from kdjax.training.steps._epochs import epoch_plan, with_rows

WHOLE = ""
_THREADS = 4


class PlannedPart:
  """Examples in a planned order: a new one in each epoch, or always theirs.

  Args:
    examples: the data.
    batch_size: examples of a batch.
    key: of the order; `[students]` for an order of each student; None for that
      of the data.

  Attributes:
    examples: the data.
    steps: of an epoch.
  """

  def __init__(
    self,
    examples: ArrayExamples | SourceExamples,
    batch_size: int,
    key: Array | None,
  ):
    self.examples = examples
    self.steps = -(-len(examples) // batch_size)
    self._batch_size, self._key = batch_size, key
    self._students = key is not None and bool(key.shape)

    def order(key: Array | None, epoch: int) -> dict[str, Array]:
      own = None if key is None else jax.random.fold_in(key, epoch)
      return epoch_plan(len(examples), batch_size, key=own)

    @functools.lru_cache(maxsize=2)  # batches of the next epoch are read ahead
    def plan(epoch: int) -> dict[str, np.ndarray]:
      if not self._students:
        return jax.device_get(order(key, epoch))
      return jax.device_get(jax.vmap(lambda own: order(own, epoch))(key))

    self._plan = plan

  def of(self, examples: ArrayExamples | SourceExamples) -> "PlannedPart":
    """Other examples in an order by the same key."""
    return PlannedPart(examples, self._batch_size, self._key)

  def rows(self, step: int) -> dict[str, np.ndarray]:
    """The rows of a step's batch, `{"index", "mask"}`, of each student."""
    epoch, i = divmod(step, self.steps)
    return {k: v[..., i, :] for k, v in self._plan(epoch).items()}

  def read(self, rows: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The batch of these rows."""
    shape = rows["index"].shape
    flat = {k: v.reshape(-1) for k, v in rows.items()}
    batch = with_rows(self.examples.read(flat["index"]), flat)
    return jax.tree.map(lambda x: x.reshape(*shape, *x.shape[1:]), batch)

  def first(self) -> dict[str, Any]:
    """The first batch, of the first student."""
    rows = self.rows(0)
    return self.read(
      {k: v[0] if self._students else v for k, v in rows.items()}
    )

  def in_order(self) -> "PlannedPart":
    """The same examples in the order of the data."""
    return PlannedPart(self.examples, self._batch_size, None)


class Feed:
  """Feed: batches of one data set, or of one for each domain.

  Args:
    parts: the name of a domain -> its data; `WHOLE` alone for one set.
    stacked: whether domains are stacked along a leading axis, rather than
      named parts of a batch.

  Attributes:
    planned: whether all parts are read by a plan.
  """

  def __init__(
    self,
    parts: Mapping[str, PlannedPart | BatchStream],
    *,
    stacked: bool = False,
  ):
    self._parts = dict(parts)
    self._stacked = stacked
    self._plans = {k: v for k, v in parts.items() if isinstance(v, PlannedPart)}
    self.planned = len(self._plans) == len(parts)

  @property
  def steps(self) -> int | None:
    """The steps of an epoch, of the longest part; None if unknown."""
    lengths = [
      part.steps
      if isinstance(part, PlannedPart)
      else getattr(part, "steps", None)
      for part in self._parts.values()
    ]
    known = [x for x in lengths if x]
    return max(known) if len(known) == len(lengths) else None

  @property
  def nbytes(self) -> float:
    """The bytes of all data; infinite if they come as a stream."""
    if not self.planned:
      return float("inf")
    return float(sum(x.examples.nbytes for x in self._plans.values()))

  def load(self) -> None:
    """Reads sources into memory."""
    for part in self._plans.values():
      part.examples = part.examples.in_memory()

  def data(self) -> Any:
    """All arrays, for a scan."""
    return self._joined(
      {k: v.examples.in_memory().arrays for k, v in self._plans.items()}
    )

  def plan(self, start: int, stop: int) -> Any:
    """The rows of the steps, each array `[(students,) steps, batch]`."""
    rows = [
      self._joined({k: v.rows(step) for k, v in self._plans.items()})
      for step in range(start, stop)
    ]
    return jax.tree.map(lambda *x: np.stack(x, x[0].ndim - 1), *rows)

  def part(self, name: str) -> PlannedPart | BatchStream | None:
    """A domain's data."""
    return self._parts.get(name)

  def arrays(self) -> dict[str, dict[str, Any]] | None:
    """Domain -> its arrays; None if some come in batches."""
    if not self.planned:
      return None
    return {k: v.examples.in_memory().arrays for k, v in self._plans.items()}

  def put_arrays(self, domain: str, arrays: Mapping[str, Any]) -> None:
    """Puts other arrays in the place of a domain's."""
    examples = ArrayExamples("Method.data", jax.device_get(dict(arrays)))
    part = self._plans[domain].of(examples)
    self._plans[domain] = self._parts[domain] = part

  def join(self, batch: Any) -> Any:
    """The batch as the learner sees it: of stacked domains one array each."""
    if not self._stacked or not self._has_parts:
      return batch
    return jax.tree.map(lambda *x: jnp.stack(x), *batch.values())

  def first(self) -> Any:
    """A batch to see its shapes; none is taken."""
    return self._joined({k: v.first() for k, v in self._parts.items()})

  def batch(self, step: int) -> Any:
    """The batch of a step that was read by a plan."""
    return self._joined(
      {k: v.read(v.rows(step)) for k, v in self._plans.items()}
    )

  def batches(self, start: int, stop: int) -> Generator[Any]:
    """The batches of the steps; those of a plan are read ahead."""
    if not self.planned:
      for step in range(start, stop):
        yield self._joined(
          {
            k: v.take() if isinstance(v, BatchStream) else v.read(v.rows(step))
            for k, v in self._parts.items()
          }
        )
      return
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
      waiting = collections.deque()
      try:
        for step in range(start, stop):
          rows = {k: v.rows(step) for k, v in self._plans.items()}
          waiting.append(pool.submit(self._read, rows))
          if len(waiting) > _THREADS:
            yield waiting.popleft().result()
        while waiting:
          yield waiting.popleft().result()
      finally:
        for future in waiting:
          future.cancel()

  def one_pass(self) -> Iterator[Any]:
    """All batches of a set once, in order."""
    (part,) = self._parts.values()
    if isinstance(part, BatchStream):
      return part.one_pass()
    return self.batches(0, part.steps)

  def position(self) -> Any:
    """Where the streams are, as JSON holds it."""
    return {
      k: v.position()
      for k, v in self._parts.items()
      if isinstance(v, BatchStream)
    }

  def resume(self, position: Any, step: int) -> None:
    """Goes to where a checkpoint was."""
    for k, v in self._parts.items():
      if isinstance(v, BatchStream):
        v.resume((position or {}).get(k), step)

  def describe(self) -> dict[str, Any]:
    """The entries of an example and how many there are, as JSON holds it."""
    described: dict[str, Any] = {
      _dotted(path): f"{x.dtype}{list(x.shape[1:])}"
      for path, x in jax.tree_util.tree_leaves_with_path(self.first())
      if _dotted(path).rpartition(".")[2] not in ("index", "mask")
    }
    for name, part in self._parts.items():
      if isinstance(part, PlannedPart):
        where = f"{name}.examples" if name else "examples"
        described[where] = len(part.examples)
    return described

  @property
  def _has_parts(self) -> bool:
    return set(self._parts) != {WHOLE}

  def _read(self, rows: Any) -> Any:
    return self._joined({k: v.read(rows[k]) for k, v in self._plans.items()})

  def _joined(self, parts: dict[str, Any]) -> Any:
    return parts if self._has_parts else parts[WHOLE]


def training_feed(
  learner: Learner, data: Any, batch_size: int | None, key: Array, data_dir: Any
) -> Feed:
  """Opens the training data: of one set, or of one for each domain."""
  parts = parts_of(learner)
  passes = learner.loss_fn.passes.values()
  axes = max(row.batch_axes for row in passes if row.train)
  options = {"pair": _pair(learner), "data_dir": data_dir}
  domains = {WHOLE: data}
  if parts or axes > 1:
    domains = _domains(data, parts)
  opened = {
    name: open_data(
      in_brackets("data", name),
      own,
      parts=() if name else parts,
      batch_axes=1 if name else axes,
      **options,
    )
    for name, own in domains.items()
  }
  if (parts or axes > 1) and WHOLE in opened:
    own = opened[WHOLE]
    if not isinstance(own, BatchStream):
      wanted = ", ".join(f"{part!r}: ..." for part in parts) or "domain: data"
      raise TypeError(
        f"fit: data is of one domain; expected a mapping {{{wanted}}}, with "
        "data for each, or an iterable of batches with these parts."
      )
  feeds: dict[str, PlannedPart | BatchStream] = {}
  for i, (name, own) in enumerate(sorted(opened.items())):
    if isinstance(own, BatchStream):
      feeds[name] = own
      continue
    if batch_size is None:
      raise ValueError(
        "fit: batch_size is None; expected an integer. Only an iterable of "
        "batches has a size of its own."
      )
    feeds[name] = PlannedPart(own, batch_size, fold_in(key, i))
  # In the order of the user's mapping, which is that of stacked domains.
  feeds = {name: feeds[name] for name in opened}
  return Feed(feeds, stacked=axes > 1)


def unread_feed(
  learner: Learner, data: Any, batch_size: int | None, data_dir: Any
) -> Feed | None:
  """Opens the domains that only `Method.data` reads; None if there is none."""
  parts = parts_of(learner)
  if learner.method.data is None or not parts or not isinstance(data, Mapping):
    return None
  options = {"pair": _pair(learner), "data_dir": data_dir}
  opened = {
    name: open_data(in_brackets("data", name), own, **options)
    for name, own in data.items()
    if name not in parts
  }
  feeds = {
    name: own
    if isinstance(own, BatchStream)
    else PlannedPart(own, batch_size or 1, None)
    for name, own in opened.items()
  }
  return Feed(feeds) if feeds else None


def parts_of(learner: Learner) -> list[str]:
  """The domains whose data a learner reads; none if it is one set."""
  passes = learner.loss_fn.passes.values()
  names = [on for row in passes for on in _entries_of(row.on)]
  drawn = getattr(learner.method.prepare, "drawn", ())  # Of its own buffer.
  parts = {on.partition(".")[0] for on in names if "." in on}
  return sorted(parts.difference(drawn))


def fold_in(key: Array, number: int | Array) -> Array:
  """`jax.random.fold_in`, of one key or of `[students]`."""
  if not key.shape:
    return jax.random.fold_in(key, number)
  return jax.vmap(lambda own: jax.random.fold_in(own, number))(key)


def _domains(data: Any, parts: Sequence[str]) -> Mapping[str, Any]:
  """The data of each domain; or the whole, if it is a stream of batches."""
  if not isinstance(data, Mapping):
    return {WHOLE: data}
  if parts and not set(parts) <= set(data):
    raise ValueError(
      f"fit: data has {sorted(data)}; expected data for each of "
      f"{', '.join(parts)}."
    )
  # A method of one domain takes the data of both: it reads its own.
  data = {k: v for k, v in data.items() if not parts or k in parts}
  for name, own in data.items():
    if hasattr(own, "shape"):
      raise ValueError(
        f"fit: data[{name!r}] is an array; expected a mapping, domain -> data, "
        "such as {'photo': {'image': x, 'label': y}, ...}."
      )
  return data


def validation_feeds(
  learner: Learner, validation: Any, batch_size: int, data_dir: Any
) -> dict[str, Feed]:
  """Opens validation data: one set, or several by their names."""
  if validation is None:
    return {}
  sets = {WHOLE: validation}
  if isinstance(validation, Mapping) and validation:
    whole = [
      isinstance(x, list) or hasattr(x, "shape") for x in validation.values()
    ]
    sets = sets if any(whole) else validation
  feeds = {}
  for name, own in sets.items():
    dotted = in_brackets("validation", name)
    opened = open_data(
      dotted, own, pair=_pair(learner), split="test", data_dir=data_dir
    )
    if not isinstance(opened, BatchStream):
      feeds[name] = Feed({WHOLE: PlannedPart(opened, batch_size, None)})
    elif opened.again:
      feeds[name] = Feed({WHOLE: opened})
    else:
      raise TypeError(
        f"fit: {dotted} is an iterator, which can be read once; expected "
        "arrays, or an iterable that starts anew, such as a DataLoader."
      )
  return feeds


def _entries_of(on: str | tuple[str, ...]) -> tuple[str, ...]:
  return (on,) if isinstance(on, str) else on


def _pair(learner: Learner) -> tuple[str, str] | None:
  """The names of x and y in a pair, if the student has one input."""
  on = next(row.on for row in learner.loss_fn.passes.values() if row.train)
  if not isinstance(on, str):
    return None
  return on.rpartition(".")[2], "label"


def in_brackets(name: str, part: str) -> str:
  """The name of an argument's part, for errors."""
  return f"{name}[{part!r}]" if part else name


def _dotted(path: Any) -> str:
  return jax.tree_util.keystr(path, simple=True, separator=".")
