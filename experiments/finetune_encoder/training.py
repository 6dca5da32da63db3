"""Rows of the tables: a method of an encoder, chosen and trained by seed."""

import shutil
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.finetune_encoder import programs
from experiments.finetune_encoder.data import Data
from experiments.finetune_encoder.teachers import WHOLE, Encoder, as_random
from experiments.frame import cells, episodes, rounds, transferability
from experiments.frame import finetuning as frame_finetuning
from kdjax import finetuning, training
from kdjax.ops import cross_entropy

# StochNorm needs batch normalization, and an encoder has layer normalization.
# DELTA's attention asks what each channel of a convolution is worth, by a pass
# without it: an encoder of 6 x 384 channels would need thousands of them.
UNFIT = ("stochnorm", "delta_attention")
CHOICES = tuple(x for x in frame_finetuning.CHOICES if x not in UNFIT)
# The gradients of MAML and ANIL go through those of the inner loop, which take
# the most time of all: these two run where they are named.
DEFAULTS = tuple(x for x in CHOICES if x not in ("maml", "anil"))
ALL_LABELS = "all_labels"  # a linear probe with the labels of the whole pool
RANDOM = "random"
# Of the head of a pretrained encoder, on sentences of the source.
HEAD_RATE = 1e-2


class Bench:
  """The inputs of a run, and what several rows need, computed once."""

  def __init__(
    self,
    config: Any,
    run: Any,
    console: Any,
    data: Data,
    encoders: dict[str, Encoder],
  ):
    self.config, self.run, self.console = config, run, console
    self.data, self.encoders = data, encoders
    self.keys = rounds.seed_keys(config)
    self._kept: dict[Any, Any] = {}

  def keep(self, name: Any, compute: Callable[[], Any]) -> Any:
    """The value of a name, computed at first."""
    if name not in self._kept:
      self._kept[name] = compute()
    return self._kept[name]

  def forget(self, *names: Any) -> None:
    """Frees values that no row needs any more."""
    for name in names:
      self._kept.pop(name, None)

  def seed_key(self, seed: int, purpose: int) -> jax.Array:
    """The key of a seed for a head, a body, an order or the rest."""
    return jax.random.fold_in(self.keys[seed], purpose)

  def head(self, encoder: Encoder, seed: int) -> programs.Head:
    """The new head of a seed, the same under every method."""
    key = self.seed_key(seed, 0)
    return programs.draw_head(key, encoder.width, self.config.classes)

  def body(self, encoder: Encoder, seed: int) -> training.Variables:
    """The pretrained encoder, or the random one of a seed."""
    if encoder.variables is not None:
      return encoder.variables
    init = self.keep("init", lambda: jax.jit(encoder.network.init))
    return init(self.seed_key(seed, 1))

  def past(self, encoder: Encoder, seed: int) -> training.Variables:
    """The encoder with a head for the documents of the source."""
    seed = seed if encoder.variables is None else 0

    def compute() -> training.Variables:
      variables = self.body(encoder, seed)
      _, embeddings = programs.ask(encoder, variables, "source")
      head = programs.fit_head(
        self.head(encoder, 0),
        embeddings,
        self.data.source.label,
        HEAD_RATE,
        steps=self.config.probe_steps,
      )
      return programs.with_head(variables, head)

    if encoder.variables is None:  # too large to be kept for each seed
      return compute()
    return self.keep((encoder.name, "past"), compute)

  def embed(self, encoder: Encoder, name: str, part: str, variables: Any):
    """The embeddings of a part, of a network of this name."""
    return self.keep(
      (name, part), lambda: programs.ask(encoder, variables, part)[1]
    )


class Course(NamedTuple):
  """How the networks of a row are made."""

  candidates: dict[str, np.ndarray]  # name -> `[candidates]`
  # A seed and a candidate -> part -> the logits of a trained network.
  train: Callable[[int, dict[str, Any]], Callable[[str], np.ndarray]]


class Row(NamedTuple):
  """The results of one method in the report."""

  candidates: dict[str, np.ndarray]
  chosen: int  # the candidate that the validation sentences chose
  accuracy: np.ndarray  # `[seeds]`, on test sentences
  validation: np.ndarray  # `[seeds]`


def rows_of(config: Any) -> list[tuple[str, str]]:
  """All rows: an encoder and a method."""
  baselines = [*frame_finetuning.BASELINES, ALL_LABELS]
  methods = [x for x in frame_finetuning.METHODS if x in config.methods]
  teachers = [(x, "finetune") for x in config.teachers if x != RANDOM]

  def of(names: list[str]) -> list[tuple[str, str]]:
    return [(RANDOM if x == "target_only" else WHOLE, x) for x in names]

  return of(baselines) + teachers + of(methods)


def run(bench: Bench) -> dict[str, Any]:
  """Trains the rows that the run folder has not, and ranks the teachers."""
  config, files = bench.config, cells.Cells(bench.run.path)
  rows = rows_of(config)
  names = [(*row, seed) for row in rows for seed in range(config.seeds)]
  # They show their own progress.
  metas = {
    method: programs.meta_learn(method, bench, bench.encoders[WHOLE])
    for method in config.methods
    if method in episodes.WAYS
    and any(
      not files.file(WHOLE, method, x).exists() for x in range(config.seeds)
    )
  }
  course, of = None, None
  for (name, method, seed), update in files.missing(bench.console, names):
    if of != (name, method):
      rate = rate_of(files) if method in programs.TRIED else None
      course = make_course(bench, name, method, metas, rate)
      of = name, method
    scores = train_cell(bench, files, course, name, method, seed)
    files.write(scores, name, method, seed)
    update(1, f"{name} {method}: {scores['test']:.1%}")
    if seed == config.seeds - 1:
      folder = bench.run.path / "checkpoints" / f"pretrain_{method}"
      shutil.rmtree(folder, ignore_errors=True)
  results: dict[str, Any] = {"rows": {}, "encoders": {}}
  for name, method in rows:
    found = [files.read(name, method, seed) for seed in range(config.seeds)]
    choice = files.read(name, method, "choice")
    row = Row(
      {k: np.asarray(x) for k, x in choice["candidates"].items()},
      choice["chosen"],
      np.array([x["test"] for x in found]),
      np.array([x["validation"] for x in found]),
    )
    if name == WHOLE or method == "target_only":
      results["rows"][method] = row
    if method in ("finetune", "target_only"):
      results["encoders"][name] = row
  # The bound comes last in tables.
  results["rows"][ALL_LABELS] = results["rows"].pop(ALL_LABELS)
  if config.teachers:
    results["teachers"] = rank(bench, results["encoders"])
  return results


def rate_of(files: Any) -> float:
  """The rate that plain fine-tuning has chosen, whose row comes before."""
  choice = files.read(WHOLE, "finetune", "choice")
  return choice["candidates"]["rate"][choice["chosen"]]


def train_cell(
  bench: Bench, files: Any, course: Any, name: str, method: str, seed: int
) -> dict[str, float]:
  """Trains one seed; the first one also chooses among the candidates."""
  stage = f"{name}_{method}_{seed}"
  place = files.file(name, method, "choice")
  candidates = course.candidates
  count = len(candidates["rate"])
  answer = None
  if not place.exists():
    found = [
      (course.train(0, {k: x[i] for k, x in candidates.items()}), i)
      for i in range(count)
    ]
    seen = [judge(bench, x, "validation") for x, _ in found]
    # Among equals the one of the lowest cross-entropy, and then the first.
    chosen = min(
      range(count), key=lambda i: (-seen[i]["accuracy"], seen[i]["loss"])
    )
    answer = found[chosen][0] if seed == 0 else None
    content = {
      "candidates": {k: np.asarray(x).tolist() for k, x in candidates.items()},
      "chosen": chosen,
      "seen": seen,
    }
    files.write(content, name, method, "choice")
  chosen = files.read(name, method, "choice")["chosen"]
  if answer is None:
    answer = course.train(seed, {k: x[chosen] for k, x in candidates.items()})
  scores = {x: judge(bench, answer, x) for x in ("validation", "test")}
  row = {k: x["accuracy"] for k, x in scores.items()}
  bench.run.rewind(stage, 0)
  bench.run.log(stage=stage, step=bench.config.steps, **row)
  losses = np.array([x["loss"] for x in scores.values()])
  finite = training.FiniteCheck(
    bench.config.nan, None, stage=stage, name="the run", flag="--nan continue"
  )
  finite(bench.config.steps, {"loss": losses})
  if not np.isfinite(losses).all():
    bench.run.diverged.append(stage)
  return row


def judge(
  bench: Bench, answer: Callable[[str], np.ndarray], part: str
) -> dict[str, float]:
  """Accuracy and cross-entropy on a part."""
  logits, label = answer(part), getattr(bench.data, part).label
  return {
    "accuracy": float(np.mean(np.argmax(logits, -1) == label)),
    "loss": float(jnp.mean(cross_entropy(jnp.asarray(logits), label))),
  }


def make_course(
  bench: Bench, name: str, method: str, metas: dict[str, Any], rate: Any
) -> Course:
  """How a row is trained: by prototypes, as a head alone, or as a whole."""
  config, encoder = bench.config, bench.encoders.get(name)
  if encoder is None:  # random weights are not among the teachers
    encoder = as_random(bench.encoders[WHOLE])
  network, of = encoder.variables, name
  if method in episodes.WAYS:
    of, network = method, metas[method]
  if not frame_finetuning.is_trained(method):
    candidates = {"weight": np.zeros(1), "rate": np.zeros(1)}
    return Course(candidates, by_prototypes(bench, encoder, of, network))
  rates = config.rates if method not in programs.TRIED else (rate,)
  like = "finetune" if method == ALL_LABELS else method
  candidates = frame_finetuning.candidates(like, rates, programs.TRIED)
  if method == "target_only":  # random weights may need the head's rate
    candidates = training.grid(weight=(1.0, config.body_rate), rate=rates)
  candidates = jax.device_get(candidates)
  if method in ("linear_probe", "anil", ALL_LABELS):
    keeps = method == "anil"  # its own head
    labels = None if method == ALL_LABELS else bench.data.few
    train = by_head(bench, encoder, of, network, labels, keeps)
    return Course(candidates, train)
  meta = network if method in episodes.WAYS else None
  return Course(candidates, by_tuning(bench, encoder, method, meta))


def by_prototypes(bench: Bench, encoder: Encoder, of: str, network: Any) -> Any:
  """The nearest class mean; nothing is trained."""

  def train(seed: int, candidate: Any) -> Any:
    del candidate
    few = bench.data.few[seed]
    prototypes = finetuning.class_prototypes(
      jnp.asarray(bench.embed(encoder, of, "pool", network)[few]),
      jnp.asarray(bench.data.pool.label[few]),
      num_classes=bench.config.classes,
    )

    def answer(part: str) -> np.ndarray:
      rows = jnp.asarray(bench.embed(encoder, of, part, network))
      return np.asarray(finetuning.prototypical_logits(rows, prototypes))

    return answer

  return train


def by_head(
  bench: Bench, encoder: Encoder, of: str, network: Any, few: Any, keeps: bool
) -> Any:
  """A head on frozen embeddings, new or, if it keeps its own, the network's."""

  def train(seed: int, candidate: Any) -> Any:
    places = slice(None) if few is None else few[seed]
    head = network.params["head"] if keeps else bench.head(encoder, seed)
    head = programs.fit_head(
      head,
      bench.embed(encoder, of, "pool", network)[places],
      bench.data.pool.label[places],
      candidate["rate"],
      steps=bench.config.probe_steps,
    )
    return lambda part: np.asarray(
      programs.apply_head(head, bench.embed(encoder, of, part, network))
    )

  return train


def by_tuning(bench: Bench, encoder: Encoder, method: str, meta: Any) -> Any:
  """The method's updates of the whole network."""
  config, data = bench.config, bench.data
  tuning = programs.make_tuning(config, encoder, method)
  needs = "past" in frame_finetuning.row_of(method).networks

  def train(seed: int, candidate: Any) -> Any:
    student = meta
    if meta is None:
      student = programs.with_head(
        bench.body(encoder, seed), bench.head(encoder, seed)
      )
    past = bench.past(encoder, seed) if needs else student
    few = data.few[seed]
    arrays = {
      "tokens": jnp.asarray(encoder.tokens["pool"][few]),
      "label": jnp.asarray(data.pool.label[few]),
    }
    knowledge = None
    if method == "co_tuning":
      logits = finetuning_logits(bench, encoder, past)[few]
      knowledge = finetuning.co_tuning_targets(
        jax.nn.softmax(logits), arrays["label"], num_classes=config.classes
      )
    order, init = (bench.seed_key(seed, i) for i in (2, 3))
    plan = rounds.plan_steps(order, len(few), config.batch_size, config.steps)
    batch = jax.tree.map(lambda x: x[plan["index"][0]], arrays)
    batch |= jax.tree.map(lambda x: x[0], plan)
    state = tuning.start(student, past, candidate, knowledge, init, batch)
    state, _ = tuning.advance(state, past, candidate, arrays, plan, init)
    trained = state.student
    return lambda part: programs.ask(encoder, trained, part)[0]

  return train


def finetuning_logits(bench: Bench, encoder: Encoder, past: Any) -> jax.Array:
  """The logits of the pretrained head for the pool."""
  embeddings = bench.embed(encoder, encoder.name, "pool", past)
  return jnp.asarray(programs.apply_head(past.params["head"], embeddings))


def rank(bench: Bench, rows: dict[str, Row]) -> transferability.Teachers:
  """The scores of the teachers before fine-tuning, and what it reached."""
  names = WHOLE, *bench.config.teachers
  accuracy = np.stack([rows[name].accuracy for name in names])
  titles = {bench.encoders[name].title: name for name in names}

  def see(name: str, seed: int) -> dict[str, np.ndarray]:
    encoder = bench.encoders[name]
    past = bench.past(encoder, seed)
    embeddings = programs.ask(encoder, past, "pool")[1]
    logits = programs.apply_head(past.params["head"], embeddings)
    bench.forget((name, "past"))
    return {
      "embeddings": embeddings,
      "probabilities": np.asarray(jax.nn.softmax(logits)),
      "predictions": np.argmax(logits, -1),
    }

  def look(view: str, seed: int, title: str) -> np.ndarray:
    name = titles[title]
    seed = seed if bench.encoders[name].variables is None else 0
    return bench.keep(("seen", name, seed), lambda: see(name, seed))[view]

  return transferability.judge(
    tuple(titles),
    accuracy,
    look,
    bench.data.pool.label,
    bench.data.few,
    bench.config.classes,
  )
