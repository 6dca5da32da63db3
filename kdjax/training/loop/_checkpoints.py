"""Checkpoints of everything that moves, with checksums."""

import contextlib
import errno
import json
import os
import pathlib
import re
import shutil
import types
import warnings
import zlib
from collections.abc import Generator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from kdjax.training.loop._run_errors import RunError

# Leaf -> its dtype, its shape and the checksum of its bytes.
Arrays = dict[str, list[Any]]
# In the folder of a checkpoint: file -> the checksum of its bytes.
_FILES = "checksums.json"


class Restored(NamedTuple):
  """Restored: the content of a checkpoint.

  Attributes:
    step: the step at which it was saved, where the run resumes.
    tree: the arrays, in the structure of the template.
    position: the position in the data, as it was saved.

  References:
    `Checkpoints`.
  """

  step: int
  tree: Any
  position: Any


class Checkpoints:
  """Checkpoints: a folder of the last few states of a run.

  A checkpoint appears whole or not at all: a run killed while it saves
  resumes from the one before. Saving goes on in the background; leaving the
  `with` block, or `close`, waits for it.

  A checkpoint has the checksum of each array. A damaged checkpoint is never
  restored: `restore` warns and takes the newest intact one, and the next
  `save` renames the damaged one to `<step>.damaged`.

  Args:
    directory: the folder, made if missing.
    keep: how many of the latest checkpoints stay.

  Attributes:
    latest: the step that was saved or restored last, or None.

  Raises:
    ImportError: if orbax-checkpoint is not installed.
    OSError: if the folder cannot be made.

  Examples:
    >>> import tempfile
    >>> import jax.numpy as jnp
    >>> state = {"params": jnp.arange(3)}
    >>> with tempfile.TemporaryDirectory() as workdir:
    ...   with Checkpoints(workdir) as checkpoints:
    ...     checkpoints.save(7, state, position={"epoch": 2})
    ...   with Checkpoints(workdir) as checkpoints:
    ...     step, state, position = checkpoints.restore(state)
    >>> step, state["params"].tolist(), position
    (7, [0, 1, 2], {'epoch': 2})

  References:
    `orbax.checkpoint.CheckpointManager
    <https://orbax.readthedocs.io/en/latest/guides/checkpoint/orbax_checkpoint_101.html>`_.
  """

  def __init__(self, directory: str | os.PathLike[str], *, keep: int = 3):
    try:
      import orbax.checkpoint as ocp
    except ImportError as error:
      raise ImportError(
        "Checkpoints need orbax-checkpoint: pip install 'kdjax[experiments]'."
      ) from error
    self._args = ocp.args
    self._folder = pathlib.Path(os.path.abspath(directory))
    self.latest: int | None = None
    self._damaged: list[int] = []
    self._saving: int | None = None
    with self._explained():
      self._manager = ocp.CheckpointManager(
        self._folder,
        options=ocp.CheckpointManagerOptions(
          max_to_keep=keep, create=True, cleanup_tmp_directories=True
        ),
      )

  def save(self, step: int, tree: Any, position: Any = None) -> None:
    """Saves arrays and the position in the data.

    Args:
      step: the number of the checkpoint, above those already saved.
      tree: a pytree of arrays: the train state, keys, never a teacher.
      position: anything that JSON holds, such as an epoch or the state of a
        data iterator.

    Raises:
      ValueError: if a checkpoint of this or of a later step exists, as when a
        new run is given an old run's folder.
      OSError: if this checkpoint, or the one before, cannot be written, as on
        a full disk; those already written stay.
    """
    # A text within the JSON: its checksum is that of these very bytes, and
    # numbers that are not finite, which JSON lacks, come back.
    content = json.dumps({"position": position, "arrays": _arrays_of(tree)})
    with self._explained():
      self._set_damaged_aside()
      self._finish()
      self._saving = step
      saved = self._manager.save(
        step,
        args=self._args.Composite(
          tree=self._args.StandardSave(tree),
          position=self._args.JsonSave(
            {"content": content, "checksum": zlib.crc32(content.encode())}
          ),
        ),
      )
    if not saved:
      raise ValueError(
        f"Checkpoints: step is {step}; expected one above "
        f"{self._manager.latest_step()}, the latest in {self._folder}."
      )
    self.latest = step

  def restore(self, template: Any) -> Restored | None:
    """Restores the latest intact checkpoint.

    Args:
      template: a pytree of the same structure, of arrays or of
        `jax.ShapeDtypeStruct`. Arrays come back with its shardings;
        arrays that it commits to no device come back uncommitted, so that
        programs compiled for the template take the restored ones.

    Returns:
      A `Restored`, or None if there is no checkpoint: look before
      unpacking it.

    Raises:
      RunError: if structure, shapes or dtypes differ from the saved ones, with
        the name of the leaf; or if all checkpoints are damaged.
    """
    faults: dict[int, str] = {}
    self._damaged = []
    for step in self._steps():
      try:
        _check_files(self._folder / str(step))
        content = self._read_content(step)
        arrays = content["arrays"]
        _check_same_leaves(self._folder / str(step), arrays, template)
        tree = self._read_tree(step, template, arrays)
      except _DamageError as damage:
        faults[step] = str(damage)
        continue
      if faults:
        self._damaged = list(faults)
        warnings.warn(
          f"Checkpoints: {_listed(faults)} in {str(self._folder)!r}; the run "
          f"goes on from step {step}, the newest intact checkpoint.",
          stacklevel=2,
        )
      tree = jax.tree.map(_release, tree, template)
      self.latest = step
      return Restored(step, tree, content["position"])
    if faults:
      raise RunError(
        f"Checkpoints: {_listed(faults)} in {str(self._folder)!r}; expected an "
        "intact checkpoint. Put back a copy of one, or delete this folder to "
        "begin anew."
      )
    return None

  def keep_latest(self) -> pathlib.Path | None:
    """Copies the latest checkpoint to where no later one takes its place.

    For a run that goes on although its numbers are not finite any more. The
    copy is in the folder `finite` beside this folder; `Checkpoints` reads it.
    A copy that is there stays.

    Returns:
      The folder of the copy; None if there is no checkpoint.

    Raises:
      OSError: if it cannot be written.
    """
    folder = self._folder.with_name("finite") / self._folder.name
    if folder.is_dir():
      return folder
    if self.latest is None:
      return None
    with self._explained():
      self._finish()
      if not jax.process_index():
        name, temporary = str(self.latest), folder.with_name(".new")
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.copytree(self._folder / name, temporary / name)
        temporary.rename(folder)
    return folder

  def close(self) -> None:
    """Waits until what was saved is on disk, and ends.

    Raises:
      OSError: if the last checkpoint cannot be written.
    """
    with self._explained():
      self._finish()
      self._manager.close()

  def __enter__(self) -> "Checkpoints":
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: types.TracebackType | None,
  ) -> None:
    self.close()

  def _steps(self) -> list[int]:
    """The steps of the folder's checkpoints, the latest first."""
    self._manager.wait_until_finished()
    names = [path.name for path in self._folder.iterdir()]
    return sorted((int(x) for x in names if x.isdecimal()), reverse=True)

  def _finish(self) -> None:
    """Waits for the checkpoint that is being saved."""
    if self._saving is None:
      return
    self._manager.wait_until_finished()
    # Readers of damaged files fail late and in several threads: looking at the
    # files first keeps their tracebacks off the screen. A checkpoint without
    # this file is as safe, so a full disk here is no error.
    with contextlib.suppress(OSError):
      _write_checksums(self._folder / str(self._saving))
    self._saving = None

  def _read_content(self, step: int) -> dict[str, Any]:
    """The position and the checksums of a checkpoint."""
    with _damage("its position cannot be read"):
      saved = self._manager.restore(
        step, args=self._args.Composite(position=self._args.JsonRestore())
      )["position"]
      content, checksum = saved["content"], saved["checksum"]
      intact = zlib.crc32(content.encode()) == checksum
    if not intact:
      raise _DamageError("its position has another checksum")
    return json.loads(content)

  def _read_tree(self, step: int, template: Any, arrays: Arrays) -> Any:
    with _damage("its arrays cannot be read"):
      tree = self._manager.restore(
        step,
        args=self._args.Composite(tree=self._args.StandardRestore(template)),
      )["tree"]
      found = _arrays_of(tree)
    for name, expected in arrays.items():
      if found.get(name) != expected:
        raise _DamageError(f"the array {name} has another checksum")
    return tree

  def _set_damaged_aside(self) -> None:
    """Renames damaged checkpoints, so that their steps can be saved again."""
    for step in self._damaged if not jax.process_index() else ():
      old = self._folder / str(step)
      new = old.with_name(f"{step}.damaged")
      number = 1
      while new.exists():
        number += 1
        new = old.with_name(f"{step}.damaged{number}")
      old.rename(new)
    if self._damaged:
      if jax.process_count() > 1:
        multihost_utils.sync_global_devices("damaged checkpoints")
      self._manager.reload()
    self._damaged = []

  @contextlib.contextmanager
  def _explained(self) -> Generator[None]:
    """Turns errors of the file system into one line."""
    try:
      yield
    except Exception as error:
      number = _error_number(error)
      if number is None:
        raise
      subject = "the folder"
      if self._saving is not None:
        subject = f"the checkpoint of step {self._saving}"
      raise os_error(
        number,
        f"Checkpoints: {subject} cannot be written in {str(self._folder)!r}: "
        f"{os.strerror(number)}; expected room and the right to write. The "
        "checkpoints before are kept.",
      ) from None


def os_error(number: int, message: str) -> OSError:
  """The OSError of an error number, whose text is the message alone."""
  error = type(OSError(number, ""))(message)
  error.errno = number
  return error


class _DamageError(Exception):
  """A checkpoint differs from the saved one."""


@contextlib.contextmanager
def _damage(message: str) -> Generator[None]:
  """Takes any error in reading as damage: readers fail in many ways."""
  try:
    yield
  except MemoryError:
    raise
  except Exception as error:
    text = " ".join(str(error).split())[:200]
    raise _DamageError(f"{message} ({type(error).__name__}: {text})") from error


def _checksums_of_files(folder: pathlib.Path) -> dict[str, int]:
  return {
    path.relative_to(folder).as_posix(): zlib.crc32(path.read_bytes())
    for path in sorted(folder.rglob("*"))
    if path.is_file() and path.name != _FILES
  }


def _write_checksums(folder: pathlib.Path) -> None:
  if jax.process_index() or not folder.is_dir():
    return
  temporary = folder / f"{_FILES}.tmp"
  text = json.dumps(_checksums_of_files(folder), indent=0)
  try:
    temporary.write_text(text)
    temporary.replace(folder / _FILES)
  except OSError:
    temporary.unlink(missing_ok=True)
    raise


def _check_files(folder: pathlib.Path) -> None:
  """Raises _DamageError if a file of a checkpoint is not as it was written."""
  try:
    expected = json.loads((folder / _FILES).read_text())
    expected = expected.items()
  except (OSError, ValueError, AttributeError):
    return  # The run was killed before it wrote them: the arrays have others.
  with _damage("its files cannot be read"):
    found = _checksums_of_files(folder)
  for name, checksum in expected:
    if name not in found:
      raise _DamageError(f"its file {name} is missing")
    if found[name] != checksum:
      raise _DamageError(f"its file {name} has another checksum")


def _listed(faults: dict[int, str]) -> str:
  texts = [f"step {step} is damaged: {why}" for step, why in faults.items()]
  return "; ".join(texts)


def _error_number(error: BaseException) -> int | None:
  """The system's error number; TensorStore has it in its text alone."""
  if isinstance(error, OSError):
    return error.errno
  found = re.search(r"os_error_code='(\d+)'", str(error))
  if found:
    return int(found[1])
  return errno.ENOSPC if "No space left on device" in str(error) else None


def _leaves(tree: Any) -> dict[str, Any]:
  return {
    jax.tree_util.keystr(path, simple=True, separator="."): leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


def _arrays_of(tree: Any) -> Arrays:
  return {
    name: [*_kind(leaf), _checksum(leaf)]
    for name, leaf in _leaves(tree).items()
  }


def _kind(leaf: Any) -> tuple[str, list[int]]:
  """The dtype and the shape of an array, a key or a number."""
  if not hasattr(leaf, "dtype"):
    leaf = np.asarray(leaf)
  return str(leaf.dtype), list(leaf.shape)


def _checksum(leaf: Any) -> int | None:
  """The checksum of an array; None if other hosts have parts of it."""
  if isinstance(leaf, jax.Array):
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
      leaf = jax.random.key_data(leaf)
    if not leaf.is_fully_addressable:
      if not leaf.is_fully_replicated:
        return None
      leaf = leaf.addressable_data(0)
  data = np.ascontiguousarray(np.asarray(leaf))
  return zlib.crc32(data.reshape(-1).view(np.uint8).data)


def _check_same_leaves(
  checkpoint: pathlib.Path, arrays: Arrays, template: Any
) -> None:
  """Raises RunError unless a checkpoint has the leaves of a template."""
  wanted = {name: _kind(leaf) for name, leaf in _leaves(template).items()}
  for name in [*wanted, *arrays]:
    saved = _words(tuple(arrays[name][:2])) if name in arrays else "missing"
    here = _words(wanted[name]) if name in wanted else "missing"
    if saved != here:
      raise RunError(
        f"Checkpoints: the array {name} is {saved} in {str(checkpoint)!r} and "
        f"{here} in this run; expected the same. Resume with the networks and "
        "the optimizer of that run, or give another folder."
      )


def _words(kind: tuple[Any, ...]) -> str:
  dtype, shape = kind
  return f"{dtype}[{', '.join(map(str, shape))}]"


def _release(restored: Any, template: Any) -> Any:
  """The array, uncommitted if the template is: orbax commits all arrays."""
  if getattr(template, "committed", True):
    return restored
  if jax.dtypes.issubdtype(restored.dtype, jax.dtypes.prng_key):
    data = _release(jax.random.key_data(restored), template)
    return jax.random.wrap_key_data(data, impl=jax.random.key_impl(restored))
  return jax.numpy.asarray(np.asarray(restored))
