"""Passes: which network runs on which part of the batch."""

from typing import NamedTuple


class Pass(NamedTuple):
  """Pass: one network on one entry of the batch; its name is the role.

  Attributes:
    network: the name of the network: a trained one such as `"student"`, a
      frozen one such as `"teacher"` or `"past"`, or `"average"`, the average
      of the student's parameters that `parameter_ema` keeps.
    on: the entry of the batch: `"image"`, `"tokens"`, `"source.image"` for an
      entry of a part; or a tuple of entries, of which the network gets the
      dictionary. What an entry holds is handed over as it is: an array of any
      shape, or a pytree of several inputs.
    train: whether the network runs in training mode: with dropout, and with
      batch statistics that move. Statistics follow from pass to pass.
    gradient: whether the trained network's parameters get a gradient from
      this pass. A gradient by the inputs always passes.
    joint: passes of one network with the same word here run as one batch and
      so share batch statistics; None runs a pass alone.
    batch_axes: how many axes of the inputs are batch axes, such as 2 for
      `[domains, batch, ...]`; the network sees one, the outputs have all.

  References:
    `kdjax.training.pass_loss` runs them.
  """

  network: str = "student"
  on: str | tuple[str, ...] = "image"
  train: bool = False
  gradient: bool = True
  joint: str | None = None
  batch_axes: int = 1
