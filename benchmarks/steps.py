"""Times whole train steps: distillation on CIFAR's shape, and a small CNN.

  python -m benchmarks.steps

A call is a scan over some steps, each with a batch of its own; times are those
of one step. The floor is that of the operations of the teacher's forward pass
and three of the student's, by XLA's count, at the rate of a large product. A
distillation step should cost little more than its parts: "apart" has the
teacher's passes and the student's steps on labels one after the other.
"""

import argparse
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from benchmarks import _frame, _torch_training
from benchmarks._measure import Case, Program, import_torch
from kdjax import nets, training
from kdjax.methods import create, stateless

# batches of the pair and of the CNN, and steps of a call
SHAPES = {
  "tiny": {"pair": [2], "cnn": [4], "steps": 2},
  "cpu": {"pair": [16, 64], "cnn": [32, 128], "steps": 4},
  "gpu": {"pair": [64, 256, 1024], "cnn": [128, 1024], "steps": 50},
}
CHANNELS, HIDDEN = (32, 64, 128), 64
LABELS = stateless(
  optax.softmax_cross_entropy_with_integer_labels,
  ("student_logits", "labels"),
)


def make_cases(flags: argparse.Namespace) -> list[Case]:
  """Builds the cases of one size."""
  shapes = SHAPES[flags.size]
  dtype, steps = jnp.dtype(flags.dtype), shapes["steps"]
  teacher = "resnet8x4" if flags.size == "tiny" else "resnet32x4"
  return [
    *(pair_case(n, steps, dtype, teacher) for n in shapes["pair"]),
    *(cnn_case(n, steps, dtype) for n in shapes["cnn"]),
  ]


def pair_case(
  batch: int, steps: int, dtype: jnp.dtype, teacher_name: str
) -> Case:
  """Knowledge distillation of the published pair in the published recipe."""
  shape, classes = (32, 32, 3), 100
  recipe = training.cifar100_recipe()
  teacher, student = (
    make_network(name, shape, classes, dtype)
    for name in (teacher_name, "resnet8x4")
  )

  def sgd(parameters: Any) -> Any:
    return import_torch().optim.SGD(
      parameters, lr=0.05, momentum=0.9, weight_decay=5e-4
    )

  learner = training.distill(student, teacher, create("kd"), recipe.optimizer)
  supervised = training.distill(student, None, LABELS, recipe.optimizer)
  example = example_of(shape, dtype)
  state, labelled = (
    x.init(jax.random.key(0), example) for x in (learner, supervised)
  )
  frozen = learner.frozen

  def teach(frozen: Any, images: Any) -> Any:
    outputs, _ = teacher.forward(
      frozen["teacher"], images, train=False, key=None
    )
    return outputs.logits

  def apart(state: Any, frozen: Any, images: Any, labels: Any) -> Any:
    answers = jax.lax.map(lambda x: teach(frozen, x), images)
    return answers, over_batches(supervised.step)(state, {}, images, labels)

  def by_hand(state: Any, frozen: Any, images: Any, labels: Any) -> Any:
    """The formulas written out, without the library's losses and steps."""

    def loss_fn(params: Any, batch_state: Any, x: Any, y: Any) -> Any:
      variables = training.Variables(params, batch_state)
      outputs, moved = student.forward(variables, x, train=True, key=None)
      log_p = jax.nn.log_softmax(teach(frozen, x) / 4)
      log_q = jax.nn.log_softmax(outputs.logits / 4)
      soft = 16 * jnp.sum(jnp.exp(log_p) * (log_p - log_q), -1)
      log_q = jax.nn.log_softmax(outputs.logits)
      hard = -jnp.take_along_axis(log_q, y[:, None], 1)[:, 0]
      return jnp.mean(0.9 * soft + 0.1 * hard), moved

    def body(carry: Any, batch: Any) -> Any:
      params, batch_state, velocity = carry
      (loss, batch_state), gradient = jax.value_and_grad(loss_fn, has_aux=True)(
        params, batch_state, *batch
      )
      velocity = jax.tree.map(
        lambda v, g, p: 0.9 * v + g + 5e-4 * p, velocity, gradient, params
      )
      params = jax.tree.map(lambda p, v: p - 0.05 * v, params, velocity)
      return (params, batch_state, velocity), loss

    return jax.lax.scan(body, state, (images, labels))

  params, batch_state = student.variables
  zeros = jax.tree.map(jnp.zeros_like, params)
  return Case(
    f"{teacher_name} to resnet8x4",
    f"batch {batch}",
    batch,
    "batch",
    lambda: draw_batches(steps, batch, shape, classes),
    {
      "kdjax": Program(over_batches(learner.step), (state, frozen)),
      "kdjax, apart": Program(apart, (labelled, frozen)),
      "by hand, same networks": Program(
        by_hand, ((params, batch_state, zeros), frozen)
      ),
    },
    _torch_training.peers(
      lambda: _torch_training.resnet("resnet8x4", classes),
      sgd,
      lambda: _torch_training.resnet(teacher_name, classes),
    ),
    0,
    operations=batch
    * (operations(teacher, shape) + 3 * operations(student, shape)),
    steps=steps,
  )


def cnn_case(batch: int, steps: int, dtype: jnp.dtype) -> Case:
  """A CNN on labels, with Adam."""
  shape, classes = (28, 28, 1), 10
  model = make_network(
    "convnet", shape, classes, dtype, channels=CHANNELS, hidden=HIDDEN
  )
  learner = training.distill(model, None, LABELS, optax.adam(1e-3))
  state = learner.init(jax.random.key(0), example_of(shape, dtype))
  return Case(
    "CNN 32-64-128, Adam",
    f"batch {batch}",
    batch,
    "batch",
    lambda: draw_batches(steps, batch, shape, classes),
    {"kdjax": Program(over_batches(learner.step), (state, {}))},
    _torch_training.peers(
      lambda: _torch_training.convnet(CHANNELS, HIDDEN, classes, shape[0]),
      lambda parameters: import_torch().optim.Adam(parameters, 1e-3),
    ),
    0,
    operations=3 * batch * operations(model, shape),
    steps=steps,
  )


def make_network(
  name: str,
  shape: tuple[int, int, int],
  classes: int,
  dtype: jnp.dtype,
  **options: Any,
) -> training.Model:
  """Builds a network of the library, compiled: eagerly it takes seconds."""

  @nnx.jit
  def build() -> nnx.Module:
    return nets.create(
      name,
      input_shape=shape,
      num_classes=classes,
      dtype=dtype,
      rngs=nnx.Rngs(0),
      **options,
    )

  return training.from_nnx(build())


def example_of(shape: tuple[int, ...], dtype: jnp.dtype) -> dict[str, Any]:
  """Returns the shapes of a batch."""
  return {
    "image": jax.ShapeDtypeStruct((1, *shape), dtype),
    "label": jax.ShapeDtypeStruct((1,), jnp.int32),
    "mask": jax.ShapeDtypeStruct((1,), jnp.bool_),
  }


def draw_batches(
  steps: int, batch: int, shape: tuple[int, ...], classes: int
) -> tuple[jax.Array, jax.Array]:
  """Draws `[steps, batch, ...]` images and labels."""
  keys = jax.random.split(jax.random.key(1))
  return (
    jax.random.normal(keys[0], (steps, batch, *shape)),
    jax.random.randint(keys[1], (steps, batch), 0, classes),
  )


def over_batches(step: Callable[..., Any]) -> Callable[..., Any]:
  """Returns `run(state, frozen, images, labels) -> state, metrics`."""

  def run(state: Any, frozen: Any, images: Any, labels: Any) -> Any:
    def body(state: Any, batch: Any) -> Any:
      mask = jnp.ones(batch["label"].shape, bool)
      return step(state, frozen, batch | {"mask": mask}, jax.random.key(0))

    return jax.lax.scan(body, state, {"image": images, "label": labels})

  return run


def operations(model: training.Model, shape: tuple[int, ...]) -> float:
  """Returns the operations of a forward pass of one image, as XLA counts."""
  lowered = jax.jit(
    lambda variables, x: model.forward(variables, x, train=False, key=None)
  ).lower(model.variables, jax.ShapeDtypeStruct((1, *shape), jnp.float32))
  return (lowered.cost_analysis() or {}).get("flops", 0.0)


if __name__ == "__main__":
  _frame.run(make_cases, __doc__.splitlines()[0])
