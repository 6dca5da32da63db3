"""What the students of `experiments.distill` are worth, on the test images."""

from typing import Any

import jax
import jax.numpy as jnp

from experiments import _statistics
from kdjax import metrics
from kdjax import training
from kdjax.ops import masked_mean


def predict(model: training.Model, images: Any, batch_size: int) -> jax.Array:
  """The logits of many images, batch by batch."""
  plan = training.epoch_plan(len(images), batch_size)

  def logits(index):
    inputs = images[index]
    return model.forward(model.variables, inputs, train=False, key=None)[
      0
    ].logits

  rows = jax.lax.map(logits, plan["index"])
  return rows.reshape(-1, rows.shape[-1])[: len(images)]


def examine(job: Any, teacher: training.Model, students: training.Model):
  """Scores the teacher and the students `[seeds, 2]` on the test images.

  Returns the scores `[seeds]` and the reliability curve of each group, and the
  teacher's logits for the images of the first seed's students.
  """
  config = job.config

  @jax.jit
  def scores(teacher_variables, student_variables, test, few):
    labels = test["label"]

    def outputs(forward, variables, images=test["image"]):
      model = training.Model(forward, variables)
      return predict(model, images, config.batch_size)

    targets = outputs(teacher.forward, teacher_variables)

    def score(logits):
      hits = metrics.accuracy(logits, labels)
      result = {
        "accuracy": hits.mean(),
        "agreement": metrics.agreement(logits, targets).mean(),
        "nll": metrics.negative_log_likelihood(logits, labels).mean(),
        "ece": metrics.expected_calibration_error(logits, labels),
      }
      if config.missing_digit is not None:
        result["missing"] = masked_mean(hits, labels == config.missing_digit)
      return result

    def curve(logits):
      spread = jnp.broadcast_to(labels, logits.shape[:-1])
      return metrics.reliability_curve(logits, spread)

    logits = jax.vmap(jax.vmap(lambda x: outputs(students.forward, x)))(
      student_variables
    )
    groups = {
      "teacher": targets[None],
      "scratch": logits[:, 0],
      "distilled": logits[:, 1],
    }
    return (
      {name: jax.vmap(score)(group) for name, group in groups.items()},
      {name: curve(group) for name, group in groups.items()},
      outputs(teacher.forward, teacher_variables, few),
    )

  few = job.data.train["image"][jnp.asarray(job.data.transfer[0][:256])]
  return jax.device_get(
    scores(teacher.variables, students.variables, job.data.test, few)
  )


def cost(model: training.Model, images: Any) -> dict[str, float]:
  """Parameters, milliseconds of a batch, microseconds of an image in it."""
  forward = jax.jit(
    lambda *x: model.forward(*x, train=False, key=None)[0].logits
  )
  leaves = jax.tree.leaves(model.variables.params)
  latency = _statistics.median_milliseconds(
    lambda: forward(model.variables, images)
  )
  return {
    "parameters": sum(x.size for x in leaves),
    "latency": latency,
    "image_latency": 1e3 * latency / len(images),
  }
