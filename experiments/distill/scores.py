"""Scores of the students of `experiments.distill` on the test images."""

import functools
import statistics
import timeit
from typing import Any

import jax
import jax.numpy as jnp

from experiments.frame import scores as frame_scores
from kdjax import metrics, training
from kdjax.ops import masked_mean


def examine(job: Any, teacher: training.Model, students: training.Model):
  """The scores and reliability curves of each group on the test images.

  With the teacher's logits for the images of the first seed's students.
  """
  config = job.config
  outputs = functools.partial(
    frame_scores.predict, batch_size=config.batch_size
  )

  @jax.jit
  def scores(teacher_variables, student_variables, test, few):
    images, labels = test["image"], test["label"]
    targets = outputs(teacher.forward, teacher_variables, images)

    def score(answers):
      logits, embedding = answers
      result = frame_scores.score(logits, embedding, labels, targets) | {
        "entropy": metrics.entropy(logits).mean(),
        "nll": metrics.negative_log_likelihood(logits, labels).mean(),
      }
      # Students that diverged are not merely wrong.
      lost = jnp.isnan(result["nll"])
      result["accuracy"] = jnp.where(lost, jnp.nan, result["accuracy"])
      if config.missing_digit is not None:
        hits = metrics.accuracy(logits, labels)
        result["missing"] = masked_mean(hits, labels == config.missing_digit)
      return result

    def curve(answers):
      logits, _ = answers
      spread = jnp.broadcast_to(labels, logits.shape[:-1])
      return metrics.reliability_curve(logits, spread)

    def predict(variables):
      return outputs(students.forward, variables, images)

    answers = jax.vmap(jax.vmap(predict))(student_variables)
    groups = {
      "teacher": jax.tree.map(lambda x: x[None], targets),
      "scratch": jax.tree.map(lambda x: x[:, 0], answers),
      "distilled": jax.tree.map(lambda x: x[:, 1], answers),
    }
    return (
      {name: jax.vmap(score)(group) for name, group in groups.items()},
      {name: curve(group) for name, group in groups.items()},
      outputs(teacher.forward, teacher_variables, few)[0],
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
  latency = milliseconds(lambda: forward(model.variables, images))
  return {
    "parameters": sum(x.size for x in leaves),
    "latency": latency,
    "image_latency": 1e3 * latency / len(images),
  }


def milliseconds(call: Any) -> float:
  """The median time of a call to its end, once it is compiled and warm."""
  times = timeit.repeat(
    lambda: jax.block_until_ready(call()), number=1, repeat=53
  )
  return 1e3 * statistics.median(times[3:])
