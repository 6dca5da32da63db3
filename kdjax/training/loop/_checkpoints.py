"""Checkpoints of everything that moves."""

import copy
import os
import types
from typing import Any, NamedTuple

import jax
import numpy as np


class Restored(NamedTuple):
  """Restored: what a checkpoint holds.

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

  Args:
    directory: the folder, made if missing.
    keep: how many of the latest checkpoints stay.

  Raises:
    ImportError: if orbax-checkpoint is not installed.

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
    self._manager = ocp.CheckpointManager(
      os.path.abspath(directory),
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
    """
    saved = self._manager.save(
      step,
      args=self._args.Composite(
        tree=self._args.StandardSave(tree),
        # Written in the background, while the caller's loop may change it.
        position=self._args.JsonSave({"position": copy.deepcopy(position)}),
      ),
    )
    if not saved:
      raise ValueError(
        f"Checkpoints: step is {step}; expected one above "
        f"{self._manager.latest_step()}, the latest in "
        f"{self._manager.directory}."
      )

  def restore(self, template: Any) -> Restored | None:
    """Restores the latest checkpoint.

    Args:
      template: a pytree of the same structure, of arrays or of
        `jax.ShapeDtypeStruct`. Arrays come back with its shardings; what
        it commits to no device comes back uncommitted, so that programs
        compiled for the template take what is restored.

    Returns:
      A `Restored`, or None if there is no checkpoint: look before
      unpacking it.

    Raises:
      ValueError: if structure or shapes differ from what was saved.
    """
    step = self._manager.latest_step()
    if step is None:
      return None
    restored = self._manager.restore(
      step,
      args=self._args.Composite(
        tree=self._args.StandardRestore(template),
        position=self._args.JsonRestore(),
      ),
    )
    tree = jax.tree.map(_release, restored["tree"], template)
    return Restored(step, tree, restored["position"]["position"])

  def close(self) -> None:
    """Waits until what was saved is on disk."""
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


def _release(restored: Any, template: Any) -> Any:
  """The array, uncommitted if the template is: orbax commits all arrays."""
  if getattr(template, "committed", True):
    return restored
  if jax.dtypes.issubdtype(restored.dtype, jax.dtypes.prng_key):
    data = _release(jax.random.key_data(restored), template)
    return jax.random.wrap_key_data(data, impl=jax.random.key_impl(restored))
  return jax.numpy.asarray(np.asarray(restored))
