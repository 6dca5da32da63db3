"""What one stage of training leaves to the next."""

from kdjax.training import TrainState, hand_over


def state(value, objective, parts):
  return TrainState(
    value,
    {"student": f"student {value}", "objective": objective},
    {"student": f"statistics {value}", "objective": parts},
    f"momenta {value}",
  )


def test_a_stage_that_prepares_the_student_leaves_it():
  before = state(7, {"connector": 7}, {"module": {}})
  after = hand_over(before, state(0, {"ce": {}}, {"objectives": {}}), "ab")
  assert after.student == ("student 7", "statistics 7")
  assert after.params["objective"] == {"ce": {}}
  assert (after.step, after.optimizer_state) == (0, "momenta 0")


def test_a_stage_that_prepares_a_part_leaves_the_part():
  before = state(7, {"coder": 7}, {"module": {"coder": 7}})
  parts = {"step": 0, "objectives": {"ft": {"module": 0, "rate": 1}, "ce": {}}}
  after = hand_over(
    before, state(0, {"ce": {}, "ft": {"coder": 0}}, parts), "ft"
  )
  assert after.student == ("student 0", "statistics 0")
  assert after.params["objective"] == {"ce": {}, "ft": {"coder": 7}}
  assert after.state["objective"] == {
    "step": 0,
    "objectives": {"ft": {"module": {"coder": 7}, "rate": 1}, "ce": {}},
  }
