"""Trains the rows of a task, the seeds of a row as one program."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.cross_modal import captions, methods
from experiments.frame import cells, rounds
from experiments.frame import data as frame_data
from experiments.frame.scores import predict
from kdjax import metrics, training
from kdjax.ops import unit_vectors

# Score -> `[rounds, seeds]` on test pairs.
Seen = dict[str, np.ndarray]


class Program(NamedTuple):
  """A learner, and its training and examination of all seeds at once."""

  learner: training.Learner
  advance: Any


def make_program(
  learner: training.Learner, look: Callable[..., dict[str, jax.Array]]
) -> Program:
  """Compiles nothing yet; `look(state, test) -> scores`."""
  epoch = training.scan_epoch(learner.step)

  def of_seed(state, frozen, data, test, plan, key):
    state, _ = epoch(state, frozen, data, plan, key)
    return state, look(state, test)

  advance = training.sweep(of_seed, shared=("data", "test"))
  return Program(learner, jax.jit(advance))


def train_row(
  job: Any,
  task: str,
  name: str,
  program: Program,
  pairs: Any,
  places: Any,
  frozen: Any = None,
  **values: Any,
) -> tuple[Any, Seen]:
  """Trains a row; `values` are hyper-parameters `[seeds]` of the objective.

  A seed has the same initial weights in every row of a task. The state is None
  for a row that is in its file already, unless it is a teacher's.
  """
  config, learner = job.config, program.learner
  files = cells.Cells(job.run.path)
  if not name.endswith("teacher") and files.file(task, name).exists():
    read = files.read(task, name)
    return None, {k: np.array(x) for k, x in read.items()}
  spec = frame_data.batch_spec(pairs.train)

  @jax.jit
  @jax.vmap
  def start(key: Any, places: Any, values: Any) -> Any:
    init_key, plan_key, key = jax.random.split(key, 3)
    plan = rounds.plan_steps(
      plan_key, places.shape[0], config.batch_size, config.steps
    )
    plan["index"] = places[plan["index"]]
    return learner.init(init_key, spec, **values), plan, key

  def describe(seen: Any) -> Any:
    row = {k: float(np.mean(x)) for k, x in seen.items()}
    name, value = next(iter(row.items()))
    return row, f"{name} {value:.1%}"

  many = {k: jnp.broadcast_to(x, config.seeds) for k, x in values.items()}
  state, seen = rounds.train(
    job,
    f"{task}_{name}",
    program.advance,
    (frozen or {}, pairs.train, pairs.test),
    start(rounds.seed_keys(config), jnp.asarray(places), many),
    describe,
  )
  files.write({k: x.tolist() for k, x in seen.items()}, task, name)
  return state, seen


def all_places(job: Any, pairs: Any) -> np.ndarray:
  """The places of all training pairs, `[seeds, n]`."""
  count = len(pairs.train["label"])
  return np.broadcast_to(np.arange(count), (job.config.seeds, count))


def train_pairs(job: Any, task: str, pairs: Any) -> dict[str, Seen]:
  """Trains the rows of a task with a teacher on one modality."""
  config, every = job.config, all_places(job, pairs)
  sides = {
    side: methods.classifier(pairs.train[side], units)
    for side, units in (
      ("a", config.teacher_hidden),
      ("b", config.hidden),
    )
  }
  own = methods.classifier(pairs.train["b"], config.teacher_hidden)

  def look_at(network: training.Network, side: str) -> Any:
    def look(state: Any, test: Any) -> dict[str, jax.Array]:
      logits, _ = predict(network.forward, state.student, test[side])
      return {"accuracy": metrics.accuracy(logits, test["label"]).mean()}

    return look

  student = sides["b"]
  look = look_at(student, "b")
  first = methods.teach(config, sides["a"], on="a")
  first = make_program(first, look_at(sides["a"], "a"))
  state, seen = train_row(job, task, "teacher", first, pairs, every)
  teachers = {"a": state.student}
  alone = make_program(methods.teach(config, student), look)
  rows = {"teacher": seen}

  def add(name: str, program: Program, places: Any, *frozen: Any, **values):
    told = {"teacher": frozen[0]} if frozen else {}
    found = train_row(job, task, name, program, pairs, places, told, **values)
    rows[name] = found[1]

  add(methods.SCRATCH, alone, pairs.few)
  programs: dict[str, Program] = {}
  for name in methods.chosen(config, task):
    teacher, network = "a", sides["a"]
    if name == methods.OWN:
      within = make_program(methods.teach(config, own), look_at(own, "b"))
      state, _ = train_row(job, task, "own_teacher", within, pairs, every)
      teachers["b"] = state.student
      teacher, network = "b", own
    # With and without labels it is one program.
    shared = "cross_modal_kd" if name == methods.UNLABELED else name
    if shared not in programs:
      learner = methods.teach(config, student, shared, network)
      programs[shared] = make_program(learner, look)
    places, values = pairs.few, {}
    if name == methods.UNLABELED:
      places, values = every, {"ce": 0.0, "kd": 1.0}
    add(name, programs[shared], places, teachers[teacher], **values)
  add(methods.ALL, alone, every)
  return rows


def train_towers(job: Any, task: str, pairs: Any) -> dict[str, Seen]:
  """Trains the rows of towers of images and captions."""
  config, every = job.config, all_places(job, pairs)
  networks = {
    kind: methods.towers(config, pairs.train["image"], kind)
    for kind in ("teacher", "student")
  }
  present = np.unique(pairs.test["caption"])

  def look_at(kind: str) -> Any:
    def look(state: Any, test: Any) -> dict[str, jax.Array]:
      def embed(name: str, inputs: Any) -> jax.Array:
        variables = _tower(state, name)
        forward = networks[kind][name].forward
        outputs, _ = forward(variables, inputs, train=False, key=None)
        return unit_vectors(jnp.asarray(outputs.embedding))

      images = embed("image", test["image"])
      texts = embed("text", captions.all_tokens())
      return judge(images, texts, test["caption"], present)

    return look

  large = methods.join(config, networks["teacher"])
  small = methods.join(config, networks["student"])
  first = make_program(large, look_at("teacher"))
  state, seen = train_row(job, task, "teacher", first, pairs, every)
  frozen = {f"teacher_{k}": _tower(state, k) for k in networks["teacher"]}
  scale = methods.teacher_scale(state.params)
  alone, rows = make_program(small, look_at("student")), {"teacher": seen}

  def add(name: str, program: Program, places: Any, *options: Any, **values):
    found = train_row(
      job, task, name, program, pairs, places, *options, **values
    )
    rows[name] = found[1]

  add(methods.SCRATCH, alone, pairs.few)
  for name in methods.chosen(config, task):
    learner = methods.join(
      config, networks["student"], name, networks["teacher"]
    )
    program = make_program(learner, look_at("student"))
    add(name, program, pairs.few, frozen, teacher_scale=scale)
  add(methods.ALL, alone, every)
  return rows


def _tower(state: Any, name: str) -> training.Variables:
  role = f"student_{name}"
  return training.Variables(state.params[role], state.state[role])


def judge(
  images: jax.Array, texts: jax.Array, caption: Any, present: np.ndarray
) -> dict[str, jax.Array]:
  """Zero-shot accuracy, and recall at 1 both ways, of unit vectors.

  `texts` are the embeddings of all captions, and `caption` the numbers of the
  images' own; `present` are those of test images. Several images share a
  caption: each of them is a right answer to it.
  """
  digits = captions.digit_of(np.arange(len(captions.CAPTIONS)))
  prompts = jnp.stack(
    [unit_vectors(texts[digits == i].mean(0)) for i in range(digits.max() + 1)]
  )
  cosines = images @ texts[present].T
  found = jnp.asarray(present)[jnp.argmax(cosines, 1)]
  back = jnp.asarray(caption)[jnp.argmax(cosines, 0)]
  answers = jnp.argmax(images @ prompts.T, 1)
  return {
    "zero_shot": jnp.mean(answers == captions.digit_of(caption)),
    "image_to_text": jnp.mean(found == caption),
    "text_to_image": jnp.mean(back == present),
  }
