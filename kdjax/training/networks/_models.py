"""A network as one pure function; the module system ends here."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import linen, nnx
from jaxtyping import Array

from kdjax import nets


class Variables(NamedTuple):
  """Variables: all arrays of a network.

  Attributes:
    params: the arrays that are trained.
    state: the arrays that a forward pass changes, such as batch statistics; a
      pytree, empty if there is none.

  References:
    `Flax variable collections
    <https://flax.readthedocs.io/en/latest/glossary.html>`_.
  """

  params: Any
  state: Any


@runtime_checkable
class Forward(Protocol):
  """Forward: the one function type by which a network is known.

  Attributes:
    __call__: `forward(variables, inputs, *, train, key, axis_name=None) ->
      Outputs, state`. `train` is a Python bool. Without a key nothing is
      random. In evaluation the state comes back unchanged. `axis_name` is the
      mapped axis that holds the rest of the batch, over which batch statistics
      are averaged; a network without state need not have the parameter.

  References:
    The `RecurrentFn` of `mctx <https://github.com/google-deepmind/mctx>`_.
  """

  def __call__(
    self, variables: Variables, inputs: Any, *, train: bool, key: Array | None
  ) -> tuple[nets.Outputs, Any]: ...


class Model(NamedTuple):
  """Model: a network's function and its variables.

  A network that is a plain function of a pytree is one too:
  `Model(forward, Variables(params, {}))`.

  Attributes:
    forward: a `Forward`.
    variables: its `Variables`.

  References:
    The (init, apply) pairs of Haiku and Flax.
  """

  forward: Forward
  variables: Variables

  def __repr__(self) -> str:
    leaves = jax.tree.leaves(self.variables.params)
    return f"Model({sum(getattr(x, 'size', 1) for x in leaves):,} parameters)"


# Its function is no array: where variables are expected, a model passes through
# `jax.jit`, and the library explains the error.
jax.tree_util.register_pytree_node(
  Model,
  lambda model: ((model.variables,), model.forward),
  lambda forward, children: Model(forward, *children),
)


class Network(NamedTuple):
  """Network: a function and its initialization, without weights.

  Attributes:
    init: `init(key) -> Variables`, which may be traced and mapped over keys.
    forward: a `Forward`.
    build: `build(rngs) -> nnx.Module`, of which `of` made the network; None if
      it has no module.
    preprocess: applied to the inputs before the module; or None.

  Examples:
    >>> from kdjax import nets
    >>> network = Network.of(
    ...   lambda rngs: nets.create(
    ...     "mlp", input_shape=(8, 8, 1), num_classes=10, rngs=rngs
    ...   )
    ... )
    >>> variables = jax.vmap(network.init)(jax.random.split(jax.random.key(0)))
    >>> jax.tree.leaves(variables.params)[0].shape[0]  # of two students
    2

  References:
    The (init, apply) pairs of Haiku and Flax.
  """

  init: Callable[[Array], Variables]
  forward: Forward
  build: Callable[[nnx.Rngs], nnx.Module] | None = None
  preprocess: Callable[[Any], Any] | None = None

  @classmethod
  def of(
    cls,
    build: Callable[[nnx.Rngs], nnx.Module],
    *,
    preprocess: Callable[[Any], Any] | None = None,
  ) -> "Network":
    """Network of an NNX module, which is built anew for each key.

    Args:
      build: `build(rngs) -> nnx.Module`.
      preprocess: applied to the inputs before the module, such as a
        normalization of images.

    Returns:
      A `Network`.

    Raises:
      TypeError: if `build` returns no NNX module.
    """
    forward = from_nnx(nnx.eval_shape(lambda: build(nnx.Rngs(0)))).forward
    if preprocess is not None:
      forward = _after(preprocess, forward)

    def init(key: Array) -> Variables:
      return from_nnx(build(nnx.Rngs(key))).variables

    return cls(init, forward, build, preprocess)

  def changed(self, change: Callable[[Any], nnx.Module]) -> "Network":
    """The network of the changed module, such as one with other layers.

    Args:
      change: `change(module) -> module`.

    Returns:
      A `Network`.

    Raises:
      TypeError: if the network was not made by `Network.of`.
    """
    build = self.build
    if build is None:
      raise TypeError(
        "Network.changed: the network has no build; expected one that "
        "Network.of(build) returns."
      )
    return Network.of(
      lambda rngs: change(build(rngs)), preprocess=self.preprocess
    )


def _after(preprocess: Callable[[Any], Any], forward: Forward) -> Forward:
  """The forward of preprocessed inputs."""

  def preprocessed(
    variables: Variables,
    inputs: Any,
    *,
    train: bool,
    key: Array | None,
    axis_name: str | None = None,
  ) -> tuple[nets.Outputs, Any]:
    return run_forward(
      "the network",
      forward,
      variables,
      preprocess(inputs),
      train=train,
      key=key,
      axis_name=axis_name,
    )

  return preprocessed


def as_network(name: str, value: Any) -> Network:
  """Returns a user's network as a `Network`, or raises TypeError."""
  if isinstance(value, Network):
    return value
  if isinstance(value, nnx.Module):
    value = from_nnx(value)
  if isinstance(value, linen.Module):
    raise TypeError(
      f"{name} is a Linen module without variables; expected "
      "training.from_linen(module, module.init(key, inputs))."
    )
  if not isinstance(value, Model):
    raise TypeError(
      f"{name} is a {type(value).__name__}; expected an nnx.Module, a Model "
      "(training.from_linen makes one of a Linen module) or a Network."
    )
  check_forward(f"{name}.forward", value.forward)
  variables = value.variables
  return Network(lambda key: variables, value.forward)


def check_forward(name: str, value: Any) -> None:
  """Raises TypeError unless it may be a forward; a module can be called too."""
  if isinstance(value, nnx.Module | linen.Module) or not callable(value):
    raise TypeError(
      f"{name} is a {type(value).__name__}; expected a Model's forward, that "
      "is forward(variables, inputs, *, train, key)."
    )


def check_model(name: str, value: Any) -> None:
  """Raises TypeError unless it is a network's function and its variables."""
  if not isinstance(value, Model):
    raise TypeError(
      f"{name} is a {type(value).__name__}; expected a Model, as from_nnx and "
      "from_linen return."
    )
  check_forward(f"{name}.forward", value.forward)


def run_forward(
  name: str,
  forward: Forward,
  variables: Any,
  inputs: Any,
  *,
  train: bool = False,
  key: Array | None = None,
  axis_name: str | None = None,
) -> tuple[nets.Outputs, Any]:
  """Runs a network, which a user may have written."""
  options: dict[str, Any] = {"train": train, "key": key}
  if axis_name is not None and train:
    if takes_axis_name(forward):
      options["axis_name"] = axis_name
    elif jax.tree.leaves(variables.state):
      raise ValueError(
        f"{name} has a state, and its forward takes no axis_name; expected "
        "forward(variables, inputs, *, train, key, axis_name=None), which "
        f"averages batch statistics over the axis {axis_name!r}."
      )
  result = forward(variables, inputs, **options)
  pair = isinstance(result, tuple) and len(result) == 2
  if not pair or not isinstance(result[0], nets.Outputs):
    kinds = ", ".join(type(x).__name__ for x in (result if pair else (result,)))
    raise TypeError(
      f"{name} returned {kinds}; expected (Outputs, state), as a Forward does."
    )
  return result


def takes_axis_name(function: Callable[..., Any]) -> bool:
  """Whether a function has the parameter `axis_name`."""
  try:
    parameters = inspect.signature(function).parameters
  except (TypeError, ValueError):  # compiled, or built in
    return False
  kinds = {p.kind for p in parameters.values()}
  return "axis_name" in parameters or inspect.Parameter.VAR_KEYWORD in kinds


def from_nnx(model: nnx.Module) -> Model:
  """Model from a Flax NNX module.

  The variables are nested dictionaries of arrays, and the module itself is
  never changed. Random streams (dropout) are no part of the variables: each
  gets a key of its own from the forward's `key`.

  Args:
    model: a module that maps inputs to `Outputs` or to plain logits.
      `model.train()` and `model.eval()` set the mode.

  Returns:
    A `Model`. Its forward raises ValueError for training without a
    key if the module has random streams, and for another network's variables;
    TypeError if it is given no `Variables`, or if the module returns
    neither `Outputs` nor an array.

  Raises:
    TypeError: if `model` is no NNX module.

  Examples:
    >>> model = from_nnx(nnx.Linear(3, 2, rngs=nnx.Rngs(0)))
    >>> x = jnp.ones((4, 3))
    >>> outputs, _ = model.forward(model.variables, x, train=False, key=None)
    >>> outputs.logits.shape
    (4, 2)

  References:
    The `functional API of NNX
    <https://flax.readthedocs.io/en/latest/guides/nnx_basics.html>`_.
  """
  if not isinstance(model, nnx.Module):
    raise TypeError(
      f"from_nnx: model is a {type(model).__name__}; expected an nnx.Module."
    )
  filters = (nnx.Param, nnx.RngState, ...)
  graph, *parts = nnx.split(model, *filters)
  params, streams, state = map(nnx.to_pure_dict, parts)
  # Only the shapes are kept: a key in a closure would be a hidden constant.
  streams = jax.eval_shape(lambda: streams)
  num_arrays = len(jax.tree.leaves(params))

  def forward(
    variables: Variables,
    inputs: Any,
    *,
    train: bool,
    key: Array | None,
    axis_name: str | None = None,
  ) -> tuple[nets.Outputs, Any]:
    _check_variables(variables)
    given = len(jax.tree.leaves(variables.params))
    if given != num_arrays:
      raise ValueError(
        f"forward: variables.params has {given} arrays; expected {num_arrays}, "
        "those of this very network."
      )
    if train and key is None and jax.tree.leaves(streams):
      raise ValueError(
        "forward: key is None; a module with random streams needs one to train."
      )
    module = nnx.merge(
      graph,
      variables.params,
      _seed(streams, jax.random.key(0) if key is None else key),
      variables.state,
      copy=True,  # a module made in another trace could not be changed here
    )
    if not train:
      module.eval()
      return _as_outputs(module(inputs)), variables.state
    module.train()
    if axis_name is not None:
      nets.set_batch_axis(module, axis_name)
    outputs = _as_outputs(module(inputs))
    _, _, _, state = nnx.split(module, *filters)
    return outputs, nnx.to_pure_dict(state)

  return Model(forward, Variables(params, state))


def from_linen(
  module: linen.Module,
  variables: Mapping[str, Any],
  *,
  mode: Callable[[bool], dict[str, Any]] = lambda train: {"train": train},
) -> Model:
  """Model from a Flax Linen module.

  Args:
    module: a module that maps inputs to `Outputs` or to plain logits.
    variables: the result of `module.init`: `"params"` and other collections,
      which become the state.
    mode: the keyword arguments of a call, given `train`; for example
      `lambda train: {"deterministic": not train}`, or `lambda train: {}`.

  Returns:
    A `Model`. Every random stream, whatever its name, is drawn from
    the forward's `key`.

  Raises:
    TypeError: if `module` is no Linen module.
    ValueError: if `variables` has no `"params"`.

  Examples:
    >>> module = linen.Dense(2)
    >>> x = jnp.ones((4, 3))
    >>> variables = module.init(jax.random.key(0), x)
    >>> model = from_linen(module, variables, mode=lambda train: {})
    >>> outputs, _ = model.forward(model.variables, x, train=False, key=None)
    >>> outputs.logits.shape
    (4, 2)

  References:
    `flax.linen.Module.apply
    <https://flax.readthedocs.io/en/latest/api_reference/flax.linen/module.html>`_.
  """
  if not isinstance(module, linen.Module):
    raise TypeError(
      f"from_linen: module is a {type(module).__name__}; expected a "
      "linen.Module."
    )
  if "params" not in variables:
    raise ValueError(
      f"from_linen: variables has the collections {sorted(variables)}; "
      "expected 'params' among them, as module.init returns."
    )

  def forward(
    variables: Variables,
    inputs: Any,
    *,
    train: bool,
    key: Array | None,
    axis_name: str | None = None,
  ) -> tuple[nets.Outputs, Any]:
    _check_variables(variables)
    collections = {"params": variables.params, **variables.state}
    # Linen falls back to the stream "params" for every name that is absent.
    rngs = None if key is None else {"params": key}
    with linen.intercept_methods(functools.partial(_over_axis, axis_name)):
      result = module.apply(
        collections,
        inputs,
        rngs=rngs,
        mutable=list(variables.state) if train else False,
        **mode(train),
      )
    if not train:
      return _as_outputs(result), variables.state
    outputs, state = result
    return _as_outputs(outputs), state

  state = {k: v for k, v in variables.items() if k != "params"}
  return Model(forward, Variables(variables["params"], state))


def _over_axis(
  axis_name: str | None,
  method: Callable[..., Any],
  args: Any,
  options: Any,
  context: Any,
) -> Any:
  """Lets a Linen batch normalization average its statistics over an axis."""
  module = context.module
  if axis_name is None or not nets.is_of_batch(module):
    return method(*args, **options)
  own = module.axis_name
  # A bound module is frozen; its axis name is an attribute like any other.
  object.__setattr__(module, "axis_name", axis_name)
  try:
    return method(*args, **options)
  finally:
    object.__setattr__(module, "axis_name", own)


def _seed(streams: Any, key: Array) -> Any:
  """Gives every random stream its own key and starts its count at 0."""
  leaves, structure = jax.tree.flatten(streams)
  return structure.unflatten(
    jax.random.split(jax.random.fold_in(key, i), leaf.shape)
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    else jnp.zeros(leaf.shape, leaf.dtype)
    for i, leaf in enumerate(leaves)
  )


def _check_variables(variables: Any) -> None:
  if not isinstance(variables, Variables):
    raise TypeError(
      f"forward: variables is a {type(variables).__name__}; expected "
      "Variables, as a Model's variables or a TrainState's student."
    )


def _as_outputs(result: Any) -> nets.Outputs:
  if isinstance(result, tuple | list | Mapping | None) and not isinstance(
    result, nets.Outputs
  ):
    raise TypeError(
      f"forward: the module returned a {type(result).__name__}; expected "
      "Outputs or an array of logits."
    )
  return (
    result
    if isinstance(result, nets.Outputs)
    else nets.Outputs(result, {}, None)
  )
