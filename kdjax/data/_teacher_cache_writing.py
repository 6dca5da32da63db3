"""Writing of a teacher cache: runs a teacher and stores its outputs."""

import contextlib
import dataclasses
import functools
import os
import pathlib
import uuid
from collections.abc import Callable, Generator, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kdjax import ops
from kdjax.data._augmentation import augment_examples
from kdjax.data._optional_packages import require
from kdjax.data._sources import Source
from kdjax.data._teacher_cache import TeacherCache
from kdjax.data._teacher_cache_records import (
  DTYPES,
  Augment,
  DamagedHeaderError,
  TeacherCacheHeader,
  check_header,
  describe,
  digests,
  fingerprint,
  first_digest,
  num_shards,
  pack,
  probe,
  shard_path,
  shard_rows,
)

Keep = Callable[[Any, Any], Any]


def write_teacher_cache(
  path: str | os.PathLike[str],
  source: Source,
  teacher: Callable[[Any, Any], Any],
  variables: Any,
  *,
  dataset: str,
  inputs: str = "image",
  seed: int = 0,
  augment: Augment | None = None,
  top_k: int | None = None,
  dtype: str = "float32",
  keep: Keep | None = None,
  batch_size: int = 256,
  shard_size: int = 4096,
  progress: Callable[[int, int], None] | None = None,
) -> TeacherCache:
  """Teacher cache: stores a teacher's outputs for one augmentation seed.

  A folder contains any number of seeds of one teacher, data set and
  augmentation; call this function for each seed. A shard is written whole or
  not at all, and existing shards are not computed again: an interrupted write
  loses only its current shard. Several processes may write at the same time:
  the first to finish a shard keeps it. A damaged header is written anew if the
  shards belong to it.

  For sequences of a language model, `inputs="tokens"` and `top_k` store the
  most probable classes of each token. They are selected on the teacher's
  device, so only they are transferred. `kdjax.fused.known_log_probs` converts
  them for `kdjax.fused.sparse_divergence`.

  Args:
    path: the folder; it is created if it does not exist.
    source: the examples. A record identifies its example by the index and by a
      fingerprint of the image before augmentation.
    teacher: `(variables, images) -> logits`, which is compiled here. Logits are
      `[b, classes]`, or have further axes in between, such as tokens.
    variables: the variables of the teacher.
    dataset: the name of the data set and split.
    inputs: the name of the teacher's input in an example, an array of one
      shape, such as `"tokens"`.
    seed: the seed of the augmentation and of `keep`; each epoch of a student
      has its own seed.
    augment: `(key, images) -> images`, applied by `augment_examples`.
    top_k: the number of classes to store, the most probable ones, with the
      log-sum-exp of all others; None stores all classes.
    dtype: the dtype of the stored logits; `"float32"` is exact.
    keep: `(key, outputs) -> arrays`, instead of `top_k` and `dtype`: computes
      the arrays to store for one example, a dict or a named tuple. The teacher
      may then return any pytree. The key depends on the example and the seed.
      An example is `functools.partial(kdjax.fused.sample_teacher,
      num_samples=50)`.
    batch_size: the number of examples in one call of the teacher. All their
      logits are on the device: 4 GB for 64 sequences of 512 tokens and 32,000
      classes.
    shard_size: the number of records in a file.
    progress: called with the numbers of written and of all records, at the
      start and after each shard.

  Returns:
    The opened cache.

  Raises:
    ValueError: if the folder has a cache of another teacher, of another
      function of the same variables, of another data set or of another
      augmentation; if logits are NaN or exceed the dtype in either
      direction; if examples differ in shape; if `keep` is given with `top_k` or
      `dtype`, or does not return arrays.
    OSError: if a shard cannot be written, such as on a full disk.
    ImportError: if array_record is not installed.

  Examples:
    >>> import tempfile
    >>> from kdjax.data import load
    >>> source = load("digits", "test")
    >>> def teacher(variables, images):
    ...   return images.mean((1, 2)) @ variables
    >>> with tempfile.TemporaryDirectory() as path:
    ...   cache = write_teacher_cache(
    ...     path, source, teacher, jnp.ones((1, 10)), dataset="digits/test"
    ...   )
    ...   cache.lookup(np.array([7]), seed=0)["logits"].shape
    (1, 10)

  References:
    Shen and Xing, `A fast knowledge distillation framework for visual
    recognition <https://arxiv.org/abs/2112.01528>`_, 2021.
  """
  ops.check_choice("dtype", dtype, DTYPES)
  for name, number in (("batch_size", batch_size), ("shard_size", shard_size)):
    ops.check_integer(name, number, 1)
  ops.check_integer("seed", seed, 0)
  if keep is not None and (top_k, dtype) != (None, "float32"):
    raise ValueError(
      f"top_k is {top_k} and dtype {dtype!r}; expected None and 'float32' with "
      "keep, which computes the stored arrays."
    )
  module = require("array_record.python.array_record_module")
  run = functools.partial(_run_teacher, teacher, augment)
  answer = jax.jit(functools.partial(_stored_arrays, run, keep, top_k, dtype))
  if not len(source):
    raise ValueError("source is empty; expected at least one example.")
  first = _example(source, 0, inputs)
  # The outputs for one image identify the function of the variables. The image
  # fills a whole batch, so that the teacher is compiled once.
  images = np.broadcast_to(first, (batch_size, *first.shape))
  args = (variables, images, np.zeros(batch_size, np.int32), 0)
  outputs = jax.eval_shape(run, *args)
  kept, seen, extremes = answer(*args)
  _check_extremes(extremes, dtype)
  header = TeacherCacheHeader(
    dataset=dataset,
    teacher=fingerprint(variables),
    num_examples=len(source),
    num_classes=outputs.shape[-1] if getattr(outputs, "ndim", 0) > 1 else None,
    top_k=top_k,
    dtype=dtype,
    shard_size=shard_size,
    image=describe(first),
    answer=tuple(seen.tolist()),
    augmentation=probe(augment, first.shape, first.dtype),
    inputs=inputs,
    kept={name: describe(array[0]) for name, array in kept.items()},
  )
  header.check_sizes()
  path = pathlib.Path(path)
  path.mkdir(parents=True, exist_ok=True)
  made = not (path / "header.json").exists()
  header = _settle_header(path, header)

  def records(rows: range) -> Iterator[np.ndarray]:
    for start in rows[::batch_size]:
      batch = np.arange(start, min(start + batch_size, rows.stop))
      images = _stack(source, batch, header)
      padded = np.resize(batch, batch_size).astype(np.int32)
      kept, _, extremes = answer(
        variables, images[padded - start], padded, seed
      )
      _check_extremes(extremes, dtype)
      packed = pack(header, kept, len(batch))
      packed["cache"], packed["seed"] = header.digest(), seed
      packed["index"], packed["inputs"] = batch, digests(images)
      yield from packed

  total = len(source)
  shards = {
    shard_path(path, header, seed, i): shard_rows(header, i)
    for i in range(num_shards(header))
  }
  done = sum(len(rows) for shard, rows in shards.items() if shard.exists())
  if progress is not None:
    progress(done, total)
  try:
    for shard, rows in shards.items():
      if not shard.exists():
        _write_shard(module, shard, records(rows), len(rows))
        done += len(rows)
        if progress is not None:
          progress(done, total)
  except BaseException:
    if made and not any(path.glob("*.array_record")):
      # An empty cache must not refuse the next call, of another dtype say.
      (path / "header.json").unlink(missing_ok=True)
    raise
  # Another process that failed may have removed the header.
  _settle_header(path, header)
  return TeacherCache(path, augment=augment)


def _write_shard(
  module: Any, shard: pathlib.Path, records: Iterator[np.ndarray], size: int
) -> None:
  """Writes a shard whole or not at all; other processes may write it too."""
  name = f"{shard.stem}.{uuid.uuid4().hex[:8]}.partial"
  partial = shard.with_name(name)
  try:
    with _as_os_error(shard):
      file = module.ArrayRecordWriter(str(partial), "group_size:1")
    for record in records:
      file.write(record.tobytes())
    try:
      with _as_os_error(shard):
        file.close()
        reader = module.ArrayRecordReader(str(partial))
        written = reader.num_records()
        reader.close()
      if written != size:
        raise OSError(f"{partial} has {written} records; expected {size}.")
      os.replace(partial, shard)
    except OSError:
      # A process that finished the shard first has removed this file.
      if not shard.exists():
        raise
  finally:
    partial.unlink(missing_ok=True)
  # Processes that were killed leave their files.
  for partial in shard.parent.glob(f"{shard.stem}*.partial"):
    with contextlib.suppress(OSError):
      partial.unlink()


@contextlib.contextmanager
def _as_os_error(shard: pathlib.Path) -> Generator[None]:
  """Names the file in errors of array_record, such as of a full disk."""
  try:
    yield
  except RuntimeError as error:
    raise OSError(f"{shard} cannot be written: {error}") from error


def _settle_header(
  path: pathlib.Path, header: TeacherCacheHeader
) -> TeacherCacheHeader:
  """Returns the header in the folder; writes it if missing or damaged."""
  expected = dataclasses.asdict(header)
  file = path / "header.json"
  with contextlib.suppress(FileNotFoundError, DamagedHeaderError):
    return check_header(path, expected)
  for shard in sorted(path.glob("*.array_record")):
    found = first_digest(shard)
    if found not in (None, header.digest()):
      raise ValueError(
        f"{file} is missing or damaged, and {shard.name} was written with "
        f"another header: its fingerprint is {found:#x}, that of the header "
        f"for the given arguments is {header.digest():#x}. Pass the arguments "
        "of the cache, or choose another folder."
      )
  partial = path / f"header.{uuid.uuid4().hex[:8]}.partial"
  partial.write_text(header.to_text(), encoding="utf-8")
  try:
    if file.exists():
      os.replace(partial, file)
    else:
      # Fails if another process was faster, whose header then counts.
      os.link(partial, file)
  except FileExistsError:
    pass
  except OSError:  # a file system without links
    os.replace(partial, file)
  finally:
    partial.unlink(missing_ok=True)
  return check_header(path, expected)


def _run_teacher(
  teacher: Callable[[Any, Any], Any],
  augment: Augment | None,
  variables: Any,
  images: Any,
  index: Any,
  seed: Any,
) -> Any:
  """Returns the teacher's outputs for augmented images."""
  if augment is not None:
    images = augment_examples(augment, images, index, seed)
  return teacher(variables, images)


def _stored_arrays(
  run: Callable[..., Any],
  keep: Keep | None,
  top_k: int | None,
  dtype: str,
  variables: Any,
  images: Any,
  index: Any,
  seed: Any,
) -> tuple[dict[str, Any], Any, Any]:
  """Returns the stored arrays, numbers that tell teachers apart, and extremes.

  The extremes are whether the dtype loses finite logits, the least and the
  largest of these.
  """
  outputs = run(variables, images, index, seed)
  if keep is not None:
    kept = _keep_each(keep, outputs, index, seed)
    return kept, _sample_numbers((outputs, kept)), (False, 0.0, 0.0)
  if not hasattr(outputs, "astype"):
    raise TypeError(
      f"teacher returns {type(outputs).__name__}; expected an array of logits. "
      "For other outputs, pass keep."
    )
  narrow = outputs.astype(jnp.float32)
  kept = _top_classes(narrow, top_k)
  logits = outputs if top_k is None else kept["values"]
  finite = jnp.isfinite(logits)
  extremes = (
    jnp.any(finite & ~jnp.isfinite(logits.astype(dtype))),
    jnp.min(logits, initial=jnp.inf, where=finite),
    jnp.max(logits, initial=-jnp.inf, where=finite),
  )
  for name in ("logits", "values"):
    if name in kept:
      kept[name] = kept[name].astype(dtype)
  return kept, _sample_numbers(narrow), extremes


def _check_extremes(extremes: Any, dtype: str) -> None:
  lost, low, high = extremes
  if lost:
    raise ValueError(
      f"the teacher's logits reach from {float(low):.6g} to {float(high):.6g}; "
      f"expected numbers that {dtype} holds. Pass another dtype."
    )


def _example(source: Source, i: int, name: str) -> np.ndarray:
  """Returns the teacher's input in one example."""
  return np.asarray(
    ops.get_entry(f"example {i} of the source", source[i], name)
  )


def _stack(
  source: Source, batch: np.ndarray, header: TeacherCacheHeader
) -> np.ndarray:
  """Returns the teacher's inputs for some examples, all of one shape."""
  images = [_example(source, int(i), header.inputs) for i in batch]
  for i, image in zip(batch, images, strict=True):
    if describe(image) != header.image:
      raise ValueError(
        f"example {i} of the source has {header.inputs} {describe(image)}; "
        f"expected {header.image}, as in the first example."
      )
  return np.stack(images)


def _top_classes(logits: Any, top_k: int | None) -> dict[str, Any]:
  """Returns all logits, or the largest and the log-sum-exp of the others."""
  if top_k is None:
    return {"logits": logits}
  num_classes = logits.shape[-1]
  if not 1 <= top_k < num_classes:
    raise ValueError(
      f"top_k is {top_k}; expected 1 to {num_classes - 1}, or None for all "
      "classes."
    )
  values, ids = jax.lax.top_k(logits, top_k)
  # Sum the others themselves: the difference of two large sums loses digits.
  others = jnp.put_along_axis(logits, ids, -jnp.inf, -1, inplace=False)
  rest = jax.nn.logsumexp(others, axis=-1)
  return {"values": values, "ids": ids, "rest": rest}


def _keep_each(
  keep: Keep, outputs: Any, index: Any, seed: Any
) -> dict[str, Any]:
  """Returns the arrays that `keep` computes for each example."""
  # No example has this index, so augmentations do not use this key.
  key = jax.random.fold_in(jax.random.key(seed), 2**32 - 1)
  keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.asarray(index))
  kept = jax.vmap(keep)(keys, outputs)
  if hasattr(kept, "_asdict"):
    kept = kept._asdict()
  arrays = kept.values() if isinstance(kept, dict) else ()
  if not arrays or not all(isinstance(x, jax.Array) for x in arrays):
    raise ValueError(
      f"keep returns {jax.tree.structure(kept)}; expected a dict of arrays."
    )
  return kept


def _sample_numbers(tree: Any) -> Any:
  """Returns a few numbers of the first example of a batch."""
  leaves = [jnp.zeros((1, 0)), *jax.tree.leaves(tree)]
  return jnp.concatenate(
    [
      leaf[0].ravel()[:64].astype(jnp.float32)
      for leaf in leaves
      if jnp.issubdtype(leaf.dtype, jnp.floating)
    ]
  )
