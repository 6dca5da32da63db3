"""Asks a teacher about every example, and writes what it says."""

import dataclasses
import functools
import json
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kdjax.data._augmentation import augment_examples
from kdjax.data._optional_packages import require
from kdjax.data._sources import Source
from kdjax.data._teacher_cache import TeacherCache
from kdjax.data._teacher_cache_records import DTYPES
from kdjax.data._teacher_cache_records import Augment
from kdjax.data._teacher_cache_records import TeacherCacheHeader
from kdjax.data._teacher_cache_records import check_header
from kdjax.data._teacher_cache_records import describe
from kdjax.data._teacher_cache_records import digests
from kdjax.data._teacher_cache_records import fingerprint
from kdjax.data._teacher_cache_records import pack
from kdjax.data._teacher_cache_records import probe
from kdjax.data._teacher_cache_records import shard_paths
from kdjax.ops import check_choice
from kdjax.ops import check_integer
from kdjax.ops import get_entry

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
  k: int | None = None,
  dtype: str = "float32",
  keep: Keep | None = None,
  batch_size: int = 256,
  shard_size: int = 4096,
  progress: Callable[[int, int], None] | None = None,
) -> TeacherCache:
  """Writes what a teacher says of every example, for one augmentation seed.

  A folder holds any number of seeds of one teacher, data set and augmentation:
  call this for each. A shard appears whole or not at all, and what is there is
  not computed again: a killed write loses its current shard.

  Of a language model's sequences, `inputs="tokens"` and `k` keep the likeliest
  classes of each token. They are picked where the teacher runs, so that only
  they leave the device; `kdjax.fused.known_log_probs` makes of them what
  `kdjax.fused.sparse_divergence` takes.

  Args:
    path: the folder, made if missing.
    source: the examples. Each is known by its index and by a fingerprint of
      its image, before augmentation.
    teacher: `(variables, images) -> logits`, compiled here: `[b, classes]`,
      or with more axes between the two, such as the tokens of a sequence.
    variables: of the teacher.
    dataset: the name of the data set and split.
    inputs: the name of what the teacher sees in an example, an array of one
      shape, such as `"tokens"`.
    seed: of the augmentation, and of what `keep` draws; a student's epoch has
      one.
    augment: `(key, images) -> images`, applied by `augment_examples`.
    k: how many of the likeliest classes are kept, with the log-sum-exp of all
      others; None keeps all.
    dtype: of the logits kept: `"float32"` is exact.
    keep: `(key, outputs) -> arrays` in place of `k` and `dtype`: what is kept,
      as it is, of one example, a dict or a named tuple. The outputs are the
      teacher's, which may be any tree then; the key is the example's and the
      seed's own. `functools.partial(kdjax.fused.sample_teacher,
      num_samples=50)` is one.
    batch_size: examples in one call of the teacher, whose logits are on the
      device for all of them: 4 GB for 64 sequences of 512 tokens and 32,000
      classes.
    shard_size: records in a file.
    progress: called with the numbers of records written and to be written:
      first where the write starts or resumes, then after each shard.

  Returns:
    The cache, open.

  Raises:
    ValueError: if the folder has a cache of another teacher, of another
      function of the same variables, data set or augmentation; if logits are
      NaN or above what the dtype holds; if examples differ in shape; if `keep`
      is given with `k` or `dtype`, or returns no arrays.
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
    recognition <https://arxiv.org/abs/2112.01528>`_, 2021; resumption as in
    `tfds <https://www.tensorflow.org/datasets/api_docs/python/tfds>`_.
  """
  check_choice("dtype", dtype, DTYPES)
  for name, number in (("batch_size", batch_size), ("shard_size", shard_size)):
    check_integer(name, number, 1)
  check_integer("seed", seed, 0)
  if keep is not None and (k, dtype) != (None, "float32"):
    raise ValueError(
      f"k is {k} and dtype {dtype!r}; expected None and 'float32' with keep, "
      "which says what is kept."
    )
  writer = require("array_record.python.array_record_module").ArrayRecordWriter

  ask = functools.partial(_ask, teacher, augment)
  answer = jax.jit(functools.partial(_answer, ask, keep, k, dtype))
  if not len(source):
    raise ValueError("source is empty; expected at least one example.")
  first = _example(source, 0, inputs)
  # What the variables do not tell: what the teacher makes of one image. In a
  # whole batch, so that the teacher is compiled once.
  images = np.broadcast_to(first, (batch_size, *first.shape))
  args = (variables, images, np.zeros(batch_size, np.int32), 0)
  outputs = jax.eval_shape(ask, *args)
  kept, seen = answer(*args)
  header = TeacherCacheHeader(
    dataset=dataset,
    teacher=fingerprint(variables),
    num_examples=len(source),
    num_classes=outputs.shape[-1] if getattr(outputs, "ndim", 0) > 1 else None,
    k=k,
    dtype=dtype,
    shard_size=shard_size,
    image=describe(first),
    answer=tuple(seen.tolist()),
    augmentation=probe(augment, first.shape, first.dtype),
    inputs=inputs,
    kept={name: describe(array[0]) for name, array in kept.items()},
  )
  path = pathlib.Path(path)
  path.mkdir(parents=True, exist_ok=True)
  if (path / "header.json").exists():
    header = check_header(path, dataclasses.asdict(header))
  else:
    _replace(path / "header.json", json.dumps(dataclasses.asdict(header)))

  def records(rows: range) -> Iterator[np.ndarray]:
    for start in rows[::batch_size]:
      batch = np.arange(start, min(start + batch_size, rows.stop))
      images = _stack(source, batch, header)
      padded = np.resize(batch, batch_size).astype(np.int32)
      kept, _ = answer(variables, images[padded - start], padded, seed)
      packed = pack(header, kept, len(batch))
      packed["cache"], packed["seed"] = header.digest(), seed
      packed["index"], packed["inputs"] = batch, digests(images)
      yield from packed

  total = len(source)
  shards = {
    shard: range(i * shard_size, min((i + 1) * shard_size, total))
    for i, shard in enumerate(shard_paths(path, header, seed))
  }
  done = sum(len(rows) for shard, rows in shards.items() if shard.exists())
  if progress is not None:
    progress(done, total)
  for shard, rows in shards.items():
    if shard.exists():
      continue
    partial = shard.with_suffix(".partial")
    file = writer(str(partial), "group_size:1")
    for record in records(rows):
      file.write(record.tobytes())
    file.close()
    os.replace(partial, shard)
    done += len(rows)
    if progress is not None:
      progress(done, total)
  return TeacherCache(path, augment=augment)


def _ask(
  teacher: Callable[[Any, Any], Any],
  augment: Augment | None,
  variables: Any,
  images: Any,
  index: Any,
  seed: Any,
) -> Any:
  """What a teacher says of images, as the student will see them."""
  if augment is not None:
    images = augment_examples(augment, images, index, seed)
  return teacher(variables, images)


def _answer(
  ask: Callable[..., Any],
  keep: Keep | None,
  k: int | None,
  dtype: str,
  variables: Any,
  images: Any,
  index: Any,
  seed: Any,
) -> tuple[dict[str, Any], Any]:
  """What is kept of a batch, and a few numbers that tell teachers apart."""
  outputs = ask(variables, images, index, seed)
  if keep is not None:
    kept = _keep_each(keep, outputs, index, seed)
    return kept, _glance((outputs, kept))
  if not hasattr(outputs, "astype"):
    raise TypeError(
      f"teacher returns {type(outputs).__name__}; expected an array of logits, "
      "or keep, which says what is kept of it."
    )
  outputs = outputs.astype(jnp.float32)
  return _likeliest(outputs, k, dtype), _glance(outputs)


def _example(source: Source, i: int, name: str) -> np.ndarray:
  """What the teacher sees of one example."""
  return np.asarray(get_entry(f"example {i} of the source", source[i], name))


def _stack(
  source: Source, batch: np.ndarray, header: TeacherCacheHeader
) -> np.ndarray:
  """What the teacher sees of some examples, all of one shape."""
  images = [_example(source, int(i), header.inputs) for i in batch]
  for i, image in zip(batch, images, strict=True):
    if describe(image) != header.image:
      raise ValueError(
        f"example {i} of the source has {header.inputs} {describe(image)}; "
        f"expected {header.image}, as in the first."
      )
  return np.stack(images)


def _likeliest(logits: Any, k: int | None, dtype: str) -> dict[str, Any]:
  """All logits, or the k largest and the log-sum-exp of the others."""
  if k is None:
    return {"logits": logits.astype(dtype)}
  num_classes = logits.shape[-1]
  if not 1 <= k < num_classes:
    raise ValueError(
      f"k is {k}; expected 1 to {num_classes - 1}, or None for all classes."
    )
  values, ids = jax.lax.top_k(logits, k)
  # Summed themselves: all less the likeliest would be nothing but rounding.
  others = jnp.put_along_axis(logits, ids, -jnp.inf, -1, inplace=False)
  rest = jax.nn.logsumexp(others, axis=-1)
  return {"values": values.astype(dtype), "ids": ids, "rest": rest}


def _keep_each(
  keep: Keep, outputs: Any, index: Any, seed: Any
) -> dict[str, Any]:
  """What is kept of each example, with a key of its own."""
  # The last number is no example's: that key is the augmentation's.
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


def _glance(tree: Any) -> Any:
  """A few numbers of a batch's first example."""
  leaves = [jnp.zeros((1, 0)), *jax.tree.leaves(tree)]
  return jnp.concatenate(
    [
      leaf[0].ravel()[:64].astype(jnp.float32)
      for leaf in leaves
      if jnp.issubdtype(leaf.dtype, jnp.floating)
    ]
  )


def _replace(path: pathlib.Path, text: str) -> None:
  partial = path.with_suffix(".partial")
  partial.write_text(text)
  os.replace(partial, path)
