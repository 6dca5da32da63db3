"""One process a folder: a lock that ends with its process."""

import contextlib
import os
import pathlib
import shlex
import socket
import sys
import time
import warnings

try:
  import fcntl
except ImportError:  # not on Windows
  fcntl = None

from kdjax.training.loop._run_errors import RunError

_FILE = "run.lock"
_held: dict[int, pathlib.Path] = {}


class FolderLock:
  """Lock of a folder. The system frees it when the process ends, however.

  Args:
    folder: that is there.
    name: of the argument, for errors.

  Raises:
    RunError: if another process, or another run of this process, has it.
    OSError: if the folder cannot be written.
  """

  def __init__(self, folder: pathlib.Path, name: str):
    self._file = folder / _FILE
    self._descriptor: int | None = None
    while fcntl is not None:
      descriptor = os.open(self._file, os.O_RDWR | os.O_CREAT, 0o644)
      try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
      except BlockingIOError:
        holder = os.read(descriptor, 2000).decode(errors="replace").strip()
        os.close(descriptor)
        raise RunError(
          f"{name} {str(folder)!r} is in use by {holder or 'another process'}; "
          "expected one run a folder. Wait for its end, stop it, or give "
          "another folder."
        ) from None
      except OSError as error:
        os.close(descriptor)
        warnings.warn(
          f"{name} {str(folder)!r} has no locks ({error.strerror}); nothing "
          "keeps two runs from writing there at once.",
          stacklevel=3,
        )
        return
      if _is_file(descriptor, self._file):
        self._descriptor = descriptor
        _held[descriptor] = self._file
        os.ftruncate(descriptor, 0)
        # Only for people to read: on a full disk the lock holds all the same.
        with contextlib.suppress(OSError):
          os.write(descriptor, _who().encode())
        return
      os.close(descriptor)  # It was deleted between the opening and the lock.

  def release(self) -> None:
    """Gives the folder back."""
    if self._descriptor is None:
      return
    with contextlib.suppress(OSError):
      self._file.unlink()
    _close(self._descriptor)
    self._descriptor = None


def _is_file(descriptor: int, path: pathlib.Path) -> bool:
  try:
    return os.path.samestat(os.fstat(descriptor), path.stat())
  except FileNotFoundError:
    return False


def _who() -> str:
  words = " ".join(shlex.join(sys.argv).split())[:200]
  since = time.strftime("%Y-%m-%d %H:%M:%S")
  host = socket.gethostname()
  return f"process {os.getpid()} on {host} (since {since}: {words})\n"


def _close(descriptor: int) -> None:
  if _held.pop(descriptor, None):
    os.close(descriptor)


def _close_all() -> None:
  """A child that outlives its parent must not keep the parent's locks."""
  for descriptor in list(_held):
    _close(descriptor)


if hasattr(os, "register_at_fork"):
  os.register_at_fork(after_in_child=_close_all)
