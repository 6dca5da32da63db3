"""Scores of the students of `experiments.distill` on the test images."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from kdjax import metrics
from kdjax import training
from kdjax.ops import kl_divergence
from kdjax.ops import masked_mean


def predict(model: training.Model, images: Any, batch_size: int) -> Any:
  """The logits and embeddings of many images, batch by batch."""
  plan = training.epoch_plan(len(images), batch_size)

  def answers(index):
    inputs = images[index]
    outputs, _ = model.forward(model.variables, inputs, train=False, key=None)
    return outputs.logits, outputs.embedding

  rows = jax.lax.map(answers, plan["index"])
  return jax.tree.map(lambda x: x.reshape(-1, x.shape[-1])[: len(images)], rows)


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

    def score(answers):
      logits, embedding = answers
      hits = metrics.accuracy(logits, labels)
      result = {
        "accuracy": hits.mean(),
        "agreement": metrics.agreement(logits, targets[0]).mean(),
        "kl": kl_divergence(logits, targets[0]).mean(),
        "cka": metrics.cka(embedding, targets[1]),
        "entropy": metrics.entropy(logits).mean(),
        "nll": metrics.negative_log_likelihood(logits, labels).mean(),
        "ece": metrics.expected_calibration_error(logits, labels),
      }
      if config.missing_digit is not None:
        result["missing"] = masked_mean(hits, labels == config.missing_digit)
      return result

    def curve(answers):
      logits, _ = answers
      spread = jnp.broadcast_to(labels, logits.shape[:-1])
      return metrics.reliability_curve(logits, spread)

    answers = jax.vmap(jax.vmap(lambda x: outputs(students.forward, x)))(
      student_variables
    )
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
  latency = median_milliseconds(lambda: forward(model.variables, images))
  return {
    "parameters": sum(x.size for x in leaves),
    "latency": latency,
    "image_latency": 1e3 * latency / len(images),
  }


def median_milliseconds(call: Callable[[], Any], *, calls: int = 50) -> float:
  """Times a call to its end, once it is compiled and warm.

  Args:
    call: returns arrays, which are waited for.
    calls: how many are timed.

  Returns:
    The median.
  """
  times = []
  for _ in range(calls + 3):
    begin = time.perf_counter()
    jax.block_until_ready(call())
    times.append(time.perf_counter() - begin)
  return 1e3 * statistics.median(times[3:])
