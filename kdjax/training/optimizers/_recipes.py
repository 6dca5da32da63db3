"""Training protocols that published numbers come from, number by number."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from kdjax import data, ops


class Recipe(NamedTuple):
  """Recipe: the training of a student and its images.

  Attributes:
    batch_size: examples in a batch.
    total_steps: updates in all.
    schedule: the learning rate at a step.
    optimizer: an Optax optimizer with that schedule.
    augment: `(key, images) -> images`, of images in 0..255.
    mean: `[channels]`, for `kdjax.data.normalize` after it, in 0..255.
    std: `[channels]`, likewise.
    temperature: of the soft-target loss.

  References:
    The configurations of `big_vision
    <https://github.com/google-research/big_vision>`_.
  """

  batch_size: int
  total_steps: int
  schedule: Callable[[Any], Any]
  optimizer: optax.GradientTransformation
  augment: Callable[[Array, Any], Any]
  mean: Array
  std: Array
  temperature: float


def cifar100_recipe(
  *,
  learning_rate: float = 0.05,
  epochs: int = 240,
  num_examples: int = 50_000,
) -> Recipe:
  """CIFAR-100 protocol of RepDistiller, and of nearly all papers after it.

  Batches of 64, the last of an epoch with the rest; SGD, momentum .9, no
  Nesterov; weight decay 5e-4 on all parameters, the objective's included,
  added to the gradient; the learning rate times .1 after epochs 150, 180 and
  210; images shifted by up to 4 pixels and flipped.

  `kdjax.data.batches` and `epoch_plan` keep the last 16 examples in a
  batch of 64 whose other rows are masked: they weigh as in the published code,
  and only a batch normalization sees the padding, which is real images.

  Args:
    learning_rate: .05; .01 for MobileNetV2 and the ShuffleNets.
    epochs: 240; of another number the learning rate drops after the same
      parts.
    num_examples: of the training set.

  Returns:
    A `Recipe`; mean and deviation are those of CIFAR-100.

  Raises:
    TypeError: if epochs or num_examples is no integer.
    ValueError: if one is not positive.

  Examples:
    >>> recipe = cifar100_recipe()
    >>> recipe.total_steps, float(recipe.schedule(782 * 150 - 1))
    (187680, 0.05...)

  References:
    Tian et al., `Contrastive representation distillation
    <https://arxiv.org/abs/1910.10699>`_, 2020; `RepDistiller
    <https://github.com/HobbitLong/RepDistiller>`_, train_student.py and
    dataset/cifar100.py.
  """
  batch_size, momentum, weight_decay = 64, 0.9, 5e-4
  drops, factor = (150 / 240, 180 / 240, 210 / 240), 0.1
  mean, std = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
  padding, temperature = 4, 4.0

  ops.check_integer("epochs", epochs, 1)
  ops.check_integer("num_examples", num_examples, 1)
  steps = -(-num_examples // batch_size)
  schedule = optax.piecewise_constant_schedule(
    learning_rate, {steps * round(drop * epochs): factor for drop in drops}
  )

  def augment(key: Array, images: Any) -> Array:
    crop_key, flip_key = jax.random.split(key)
    images = data.random_crop(crop_key, images, padding=padding)
    return data.random_flip(flip_key, images)

  return Recipe(
    batch_size=batch_size,
    total_steps=steps * epochs,
    schedule=schedule,
    optimizer=optax.chain(
      optax.add_decayed_weights(weight_decay), optax.sgd(schedule, momentum)
    ),
    augment=augment,
    mean=255 * jnp.array(mean),
    std=255 * jnp.array(std),
    temperature=temperature,
  )


# Epochs, learning rate, weight decay, temperature, warm-up steps, batch size
# and image side, from bit_i1k.py, bigsweep_flowers_pet.py and
# bigsweep_food_sun.py of big_vision's configs/proj/distill.
_FUNCTION_MATCHING = {
  "imagenet": (1_200, 0.03, 3e-4, 1.0, 5_000, 4_096, 224),
  "flowers/fast": (10_000, 0.003, 3e-4, 10.0, 1_500, 512, 128),
  "flowers/medium": (100_000, 0.001, 1e-4, 1.0, 1_500, 512, 128),
  "flowers/long": (1_000_000, 0.0003, 1e-5, 1.0, 1_500, 512, 128),
  "pet/fast": (1_000, 0.01, 1e-3, 5.0, 1_500, 512, 128),
  "pet/medium": (3_000, 0.003, 3e-4, 10.0, 1_500, 512, 128),
  "pet/long": (30_000, 0.003, 1e-5, 2.0, 1_500, 512, 128),
  "food/fast": (100, 0.01, 1e-3, 10.0, 1_500, 512, 128),
  "food/medium": (1_000, 0.001, 3e-4, 10.0, 1_500, 512, 128),
  "food/long": (3_000, 0.01, 1e-4, 5.0, 1_500, 512, 128),
  "sun/fast": (100, 0.01, 1e-3, 10.0, 1_500, 512, 128),
  "sun/medium": (1_000, 0.001, 1e-4, 10.0, 1_500, 512, 128),
  "sun/long": (3_000, 0.01, 3e-5, 10.0, 1_500, 512, 128),
}


def function_matching_recipe(
  variant: str, *, num_examples: int, epochs: int | None = None
) -> Recipe:
  """Function matching: one view for both, no labels, and much patience.

  The loss is the soft-target loss at the recipe's temperature alone, without
  cross-entropy. Adam with its first moment in bfloat16; gradients clipped to
  norm 1; weight decay on kernels, times the schedule but not times the learning
  rate; linear warm-up, then a cosine to zero. Inception crops are flipped, and
  blended by mixup with one ratio for the batch, uniform in 0..1.

  Args:
    variant: `"imagenet"`, or `"flowers"`, `"pet"`, `"food"` or `"sun"` with
      `"/fast"`, `"/medium"` or `"/long"`.
    num_examples: of the training set: 1,020 of flowers, 98 % of ImageNet's.
    epochs: other than the variant's.

  Returns:
    A `Recipe`. Its schedule starts at 0.

  Raises:
    ValueError: for an unknown variant, or if training ends in the warm-up.

  Examples:
    >>> recipe = function_matching_recipe("flowers/fast", num_examples=1020)
    >>> recipe.total_steps, float(recipe.schedule(1500)), recipe.temperature
    (19922, 0.003..., 10.0)

  References:
    Beyer et al., `Knowledge distillation: a good teacher is patient and
    consistent <https://arxiv.org/abs/2106.05237>`_, 2021; `big_vision
    <https://github.com/google-research/big_vision>`_, configs/proj/distill.
  """
  ops.check_choice("variant", variant, tuple(_FUNCTION_MATCHING))
  most, rate, weight_decay, temperature, warmup, batch_size, side = (
    _FUNCTION_MATCHING[variant]
  )
  steps = round((epochs or most) * num_examples / batch_size)
  if steps <= warmup:
    raise ValueError(
      f"epochs and num_examples make {steps} steps of {batch_size} examples; "
      f"expected more than the {warmup} of the warm-up."
    )
  schedule = optax.warmup_cosine_decay_schedule(0.0, rate, warmup, steps)

  def kernels(params: Any) -> Any:
    return jax.tree_util.tree_map_with_path(
      lambda path, _: getattr(path[-1], "key", None) == "kernel", params
    )

  def augment(key: Array, images: Any) -> Array:
    crop_key, flip_key, mixup_key = jax.random.split(key, 3)
    images = data.random_resized_crop(crop_key, images, (side, side))
    images = data.random_flip(flip_key, images).astype(jnp.float32)
    return data.mixup(mixup_key, images, jnp.zeros((len(images), 1)))[0]

  return Recipe(
    batch_size=batch_size,
    total_steps=steps,
    schedule=schedule,
    optimizer=optax.chain(
      optax.clip_by_global_norm(1.0),
      optax.scale_by_adam(mu_dtype=jnp.bfloat16),
      # The schedule multiplies both, so the decay is divided by its peak.
      optax.add_decayed_weights(weight_decay / rate, kernels),
      optax.scale_by_learning_rate(schedule),
    ),
    augment=augment,
    mean=jnp.full(3, 127.5),
    std=jnp.full(3, 127.5),
    temperature=temperature,
  )
