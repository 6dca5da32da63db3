"""The ways to sample in few steps."""

PROGRESSIVE, CONSISTENCY, TEACHER = "progressive", "consistency", "teacher"
METHODS = {
  PROGRESSIVE: "the steps are halved phase by phase, from the teacher's to one",
  CONSISTENCY: "one step from any noise on the teacher's path to its data",
}
NAMES = {
  TEACHER: "teacher (DDIM)",
  PROGRESSIVE: "progressive distillation",
  CONSISTENCY: "consistency distillation",
}


def describe() -> dict[str, tuple[str, str]]:
  """The area and the summary of each method, for `--methods help`."""
  return {name: ("generation", text) for name, text in METHODS.items()}
