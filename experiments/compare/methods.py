"""The requirements of each method: a teacher, views, a stage before."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from experiments.compare.data import Data
from experiments.compare.training import Lesson, Teacher
from experiments.frame import networks
from kdjax import data as kdata
from kdjax import methods as kmethods
from kdjax import training
from kdjax.training import Recipe

# The teachers of methods that do not learn from the pair's teacher.
TEACHERS = {"scratch": None, "tfkd": "scratch", "takd": "assistant"}
# RepDistiller trains the paraphraser for these students more slowly.
INITIALIZATION_RATES = {"ft": (("resnet", "wrn"), 0.01)}
# Why a method with its published weight collapses on small images.
COLLAPSES = {
  "at": "AT takes the mean over the positions of normalized maps, which is "
  "inversely proportional to their number. On maps of 8x8 to 2x2 the weight of "
  "1000, published for maps of 32x32 to 8x8, is 16 times too strong",
}
WEIGHT_DECAY = 5e-4  # of RepDistiller and of DOT
# Networks whose published learning rate is .01, not .05; and one without
# BatchNorm, which most methods kill at .05 (docs/comparison.md).
SLOW = ("mobilenet", "shufflenet", "convnet")

# Networks for small images: half of resnet8's channels; DeiT with patches of 4
# pixels, for 28x28 and 32x32; and a quarter of it with patches of 2, for 8x8.
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
  "resnet8x0.5": ("resnet8", {"channels": (8, 8, 16, 32)}),
  "deit-tiny-4": ("deit-tiny", {"patch_size": 4}),
  "deit-mini-2": ("deit-tiny", {"patch_size": 2, "width": 48, "depth": 6}),
}
# The pairs of RepDistiller's two tables.
PAIRS = {
  "same": (
    "wrn-40-2:wrn-16-2",
    "wrn-40-2:wrn-40-1",
    "resnet56:resnet20",
    "resnet110:resnet20",
    "resnet110:resnet32",
    "resnet32x4:resnet8x4",
    "vgg13:vgg8",
  ),
  "different": (
    "vgg13:mobilenetv2",
    "resnet50:mobilenetv2",
    "resnet50:vgg8",
    "resnet32x4:shufflenetv1",
    "resnet32x4:shufflenetv2",
    "wrn-40-2:shufflenetv1",
  ),
}


def method_names() -> tuple[str, ...]:
  """All methods, scratch and plain KD first."""
  names = kmethods.names("distillation")
  return tuple(dict.fromkeys(("scratch", "kd", *names)))


def make_network(
  name: str, data: Data, recipe: Recipe, dtype: str
) -> training.Network:
  """A network by name, which normalizes images as its recipe does."""
  known, options = NETWORKS.get(name, (name, {}))
  return networks.make_network(
    known,
    data.train["image"],
    data.classes,
    statistics=(recipe.mean, recipe.std),
    dtype=jnp.dtype(dtype),
    **options,
  )


def make_recipe(
  config: Any, student: str, data: Data, examples: int, epochs: int
) -> Recipe:
  """The protocol by which a network is trained."""
  if config.recipe == "function_matching":
    return training.function_matching_recipe(
      config.variant, num_examples=examples, epochs=epochs
    )
  recipe = training.cifar100_recipe(
    learning_rate=0.01 if student.startswith(SLOW) else 0.05,
    epochs=epochs,
    num_examples=examples,
  )
  if config.recipe == "cifar100":
    return recipe
  images = jax.device_get(data.train["image"])
  mean, std = map(jnp.asarray, kdata.channel_statistics(images))

  def augment(key, images):
    crop_key, flip_key = jax.random.split(key)
    if config.shift:
      images = kdata.random_crop(crop_key, images, padding=config.shift)
    return kdata.random_flip(flip_key, images) if config.flip else images

  return recipe._replace(augment=augment, mean=mean, std=std)


class Course(NamedTuple):
  """The lessons of a method, one after the other."""

  lesson: Lesson  # the last one, which is measured
  initialization: Lesson | None  # the one before, or None


def make_course(
  method: str,
  name: str,
  network: training.Network,
  recipe: Recipe,
  teacher: Teacher | None,
  *,
  epochs: int,
  labels: Any,
  pair: tuple[str, str] | None = None,
  patient: bool = False,
) -> Course:
  """Looks up the needs of a method; function matching is the patient recipe."""
  row = kmethods.describe(method)
  if (method == "function_matching") != patient:
    recipe = recipe._replace(augment=(_sharp if patient else _blended)(recipe))
  steps = -(-len(labels) // recipe.batch_size)
  sizes = {"num_examples": len(labels), "steps_per_epoch": steps}
  own = patient and method == "function_matching"
  options: Any = {"temperature": recipe.temperature} if own else {}
  if method == "dot":
    options["weight_decay"] = WEIGHT_DECAY
  whole = kmethods.create(method, pair=pair, labels=labels, **sizes, **options)
  last, guide = whole._replace(before={}), teacher
  optimizer = recipe.optimizer
  if method == "dot":  # which has the momenta and the weight decay itself
    optimizer = optax.sgd(recipe.schedule)
  if not (row.make or row.kd):
    # After a stage that is all the method is, labels alone teach.
    alone = kmethods.create("scratch")
    last, guide = last._replace(passes=alone.passes, needs=alone.needs), None
  how = last, recipe, optimizer, epochs
  lesson = Lesson(name, network, *how, guide, row.views)
  if not whole.before:
    return Course(lesson, None)
  (stage,) = whole.before.values()
  slow, rate = INITIALIZATION_RATES.get(method, ((), 0.0))
  rate = rate if name.startswith(slow) else recipe.schedule(0)
  sgd = optax.sgd(rate, momentum=0.9)
  decayed = optax.chain(optax.add_decayed_weights(WEIGHT_DECAY), sgd)
  first = lesson._replace(
    method=stage,
    optimizer=_where_it_learns(decayed),
    epochs=row.initialization_epochs,
    teacher=teacher,
    views=(),
  )
  return Course(lesson, first)


def _where_it_learns(optimizer: Any) -> optax.GradientTransformation:
  """Leaves parameters without a gradient alone; weight decay would shrink them.

  RepDistiller's first stages do not train the classifier.
  """

  def where_it_learns(move, gradient):
    return jnp.where(jnp.any(gradient != 0), move, 0)

  def update(updates, state, params=None):
    moves, state = optimizer.update(updates, state, params)
    return jax.tree.map(where_it_learns, moves, updates), state

  return optax.GradientTransformation(optimizer.init, update)


def _blended(recipe: Recipe) -> Callable[..., Any]:
  """Function matching blends images; it reads no label."""

  def augment(key, images):
    images = recipe.augment(key, images).astype(jnp.float32)
    key = jax.random.fold_in(key, 0)
    return kdata.mixup(key, images, jnp.zeros((len(images), 1)))[0]

  return augment


def _sharp(recipe: Recipe) -> Callable[..., Any]:
  """The same crops and flips, not blended, for methods that read labels."""

  def augment(key, images):
    shape = jax.eval_shape(recipe.augment, key, images).shape
    crop_key, flip_key, _ = jax.random.split(key, 3)
    images = kdata.random_resized_crop(crop_key, images, shape[1:3])
    return kdata.random_flip(flip_key, images)

  return augment
