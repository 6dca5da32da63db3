"""The methods of `experiments.shifts`: ways to train one classifier.

A method sees the source's points and labels and the target's points, and
gives a lesson: the training data of the classifier, and the maps of the points
of each domain to its input.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.svm import SVC

from kdjax import adaptation, reweighting, transforms

# Eigenproblems of kernels take so many rows of each domain.
ROWS = 150
SINKHORN_ITERATIONS = 100
JOINT_ROUNDS = 2
FOLDS = 5

BOUNDS = "source_only", "target_only"

PointMap = Callable[[np.ndarray], Any]


class Task(NamedTuple):
  """The data that a method may see; target labels are not among them."""

  source: Any  # `[rows, 2]`
  labels: Any  # `[rows]`, of the source
  target: Any  # `[rows, 2]`


class Lesson(NamedTuple):
  """The training data of the classifier."""

  points: np.ndarray  # `[rows, dims]`
  labels: np.ndarray  # `[rows]`
  weights: np.ndarray | None = None  # `[rows]` or None, not negative
  # From source points to inputs of the classifier.
  map_source: PointMap = np.asarray
  map_target: PointMap = np.asarray  # the same of target points


class Method(NamedTuple):
  """A method and its candidates."""

  name: str  # in tables and figures
  kind: str  # the heading of its group
  candidates: Sequence[Any]  # hyper-parameters, one of which is chosen
  learn: Callable[[Task, Any], Lesson]  # `(task, candidate) -> Lesson`


def fit(lesson: Lesson) -> Callable[[np.ndarray], np.ndarray]:
  """Trains skada-bench's classifier: scikit-learn's SVC with its defaults."""
  points, labels, weights = lesson[:3]
  classes = np.unique(labels if weights is None else labels[weights > 0])
  if len(classes) == 1:  # the SVC wants two
    return lambda points: np.full(len(points), 2.0 * classes[0] - 1)
  return SVC().fit(points, labels, sample_weight=weights).decision_function


def logits(margins: np.ndarray) -> np.ndarray:
  """Logits `[rows, 2]` whose probabilities are the sigmoid of two margins."""
  return np.stack([-margins, margins], 1).astype(np.float32)


def source_only(task: Task, candidate: Any = None) -> Lesson:
  """The lesson without any adaptation."""
  del candidate
  return Lesson(task.source, task.labels)


def _of_task(
  function: Callable[..., Any],
  *names: str,
  rows: int | None = None,
  labels: bool = False,
  **options: Any,
) -> Callable[[Task, Any], Any]:
  """Calls a function of the library with a candidate's value for each name."""

  def call(task: Task, candidate: Any) -> Any:
    points = [task.source, task.target, *([task.labels] if labels else [])]
    values = candidate if isinstance(candidate, tuple) else (candidate,)
    known = options | dict(zip(names, values, strict=True))
    return function(*(x[:rows] for x in points), **known)

  return call


_INSTANCES, _CLASSES = "instance weights", "class weights"
_MAPS, _TRANSPORT, _ITSELF = "maps", "transport", "self-training"


def _weighting(
  name: str, estimate: Any, kind: str = _INSTANCES, **options: Any
) -> Method:
  """A method that weights the rows of the source, by the rate of a kernel."""
  weights = jax.jit(_of_task(estimate, "gamma", **options))

  def learn(task: Task, candidate: Any) -> Lesson:
    return Lesson(
      task.source, task.labels, np.asarray(weights(task, candidate))
    )

  return Method(name, kind, (0.1, 1.0, 10.0), learn)


def _mapping(
  name: str,
  fit_map: Any,
  candidates: Sequence[Any] = (1, 2),
  tunes: Sequence[str] = ("num_components",),
  **options: Any,
) -> Method:
  """A method that maps both domains into one space."""
  fit_map = jax.jit(_of_task(fit_map, *tunes, **options), static_argnums=1)

  @jax.jit(static_argnames="domain")
  def apply(fitted: Any, points: jax.Array, domain: str) -> jax.Array:
    return fitted.apply(points, domain=domain)

  def learn(task: Task, candidate: Any) -> Lesson:
    fitted = fit_map(task, candidate)

    def place(domain: str) -> PointMap:
      return lambda points: np.asarray(apply(fitted, points, domain=domain))

    source = place("source")
    points = source(task.source)
    return Lesson(points, task.labels, None, source, place("target"))

  return Method(name, _MAPS, candidates, learn)


_discriminator_weights = jax.jit(reweighting.discriminator_weights)
_bbse_weights = jax.jit(reweighting.bbse_weights, static_argnames="soft")
_pada_weights = jax.jit(reweighting.pada_class_weights)


def _learn_ratio(task: Task, candidate: str) -> Lesson:
  """Weights of a logistic regression that tells the domains apart."""

  def features(points: np.ndarray) -> np.ndarray:
    if candidate == "linear":
      return points
    # The log ratio of two normal densities is quadratic.
    product = points.prod(1, keepdims=True)
    return np.concatenate([points, np.square(points), product], 1)

  weights = _discriminator_weights(features(task.source), features(task.target))
  return Lesson(task.source, task.labels, np.asarray(weights))


def _learn_shares(task: Task, candidate: str) -> Lesson:
  """Weights of classes, from predictions for both domains."""
  # The confusion must be that of rows the classifier was not trained on.
  margins = np.zeros(len(task.labels))
  folds = np.arange(len(margins)) % FOLDS
  for fold in range(FOLDS):
    out = folds == fold
    lesson = Lesson(task.source[~out], task.labels[~out])
    margins[out] = fit(lesson)(task.source[out])
  target = fit(source_only(task))(task.target)
  weights = _bbse_weights(
    logits(margins), logits(target), task.labels, soft=candidate == "soft"
  )
  return Lesson(task.source, task.labels, np.asarray(weights))


def _learn_present(task: Task, temperature: float) -> Lesson:
  """Weights of classes, from their predicted frequency in the target."""
  target = fit(source_only(task))(task.target)
  weights = _pada_weights(logits(target), task.labels, temperature=temperature)
  return Lesson(task.source, task.labels, np.asarray(weights))


@jax.jit
def _transport(
  task: Task, target_logits: jax.Array, epsilon: Any, class_weight: Any
) -> tuple[jax.Array, jax.Array]:
  """The source's points, moved by a transport plan, and their labels.

  Both follow from the gradients of DeepJDOT's loss, where the plan is fixed.
  The gradient of a source point is twice its mass times its distance from the
  mean of the points that it is sent to. The gradient of a target point's logits
  is the excess of its mass in each class, times the weight of the classes.
  """
  of_points, of_logits = jax.grad(adaptation.deepjdot_loss, (0, 3))(
    task.source,
    task.target,
    task.labels,
    target_logits,
    feature_weight=1.0,
    class_weight=class_weight,
    epsilon=epsilon,
    num_iterations=SINKHORN_ITERATIONS,
  )
  images = task.source - of_points * (len(task.source) / 2)
  excess = of_logits * (len(task.target) / class_weight)
  return images, jax.nn.softmax(target_logits) - excess


def _send(task: Task, epsilon: float) -> Lesson:
  """Source points where an entropic plan sends them."""
  undecided = jnp.zeros((len(task.target), 2))
  images = np.asarray(_transport(task, undecided, epsilon, 1.0)[0])

  def map_source(points: np.ndarray) -> np.ndarray:
    # A point that was not there goes with the nearest one that was.
    squares = np.square(points[:, None] - task.source[None]).sum(-1)
    nearest = squares.argmin(1)
    return points + (images - task.source)[nearest]

  return Lesson(images, task.labels, map_source=map_source)


def _send_labels(task: Task, class_weight: float) -> Lesson:
  """Target points with the labels that a joint plan sends to them."""
  # Logits that prefer no class leave the plan to the points.
  target_logits = np.zeros((len(task.target), 2), np.float32)
  lesson = source_only(task)
  for _ in range(JOINT_ROUNDS):
    shares = _transport(task, target_logits, 0.05, class_weight)[1]
    labels = np.asarray(shares[:, 1] > 0.5, np.int32)
    lesson = Lesson(task.target, labels)
    target_logits = logits(fit(lesson)(task.target))
  return lesson


_pseudo_labels = jax.jit(adaptation.confident_pseudo_labels)


def _teach_itself(task: Task, drop: float) -> Lesson:
  """Target points with the labels that source-only is sure of."""
  predicted = logits(fit(source_only(task))(task.target))
  labels, kept, _ = jax.device_get(_pseudo_labels(predicted, drop=drop))
  return Lesson(task.target[kept], labels[kept])


_ULSIF = reweighting.ulsif_weights
_LABELS: dict[str, Any] = {"labels": True, "num_classes": 2}
_KERNEL: dict[str, Any] = {"rows": ROWS, "kernel": "rbf"}

METHODS = {
  "kmm": _weighting("KMM", reweighting.kmm_weights),
  "kliep": _weighting("KLIEP", reweighting.kliep_weights),
  "ulsif": _weighting("uLSIF", _ULSIF, ridge=0.1, alpha=0.0),
  "rulsif": _weighting("RuLSIF", _ULSIF, ridge=0.1, alpha=0.1),
  "discriminator": Method(
    "discriminator", _INSTANCES, ("linear", "quadratic"), _learn_ratio
  ),
  "bbse": Method("BBSE", _CLASSES, ("hard", "soft"), _learn_shares),
  "pada": Method("PADA", _CLASSES, (0.1, 1.0), _learn_present),
  "tars": _weighting(
    "MMD target shift", reweighting.target_shift_weights, _CLASSES, **_LABELS
  ),
  "coral": _mapping(
    "CORAL",
    transforms.coral_transform,
    ((1e-5, False), (1e-5, True), (1.0, False), (1.0, True)),
    tunes=("ridge", "center"),
  ),
  "linear_ot": _mapping(
    "linear OT", transforms.linear_ot, (1e-6, 1.0), tunes=("ridge",)
  ),
  "subspace": _mapping("subspace alignment", transforms.subspace_alignment),
  "gfk": _mapping("GFK", transforms.gfk),
  "tca": _mapping("TCA", transforms.tca, (1, 2, 20), **_KERNEL),
  "jda": _mapping(
    "JDA (Long)",
    transforms.joint_distribution_adaptation,
    (1, 2, 20),
    **_LABELS,
    **_KERNEL,
    normalize=False,
  ),
  "ot": Method("entropic OT", _TRANSPORT, (0.02, 0.1, 0.5), _send),
  "joint_ot": Method("joint OT", _TRANSPORT, (1.0, 10.0), _send_labels),
  "self_training": Method("self-training", _ITSELF, (0.1, 0.5), _teach_itself),
}
NAMES = {name: name.replace("_", "-") for name in BOUNDS}
NAMES |= {name: method.name for name, method in METHODS.items()}
