"""The state of a training run."""

from typing import Any, NamedTuple

from jaxtyping import Array, Int

from kdjax.training.networks._models import Variables


class TrainState(NamedTuple):
  """Train state: everything that a step changes, in one pytree.

  Attributes:
    step: how many steps were taken, int32.
    params: `{"student": ..., "objective": ...}`, changed by the optimizer. A
      run of several trained networks has a name for each of them.
    state: the same names: batch statistics, hyper-parameters, memory banks.
    optimizer_state: of the Optax optimizer, and of the method's `Update`.

  References:
    `flax.training.train_state
    <https://flax.readthedocs.io/en/latest/api_reference/flax.training.html>`_.
  """

  step: Int[Array, "*students"]
  params: Any
  state: Any
  optimizer_state: Any

  @property
  def student(self) -> Variables:
    """The student's variables."""
    return self.network("student")

  def network(self, name: str) -> Variables:
    """The variables of a trained network."""
    return Variables(self.params[name], self.state[name])
