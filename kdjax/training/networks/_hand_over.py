"""From one stage of training to the next."""

from kdjax.training.steps._state import TrainState


def hand_over(before: TrainState, state: TrainState, name: str) -> TrainState:
  """Handing over: a stage starts with the parameters of the stage before.

  A stage that prepares a part of the next objective (the paraphraser of factor
  transfer) leaves that part; one that prepares the student (FSP, AB) leaves
  the student.

  Args:
    before: the state at the end of the first stage, whose objective is
      `preset(name, initialization=True)`.
    state: the initial state of the next stage, whose objective is
      `preset(name)`, or another `kdjax.methods.combine`.
    name: of the method.

  Returns:
    `state` with the learned parameters. Its optimizer starts anew.

  Examples:
    >>> def state(student, objective):
    ...   return TrainState(
    ...     0, {"student": student, "objective": objective},
    ...     {"student": {}, "objective": {"objectives": {}}}, (),
    ...   )
    >>> hand_over(state(1, {}), state(0, {"ce": {}}), "ab").params["student"]
    1

  References:
    Tian et al., `RepDistiller <https://github.com/HobbitLong/RepDistiller>`_,
    `helper/pretrain.py`.
  """
  if name not in state.params["objective"]:
    student = {"student": before.params["student"]}
    moved = {"student": before.state["student"]}
    return state._replace(
      params=state.params | student, state=state.state | moved
    )
  parts = state.params["objective"] | {name: before.params["objective"]}
  moved = state.state["objective"]
  module = {"module": before.state["objective"]["module"]}
  states = moved["objectives"] | {name: moved["objectives"][name] | module}
  moved = moved | {"objectives": states}
  return state._replace(
    params=state.params | {"objective": parts},
    state=state.state | {"objective": moved},
  )
