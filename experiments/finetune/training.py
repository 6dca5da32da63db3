"""Fine-tuning: all seeds, folds and candidates of a method as one program."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.finetune import methods
from experiments.finetune.networks import BODIES
from experiments.frame import finetuning as frame_finetuning
from experiments.frame import rounds
from kdjax import finetuning, metrics, training
from kdjax.ops import cross_entropy


class Row(NamedTuple):
  """The results of one method in the report."""

  # Of its hyper-parameters, name -> `[candidates]`; or None.
  candidates: dict[str, np.ndarray] | None
  chosen: np.ndarray  # `[seeds]`, the candidate that a seed's few labels chose
  accuracy: np.ndarray  # `[seeds]`, its accuracy on target test images
  oracle: (
    np.ndarray
  )  # `[seeds]`, the best by labels of target validation images
  oracle_accuracy: np.ndarray  # `[seeds]`, its accuracy on the same test images


def with_new_head(
  body: training.Variables, head: training.Variables
) -> training.Variables:
  """The one network with the head of the other."""
  params = body.params | {"head": head.params["head"]}
  return body._replace(params=params)


def fine_tune(
  stage: str,
  method: str,
  job: Any,
  student: training.Variables,
  teacher: training.Variables,
) -> tuple[training.Variables, dict[str, np.ndarray]]:
  """Fine-tunes all seeds, folds and candidates as one program.

  The student's start and the teacher are `[seeds]`. Returns the students that
  had all labels, `[seeds, candidates]`, and `[rounds, seeds, candidates]` seen.
  """
  config, data, forward = job.config, job.data, job.forward
  body = BODIES[config.network]
  groups = methods.layer_groups(body, student.params)
  candidates = frame_finetuning.candidates(method, config.rates)
  plan = {"index": jnp.asarray(data.few), "mask": jnp.asarray(data.learns)}
  first = plan
  plan = {k: jnp.repeat(x[:, None], config.steps, 1) for k, x in plan.items()}

  def learner_of(student, teacher, candidate, **known):
    optimizer = frame_finetuning.make_optimizer(
      method, candidate, groups, config.steps
    )
    student, past = (training.Model(forward, x) for x in (student, teacher))
    return frame_finetuning.make_learner(
      method, student, past, optimizer, classes=data.classes, **known
    )

  def init_student(student, teacher, key, images, rows, candidate):
    batch = jax.tree.map(lambda x: x[rows["index"]], images)
    batch |= {"mask": rows["mask"]}
    known = {"weight": candidate["weight"]}
    known["knowledge"] = methods.ask_teacher(
      method, forward, teacher, batch, body=body, classes=data.classes
    )
    return learner_of(student, teacher, candidate, **known).init(key, batch)

  def learn(state, teacher, candidate, images, plan, key):
    learner = learner_of(None, teacher, candidate)
    epoch = training.scan_epoch(learner.step)
    state, _ = epoch(state, learner.frozen, images, plan, key)
    rows = jax.tree.map(lambda x: x[0], plan)
    batch = jax.tree.map(lambda x: x[rows["index"]], images)
    logits = frame_finetuning.answer(
      forward, state.student, batch["image"]
    ).logits
    left_out = ~rows["mask"]
    losses = cross_entropy(logits, batch["label"])
    hits = metrics.accuracy(logits, batch["label"])
    return state, {
      "held_out_accuracy": jnp.sum(hits * left_out),
      "held_out_loss": jnp.sum(losses * left_out),
    }

  # The candidates of a fold share all but the weight and the rate, the folds of
  # a seed all but which labels count.
  folds, seeds = {"index": None, "mask": 0}, {"index": 0, "mask": None}
  setup: Any = jax.vmap(init_student, (*[None] * 5, 0))
  setup = jax.vmap(setup, (*[None] * 4, folds, None))
  setup = jax.jit(jax.vmap(setup, (0, 0, 0, None, seeds, None)))
  learn_all: Any = jax.vmap(learn, (0, None, 0, None, None, None))
  learn_all = jax.vmap(learn_all, (0, None, None, None, folds, None))
  learn_all = jax.vmap(learn_all, (0, 0, None, None, seeds, 0))
  accuracy = jax.vmap(methods.accuracy_of, (None, 0, None))
  accuracy = jax.vmap(accuracy, (None, 0, None))

  @jax.jit
  def advance(state, teacher, candidates, images, validation, plan, key):
    state, seen = learn_all(state, teacher, candidates, images, plan, key)
    labelled = data.few.shape[1]
    seen = {name: jnp.sum(x, 1) / labelled for name, x in seen.items()}
    # The first fold holds nothing out.
    hits = accuracy(forward, first_of(state.student), validation)
    return state, seen | {"oracle_accuracy": jnp.mean(hits, -1)}

  def describe(seen):
    row = {name: x.mean(0) for name, x in seen.items()}
    best = row["held_out_accuracy"].max()
    text = f"accuracy on labels held out {best:.1%}"
    return {name: x.tolist() for name, x in candidates.items()} | row, text

  state = setup(student, teacher, job.key, data.target, first, candidates)
  inputs = teacher, candidates, data.target, data.target_validation
  begin = state, plan, job.key
  state, seen = rounds.train(job, stage, advance, inputs, begin, describe)
  return first_of(state.student), seen


def first_of(variables: Any) -> Any:
  """The first network of each seed."""
  return jax.tree.map(lambda x: x[:, 0], variables)


def choose(seen: dict[str, np.ndarray]) -> np.ndarray:
  """Each seed's candidate by its held-out labels, at the last step."""
  accuracy, loss = seen["held_out_accuracy"][-1], seen["held_out_loss"][-1]
  # Among equals the one of the lowest cross-entropy, and then the first.
  return np.lexsort((loss, -accuracy), axis=-1)[:, 0]


def make_row(
  method: str, job: Any, starts: dict[str, training.Variables]
) -> Row:
  """Fine-tunes by a method and chooses; only then looks at test images."""
  origin = frame_finetuning.start_of(method)
  student = starts[origin]
  if not frame_finetuning.is_trained(method):
    accuracy = prototype_accuracy(job, student)
    none = np.zeros(len(accuracy), int)
    return Row(None, none, accuracy, none, accuracy)
  if origin == "source":
    student = with_new_head(student, job.variables)
  trained, seen = fine_tune(method, method, job, student, starts["source"])
  chosen = choose(seen)
  oracle = seen["oracle_accuracy"][-1].argmax(-1)
  accuracy, best = (test_accuracy(job, trained, x) for x in (chosen, oracle))
  candidates = jax.device_get(
    frame_finetuning.candidates(method, job.config.rates)
  )
  return Row(candidates, chosen, accuracy, oracle, best)


def test_accuracy(
  job: Any, trained: training.Variables, picks: np.ndarray
) -> np.ndarray:
  """Test accuracy of one candidate a seed, `[seeds]`."""
  seeds = np.arange(len(picks))
  picked = jax.tree.map(lambda x: np.asarray(x)[seeds, picks], trained)
  return np.asarray(_accuracies(job.forward, picked, job.data.test))


@functools.partial(jax.jit, static_argnums=0)
def _accuracies(forward, networks, part):
  hits = jax.vmap(methods.accuracy_of, (None, 0, None))
  return jnp.mean(hits(forward, networks, part), -1)


def prototype_accuracy(job: Any, networks: training.Variables) -> np.ndarray:
  """Test accuracy of the nearest prototype of the few labels, `[seeds]`."""
  data, forward = job.data, job.forward

  @jax.jit
  @functools.partial(jax.vmap, in_axes=(0, 0, None, None))
  def accuracies(variables, few, target, test):
    def embed(images):
      return frame_finetuning.answer(forward, variables, images).embedding

    prototypes = finetuning.class_prototypes(
      embed(target["image"][few]),
      target["label"][few],
      num_classes=data.classes,
    )
    logits = finetuning.prototypical_logits(embed(test["image"]), prototypes)
    return jnp.mean(metrics.accuracy(logits, test["label"]))

  few = jnp.asarray(data.few)
  return np.asarray(accuracies(networks, few, data.target, data.test))
