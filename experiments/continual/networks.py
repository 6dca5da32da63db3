"""The students' networks, their heads, and the entries of their states."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from kdjax import continual, nets, training
from kdjax.ops import unit_vectors

# Methods whose logits are cosines of embeddings and class weights, scaled.
COSINE = ("lucir", "podnet")
CHANNELS = (8, 16, 32)  # of the convolutions of `--network convnet`


class Setting(NamedTuple):
  """The sizes on which the programs of a stream depend."""

  hidden: tuple[int, ...]
  shape: tuple[int, int, int]  # of an image
  classes: int
  task_classes: int  # of a task
  buffer: int
  network: str = "mlp"


def make_network(setting: Setting, method: str = "") -> training.Network:
  """The network of a method, for images in [0, 1].

  The perceptron is mammoth's: Xavier's kernels, no biases. The state marks the
  classes that the network answers with; others have -inf. A cosine classifier
  keeps the weights of its past classes and reads embeddings of both signs, as
  the authors' do. BiC's network corrects the logits of the new classes by the
  two numbers in its state.
  """

  def build(rngs: nnx.Rngs) -> nnx.Module:
    shape = setting.shape
    if setting.network == "convnet":
      return nets.ConvNet(
        setting.classes,
        input_shape=shape,
        channels=CHANNELS,
        hidden=setting.hidden[-1],
        rngs=rngs,
      )
    return nets.MLP(
      setting.classes, input_shape=shape, hidden=setting.hidden, rngs=rngs
    )

  plain = training.Network.of(
    build, preprocess=lambda images: images.astype(jnp.float32) / 255
  )
  xavier = nnx.initializers.glorot_uniform()

  def init(key: jax.Array) -> training.Variables:
    params, state = plain.init(key)
    none = jnp.zeros(setting.classes)
    marks = {"plain": state, "answers": jnp.ones(setting.classes)}
    if setting.network == "mlp":
      leaves, structure = jax.tree.flatten(params)
      drawn = [
        xavier(jax.random.fold_in(key, i), x.shape, x.dtype)
        if x.ndim == 2
        else jnp.zeros_like(x)
        for i, x in enumerate(leaves)
      ]
      params = jax.tree.unflatten(structure, drawn)
    if method in COSINE:
      params = params | {"cosine_scale": jnp.ones(())}
      marks["past_classes"] = none
    elif method == "bic":
      marks |= {"new_classes": none, **correction(1.0, 0.0)}
    return training.Variables(params, marks)

  def forward(variables, inputs, *, train, key):
    params, marks = dict(variables.params), variables.state
    scale = params.pop("cosine_scale", None)
    own = training.Variables(params, marks["plain"])
    outputs, _ = plain.forward(own, inputs, train=train, key=key)
    if scale is not None:
      head: Any = outputs.classifier
      kernel, bias = head
      kept = jax.lax.stop_gradient(kernel)
      kernel = jnp.where(marks["past_classes"] > 0.5, kept, kernel)
      embedding = before_last_relu(outputs, params)
      outputs = outputs._replace(
        logits=scale * cosines(embedding, kernel),
        embedding=embedding,
        classifier=(kernel, bias),
      )
    if "bias_scale" in marks:
      logits = continual.bic_logits(
        outputs.logits,
        marks["new_classes"] > 0.5,
        scale=marks["bias_scale"],
        shift=marks["bias_shift"],
      )
      outputs = outputs._replace(logits=logits)
    open_ = marks["answers"] > 0.5
    logits = jnp.where(open_, outputs.logits, -jnp.inf)
    return outputs._replace(logits=logits), marks

  return training.Network(init, forward)


def before_last_relu(outputs: nets.Outputs, params: Any) -> jax.Array:
  """The embedding before its ReLU, which a `nets.ConvNet` does not return."""
  if "hidden" not in params:
    values: Any = outputs.preactivations
    return values[max(values)]
  maps = outputs.features[max(outputs.features)]
  rows = nnx.max_pool(maps, (2, 2), (2, 2)).reshape(len(maps), -1)
  hidden = params["hidden"]
  return rows @ hidden["kernel"] + hidden["bias"][None]


def cosines(embeddings: jax.Array, kernel: jax.Array) -> jax.Array:
  """Cosines `[batch, classes]` of embeddings and the columns of a kernel."""
  return unit_vectors(embeddings) @ unit_vectors(kernel.T).T


def correction(scale: Any, shift: Any) -> dict[str, jax.Array]:
  """The two numbers of BiC, as entries of the network's state."""
  pair = {"bias_scale": scale, "bias_shift": shift}
  return {k: jnp.asarray(x, jnp.float32) for k, x in pair.items()}


def put(tree: Any, **values: Any) -> Any:
  """Nested dictionaries with the entries of these names replaced."""
  if not isinstance(tree, dict):
    return tree
  return {k: values.get(k, put(v, **values)) for k, v in tree.items()}


def put_state(state: training.TrainState, **values: Any) -> training.TrainState:
  """The train state with entries of the network and objective replaced."""
  return state._replace(state=put(state.state, **values))


def put_weights(tree: Any, **weights: Any) -> Any:
  """Nested dictionaries in which parts of an objective weigh otherwise."""
  if not isinstance(tree, dict):
    return tree
  tree = {k: put_weights(v, **weights) for k, v in tree.items()}
  if "weights" in tree:
    known = {k: x for k, x in weights.items() if k in tree["weights"]}
    tree["weights"] = tree["weights"] | known
  return tree


def find(tree: Any, name: str) -> Any:
  """The first entry of this name in nested dictionaries."""
  if isinstance(tree, dict):
    if name in tree:
      return tree[name]
    found = (find(branch, name) for branch in tree.values())
    return next((x for x in found if x is not None), None)
  return None
