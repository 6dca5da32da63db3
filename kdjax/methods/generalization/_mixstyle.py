"""Mixed styles throughout a network: MixStyle and EFDMix."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import generalization
from kdjax.methods._binding import parameter_names
from kdjax.methods._changed_network import changed
from kdjax.methods._method import Method
from kdjax.methods._row import Search
from kdjax.methods.generalization._row_kinds import row

_WAYS: dict[str, Callable[..., Array]] = {
  "mixstyle": generalization.mixstyle,
  "efdmix": generalization.efdmix,
}


def _mixed_styles(way: str) -> Callable[..., Method]:
  """A factory of a student whose first maps take the styles of other maps."""

  def make(
    *,
    after: Sequence[str] | None = None,
    alpha: ArrayLike = 0.1,
    probability: float = 0.5,
    num_domains: int | None = None,
  ) -> Method:
    """Mixtures behind the first two stages, in training only.

    `after` has the paths of other layers that return maps, such as `("stem",)`
    or `("stages/0/1",)`. With `num_domains` of the batch styles come from other
    domains, without it from any example. `alpha` is of the Beta distribution
    of the mixtures, `probability` that of a batch to be mixed. Devices draw
    their own mixtures, among their own examples.
    """

    def mix(model: nnx.Module) -> nnx.Module:
      model = nnx.clone(model)
      places = (
        _first_stages(way, model)
        if after is None
        else [(_layer(way, model, path), False) for path in after]
      )
      for layer, of_inputs in places:
        layer.__class__ = _with_mixing(type(layer), of_inputs)
        layer.mixing = _Mixture(way, num_domains, alpha, probability)
      return model

    return Method(network=lambda student: changed(way, student, mix))

  return make


def _layer(way: str, model: Any, path: str) -> Any:
  owner = model
  for name in path.split("/"):
    try:
      owner = owner[int(name)] if name.isdigit() else getattr(owner, name)
    except (AttributeError, IndexError, TypeError) as error:
      raise ValueError(
        f"{way}: after has {path!r}, and {type(owner).__name__} has no "
        f"{name!r}; expected the path of a layer."
      ) from error
  return owner


def _first_stages(way: str, model: Any) -> list[tuple[Any, bool]]:
  """The layers that return, or else get, the maps of the first two stages.

  Where the network applies a ReLU behind a stage, the next stage gets them.
  """
  # The first stage of MobileNetV2 has two groups.
  for name, second in (("stages", 1), ("convolutions", 1), ("groups", 2)):
    stages = getattr(model, name, None)
    if stages is None or len(stages) <= second:
      continue
    parts = [x if isinstance(x, Sequence | nnx.List) else [x] for x in stages]
    # A block of two inputs gets the maps before and after a normalization.
    if len(parameter_names(type(parts[0][0]).__call__)) > 2:
      return [(blocks[-1], False) for blocks in parts[:2]]
    return [(blocks[0], True) for blocks in parts[second : second + 2]]
  raise ValueError(
    f"{way}: {type(model).__name__} has no two stages of maps; expected "
    f'create({way!r}, after=("stem",)), the paths of layers that return maps '
    "[batch, height, width, channels]."
  )


@functools.cache
def _with_mixing(layer: Any, of_inputs: bool) -> Any:
  """The class of a layer that mixes; its variables keep their paths."""

  def call(self: Any, *args: Any, **options: Any) -> Array:
    mix = (lambda x: x) if self.mixing.deterministic else self.mixing
    if of_inputs:
      maps, *rest = args
      return layer.__call__(self, mix(maps), *rest, **options)
    return mix(layer.__call__(self, *args, **options))

  return type(layer)(f"Mixed{layer.__name__}", (layer,), {"__call__": call})


class _Mixture(nnx.Module):
  """The mixture of the styles of maps."""

  def __init__(
    self,
    way: str,
    num_domains: int | None,
    alpha: ArrayLike,
    probability: float,
  ):
    # NNX compares static attributes, and a traced alpha has no equality: the
    # function that holds it has.
    self.mix = functools.partial(
      _WAYS[way], alpha=alpha, probability=probability
    )
    self.way, self.num_domains = way, num_domains
    self.deterministic = False  # train(), eval()
    # The key of the forward takes its place.
    self.stream = nnx.Rngs(0)["mixed_styles"].fork()

  def __call__(self, maps: Array) -> Array:
    mix: dict[str, Any] = {"mix": "random"}
    if self.num_domains is not None:
      if len(maps) % self.num_domains:
        raise ValueError(
          f"{self.way}: a batch of {len(maps)}; expected a multiple of "
          f"num_domains, {self.num_domains}."
        )
      size = len(maps) // self.num_domains
      domains = jnp.repeat(jnp.arange(self.num_domains), size)
      mix = {"mix": "crossdomain", "domains": domains}
    return self.mix(features=maps, key=self.stream(), **mix)


ROWS = {
  "mixstyle": row(
    "MixStyle",
    "the first maps take means and deviations of other domains' maps",
    _mixed_styles("mixstyle"),
    tuned="alpha",
    search=Search(0.1, 0.1, 1.0),
    source="Dassl",
  ),
  "efdmix": row(
    "EFDMix",
    "the first maps take whole distributions of other domains' maps",
    _mixed_styles("efdmix"),
    tuned="alpha",
    search=Search(0.1, 0.1, 1.0),
    source="Dassl",
  ),
}
