"""Fine-tunes all teachers, and ranks them before by transferability."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.finetune import training
from experiments.frame import transferability
from experiments.frame.finetuning import answer
from experiments.frame.transferability import Teachers


def compare(job: Any, teachers: Any) -> Teachers:
  """Fine-tunes all teachers `[seeds, teachers]` and ranks them beforehand."""
  names = "source", *job.config.teachers

  @jax.jit
  @jax.vmap
  @jax.vmap
  def see(variables):
    # Of all images: the few are among them.
    outputs = answer(job.forward, variables, job.data.target["image"])
    return {
      "embeddings": outputs.embedding,
      "probabilities": jax.nn.softmax(outputs.logits),
      "predictions": jnp.argmax(outputs.logits, -1),
    }

  seen = jax.device_get(see(teachers))
  return transferability.judge(
    names,
    truth(job, teachers, len(names)),
    lambda view, seed, name: seen[view][seed, names.index(name)],
    np.asarray(job.data.target["label"]),
    job.data.few,
    job.data.classes,
  )


def truth(job: Any, teachers: Any, count: int) -> np.ndarray:
  """Accuracy that plain fine-tuning reaches, `[teachers, seeds]`."""

  def repeat(tree):
    return jax.tree.map(lambda x: jnp.repeat(x, count, 0), tree)

  # A teacher of a seed is as good as another seed.
  networks = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), teachers)
  few = np.repeat(job.data.few, count, 0)
  many = job._replace(data=job.data._replace(few=few), key=repeat(job.key))
  student = training.with_new_head(networks, repeat(job.variables))
  trained, seen = training.fine_tune(
    "teachers", "finetune", many, student, networks
  )
  accuracy = training.test_accuracy(many, trained, training.choose(seen))
  return accuracy.reshape(-1, count).T
