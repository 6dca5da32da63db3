"""The methods by task: those of the library, and the rows beside them."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from experiments.cross_modal import captions
from experiments.frame import networks
from kdjax import methods as kmethods
from kdjax import nets, training

TASKS = {
  "gaussians": "Gaussians whose two modalities share dimensions",
  "halves": "left half to right half of digits",
  "spoken": "images of digits to the sound of their names",
  "captions": "images and captions, by the two towers of CLIP",
}
SCRATCH, ALL = "scratch", "all_pairs"
# KD from a teacher of the student's own modality, and KD from the other
# modality on all pairs without any label.
OWN, UNLABELED = "own_modality", "unlabeled_pairs"
KNOWN = {x: kmethods.describe(x) for x in kmethods.names("cross_modal")}
TAUGHT = tuple(x for x, row in KNOWN.items() if row.networks == ("teacher",))
TOWERS = tuple(x for x, row in KNOWN.items() if "teacher_image" in row.networks)
METHODS = (*TAUGHT, UNLABELED, OWN, *TOWERS)
NAMES = {name: KNOWN[name].title for name in (*TAUGHT, *TOWERS)}
NAMES |= {
  "teacher": "teacher",
  SCRATCH: "from scratch",
  UNLABELED: "KD on all pairs, no labels",
  OWN: "KD within the modality",
  ALL: "all pairs with labels",
}
DIMS = {"teacher": 64, "student": 32}  # of the embeddings of towers


def describe() -> dict[str, tuple[str, str]]:
  """The area and the summary of each method, for `--methods help`."""
  kinds = {
    name: ("towers" if name in TOWERS else "pairs", KNOWN[name].summary)
    for name in (*TAUGHT, *TOWERS)
  }
  kinds[UNLABELED] = ("pairs", "cross-modal KD alone, on all pairs")
  kinds[OWN] = ("pairs", "KD from a teacher of the student's own modality")
  return {name: kinds[name] for name in METHODS}


def chosen(config: Any, task: str) -> list[str]:
  """The methods of a task, in their order."""
  own = TOWERS if task == "captions" else METHODS[: -len(TOWERS)]
  return [name for name in config.methods if name in own]


def classifier(rows: Any, units: tuple[int, ...]) -> training.Network:
  """A perceptron of a modality like `rows`."""
  return networks.make_network("mlp", rows, 10, hidden=units)


def towers(config: Any, images: Any, kind: str) -> dict[str, training.Network]:
  """The towers of the teacher or of the student."""
  units = config.teacher_hidden if kind == "teacher" else config.hidden
  shape = 1, captions.LENGTH, len(captions.VOCABULARY)

  # The classifier's place is taken by the map to the common space.
  def with_map(body: training.Network) -> training.Network:
    def forward(variables: Any, inputs: Any, **options: Any) -> Any:
      outputs, state = body.forward(variables, inputs, **options)
      return outputs._replace(embedding=outputs.logits), state

    return training.Network(body.init, forward)

  options: Any = {"num_classes": DIMS[kind], "hidden": units}
  text = training.Network.of(
    lambda rngs: nets.create("mlp", input_shape=shape, rngs=rngs, **options),
    preprocess=lambda tokens: jax.nn.one_hot(tokens, shape[-1])[:, None],
  )
  image = networks.make_network("mlp", images, DIMS[kind], hidden=units)
  return {"image": with_map(image), "text": with_map(text)}


def optimizer(config: Any) -> optax.GradientTransformation:
  """Adam at a constant rate."""
  return optax.adam(config.learning_rate)


def teach(
  config: Any,
  student: training.Network,
  name: str = SCRATCH,
  teacher: training.Network | None = None,
  *,
  on: str = "b",
) -> training.Learner:
  """A classifier of a modality, with or without a teacher of a modality."""
  known = "cross_modal_kd" if name in (OWN, UNLABELED) else name
  return training.distill(
    student,
    teacher,
    kmethods.create(known),
    optimizer(config),
    on={"student": on, "teacher": "b" if name == OWN else "a"},
  )


def join(
  config: Any,
  students: dict[str, training.Network],
  name: str = "clip",
  teachers: dict[str, training.Network] | None = None,
) -> training.Learner:
  """The towers of a student, with or without those of a teacher."""
  return training.align(
    students, kmethods.create(name), optimizer(config), teachers=teachers
  )


def teacher_scale(params: Any) -> jax.Array:
  """The scale of a trained CLIP's cosines."""
  return jnp.minimum(jnp.exp(params["objective"]["clip"]["log_scale"]), 100.0)
