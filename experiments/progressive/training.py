"""Trains each network of each chain once, all seeds as one program."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.frame import rounds
from experiments.progressive import methods
from kdjax import collaboration, nets, training

CHUNK = 500  # images that are evaluated at once
PARTS = ("validation", "test")
Chain = tuple[int, ...]  # the widths of its networks


class Trained(NamedTuple):
  """The networks of all seeds, their scores and the teacher's path."""

  variables: training.Variables  # `[seeds, ...]`
  accuracy: dict[str, np.ndarray]  # part -> `[seeds]`
  route: Any = None  # variables along the path, `[anchors]` of them


class Results(NamedTuple):
  """Scores on test images, and the chains that validation images chose."""

  # method -> `[students, seeds]`; of the teacher the same for all students.
  accuracy: dict[str, np.ndarray]
  chains: dict[str, list[Chain]]  # method -> one for each student
  alone: dict[int, float]  # width -> mean validation accuracy from scratch


class Trainer:
  """Trains what a method asks for, and nothing twice."""

  def __init__(self, job: Any):
    self.job = job
    config = job.config
    self.assistants = tuple(sorted(config.assistants, reverse=True))
    self.students = tuple(sorted(config.students, reverse=True))
    self._done: dict[str, Trained] = {}
    self.draws = _plan_of(job)
    learner = methods.make_learner("scratch", config.teacher, job)
    self.route = _train(methods.TEACHER, job, self.draws, learner, {})
    self._done[str(config.teacher)] = self.route

  def alone(self, width: int) -> Trained:
    """A network from scratch."""
    return self._once(str(width), "scratch", width)

  def chain(self, chain: Chain) -> Trained:
    """The last network of a chain, each taught by the one before it."""
    if len(chain) == 1:
      return self.alone(chain[0])
    *before, width = chain
    teacher = self.chain(tuple(before)).variables
    name = "-".join(map(str, chain))
    return self._once(name, "kd", width, (before[-1],), {"teacher": teacher})

  def with_method(self, method: str, width: int) -> Trained:
    """A student of another method than a chain."""
    wide, teacher = self.job.config.teacher, self.route.variables
    frozen: dict[str, Any] = {"teacher": teacher}
    teachers: Chain = (wide,)
    if method == "rco":
      frozen = {f"teacher_{i}": x for i, x in enumerate(self.route.route)}
      teachers = (wide,) * len(frozen)
    elif method == "dgkd":
      teachers = (wide, *self.assistants)
      known = [self.chain(teachers[: i + 1]) for i in range(len(teachers))]
      frozen = {f"teacher_{i}": x.variables for i, x in enumerate(known)}
    elif method == "sandwich":
      return self._cut(width)
    return self._once(f"{method}_{width}", method, width, teachers, frozen)

  def evenly_spaced(self, width: int) -> Chain:
    """The chain whose validation accuracies are evenly spaced."""
    widths = (self.job.config.teacher, *self.assistants, width)
    places = collaboration.evenly_spaced_assistants(
      [self.alone(x).accuracy["validation"].mean() for x in widths],
      num_assistants=self.job.config.num_assistants,
    )
    return tuple(widths[i] for i in places)

  def searched(self, width: int) -> Chain:
    """The chain that the search over trained pairs finds."""
    widths = (self.job.config.teacher, *self.assistants, width)
    scores = np.full((len(widths), len(widths)), np.nan)
    best: list[Chain] = [widths[:1]]
    for j in range(1, len(widths)):
      for i in range(j):
        pair = self.chain((*best[i], widths[j]))
        scores[i, j] = pair.accuracy["validation"].mean()
      places = collaboration.best_assistants(scores[: j + 1, : j + 1])
      best.append(tuple(widths[k] for k in places))
    return best[-1]

  def _once(
    self,
    name: str,
    method: str,
    width: int,
    teachers: Chain = (),
    frozen: Any = None,
  ) -> Trained:
    if name not in self._done:
      learner = methods.make_learner(method, width, self.job, teachers)
      self._done[name] = _train(
        name, self.job, self.draws, learner, frozen or {}
      )
    return self._done[name]

  def _cut(self, width: int) -> Trained:
    """A student cut out of a network as wide as the teacher."""
    job, wide = self.job, self.job.config.teacher
    whole = self._once("sandwich", "sandwich", wide)
    learner = methods.make_learner("scratch", width, job)

    @jax.jit
    @jax.vmap
    def cut(params: Any) -> Any:
      state = learner.init(jax.random.key(0), job.data.spec())
      small = nets.copy_paste(params, state.params["student"], widths="first")
      state = state._replace(params=state.params | {"student": small})
      return state.student, _look(learner, state, {}, job.data)

    variables, accuracy = cut(whole.variables.params)
    return Trained(variables, jax.device_get(accuracy))


def train(job: Any) -> Results:
  """Trains all methods for all students."""
  trainer = Trainer(job)
  chosen, named = trainer.students, job.config.methods
  accuracy: dict[str, np.ndarray] = {}
  chains: dict[str, list[Chain]] = {}

  def keep(method: str, found: list[Trained]) -> None:
    accuracy[method] = np.stack([x.accuracy["test"] for x in found])

  keep(methods.SCRATCH, [trainer.alone(x) for x in chosen])
  for method in named:
    ways = {
      methods.DIRECT: lambda x: (job.config.teacher, x),
      "takd": trainer.evenly_spaced,
      "takd_search": trainer.searched,
      "takd_all": lambda x: (job.config.teacher, *trainer.assistants, x),
    }
    if method in ways:
      chains[method] = [ways[method](x) for x in chosen]
      keep(method, [trainer.chain(x) for x in chains[method]])
    else:
      keep(method, [trainer.with_method(method, x) for x in chosen])
  keep(methods.TEACHER, [trainer.route] * len(chosen))
  widths = (job.config.teacher, *trainer.assistants, *chosen)
  alone = {
    x: float(trainer.alone(x).accuracy["validation"].mean()) for x in widths
  }
  return Results(accuracy, chains, alone)


def _plan_of(job: Any) -> tuple[Any, Any, Any]:
  """Keys of initial weights, batches and keys of steps: one for all stages."""
  config = job.config

  @jax.jit
  @jax.vmap
  def plan(key):
    init_key, plan_key, key = jax.random.split(key, 3)
    batches = rounds.plan_steps(
      plan_key, len(job.data.train["label"]), config.batch_size, config.steps
    )
    return init_key, batches, key

  init_keys, batches, key = plan(rounds.seed_keys(config))
  return init_keys, jax.device_get(batches), key


def _look(learner: Any, state: Any, frozen: Any, data: Any) -> Any:
  """The accuracies on validation and test images."""
  scores = {}
  for name in PARTS:
    part = getattr(data, name)
    count = len(part["label"])
    plan = training.epoch_plan(count, min(CHUNK, count))
    evaluate = training.scan_evaluation(learner.evaluate)
    seen = training.mean_metrics(evaluate(state, frozen, part, plan))
    scores[name] = seen["accuracy"]
  return scores


def _train(
  stage: str, job: Any, draws: Any, learner: training.Learner, frozen: Any
) -> Trained:
  """Trains the networks of all seeds; keeps those along the way."""
  config, data = job.config, job.data
  epoch = training.scan_epoch(learner.step)

  def of_seed(state, frozen, data, plan, key):
    state, _ = epoch(state, frozen, data.train, plan, key)
    return state, _look(learner, state, frozen, data)

  advance = jax.jit(training.sweep(of_seed, shared=("data",)))

  @jax.jit
  @jax.vmap
  def start(key):
    return learner.init(key, data.spec())

  init_keys, plan, key = draws
  state = start(init_keys)
  every, steps = config.evaluate_every, config.steps
  anchors = config.anchors if stage == methods.TEACHER else 0

  def advance_round(step: int, tree: Any, history: Any) -> rounds.Round:
    del history
    part = jax.tree.map(lambda x: x[:, step : step + every], plan)
    state, seen = advance(tree["state"], frozen, data, part, key)
    seen = jax.device_get(seen)
    after = {"state": state}
    if anchors:
      # The place of the checkpoint that the path has at the end of this round.
      place = (step + every) * anchors // steps - 1
      met = (step + every) * anchors % steps == 0
      after["route"] = jax.tree.map(
        lambda route, now: route.at[place].set(now) if met else route,
        tree["route"],
        state.student,
      )
    accuracy = float(np.mean(seen["validation"]))
    return rounds.Round(
      after,
      jax.tree.map(np.ndarray.tolist, seen),
      {"validation": accuracy},
      f"validation accuracy {accuracy:.1%}",
    )

  tree = {"state": state}
  if anchors:
    tree["route"] = jax.tree.map(
      lambda x: jnp.zeros((anchors, *x.shape), x.dtype), state.student
    )
  tree, history = rounds.run(
    job, stage, tree, advance_round, steps=steps, every=every
  )
  route = [
    jax.tree.map(lambda x, i=i: x[i], tree["route"]) for i in range(anchors)
  ]
  last = {k: np.array(x) for k, x in history[-1].items()}
  return Trained(tree["state"].student, last, route)
