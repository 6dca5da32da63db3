"""The methods: how a student learns pitch, and words of unseen voices."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from experiments.frame.objectives import own_objective
from kdjax import methods as kmethods
from kdjax import nets, training
from kdjax.methods import Objective, stateless

# CREPE's bins are independent: methods of softmax probabilities stand beside a
# cross-entropy of each bin, as their authors' cross-entropy of classes does.
BESIDE = ("binary_kl", "dist")
PITCH = {
  "scratch": "true pitch alone",
  "soft_bins": "teacher's bins alone",
  "both": "teacher's bins and true pitch",
} | {name: f"{kmethods.describe(name).title} and true pitch" for name in BESIDE}
BOUNDS = ("source_only", "target_only")
WORDS = ("kd", "dist", "dann", "cdan", "coral", "mmd", "mcc")
TITLES = {name: kmethods.describe(name).title for name in (*BOUNDS, *WORDS)}


def is_taught(method: str) -> bool:
  """Whether a method of words has a larger network as its teacher."""
  return kmethods.describe(method).area == "distillation"


def describe() -> dict[str, tuple[str, str]]:
  """The area and the summary of each method, for `--methods help`."""
  rows = {name: ("pitch", text) for name, text in PITCH.items()}
  for name in WORDS:
    row = kmethods.describe(name)
    rows[name] = (f"words, {row.area}", row.summary)
  return rows


def binary_cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
  """One value an example: the mean over bins."""
  return jnp.mean(optax.sigmoid_binary_cross_entropy(logits, targets), -1)


def true_pitch_loss(student_logits: jax.Array, hertz: jax.Array) -> jax.Array:
  """CREPE's own loss, of bins around the true pitch."""
  return binary_cross_entropy(student_logits, nets.pitch_bins(hertz))


def soft_bins_loss(
  student_logits: jax.Array, teacher_logits: jax.Array
) -> jax.Array:
  """The same of the probabilities that the teacher gives to the bins."""
  return binary_cross_entropy(student_logits, jax.nn.sigmoid(teacher_logits))


def pitch_objective(method: str) -> Objective:
  """The objective of a student of pitch."""
  truth, bins = stateless(true_pitch_loss), stateless(soft_bins_loss)
  match method:
    case "scratch":
      return truth
    case "soft_bins":
      return bins
    case "both":
      return kmethods.combine({"truth": (0.5, truth), "bins": (0.5, bins)})
  row = kmethods.describe(method)
  own = row.weight, own_objective(method)
  return kmethods.combine({"truth": (row.cross_entropy, truth), method: own})


def pitch_learner(
  method: str, student: training.Model, config: Any, steps: int
) -> training.Learner:
  """A learner of frames, whose teacher's logits come with the batch."""
  return training.distill(
    student,
    None if method == "scratch" else training.CachedTeacher(360),
    pitch_objective(method),
    make_optimizer(config.learning_rate, steps),
    on="samples",
  )


def word_learner(
  method: str,
  student: training.Model,
  teacher: training.Model | None,
  config: Any,
  steps: int,
) -> training.Learner:
  """A learner of words: of the source, or of both domains."""
  optimizer = make_optimizer(config.learning_rate, steps)
  options = {"hidden": (config.discriminator,), "steps": steps}
  whole = kmethods.create(method, **options)
  if is_taught(method):
    return training.distill(student, teacher, whole, optimizer, on="audio")
  return training.adapt(student, whole, optimizer, on="audio")


def make_optimizer(rate: float, steps: int) -> optax.GradientTransformation:
  """Adam; the rate falls by a cosine."""
  return optax.adam(optax.cosine_decay_schedule(rate, steps))
