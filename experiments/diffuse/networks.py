"""The denoiser, a network of rows, noise levels and classes."""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from kdjax import generation, training
from kdjax.nets import Outputs

FREQUENCIES = 16


class Denoiser(nnx.Module):
  """Three residual layers; noise level and class shift each of them."""

  def __init__(self, size: int, classes: int, width: int, rngs: nnx.Rngs):
    self.inputs = nnx.Linear(size, width, rngs=rngs)
    self.level = nnx.Linear(2 * FREQUENCIES, width, rngs=rngs)
    self.label = nnx.Embed(classes, width, rngs=rngs)
    self.layers = nnx.List(
      nnx.Linear(width, width, rngs=rngs) for _ in range(3)
    )
    self.shifts = nnx.List(
      nnx.Linear(width, width, rngs=rngs) for _ in range(3)
    )
    # The first prediction is 0, the mean of v.
    self.head = nnx.Linear(
      width, size, kernel_init=nnx.initializers.zeros, rngs=rngs
    )

  def __call__(self, inputs: Any) -> Outputs:
    """Predicts v of `noisy`, of `log_snr` and of `label`."""
    noisy, level = inputs["noisy"], inputs["log_snr"]
    rates = 2.0 ** jnp.linspace(-4, 3, FREQUENCIES)
    angles = level[:, None] * rates[None] / 2
    waves = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1)
    about = nnx.silu(self.level(waves) + self.label(inputs["label"]))
    x = self.inputs(noisy)
    for layer, shift in zip(self.layers, self.shifts, strict=True):
      x = x + layer(nnx.silu(x + shift(about)))
    return Outputs(self.head(nnx.silu(x)), {}, x)


def denoiser(job: Any) -> training.Network:
  """The denoiser as pure functions."""
  size = job.data.train["image"].shape[-1]
  return training.Network.of(
    lambda rngs: Denoiser(size, job.data.classes, job.config.width, rngs)
  )


def answer_v(network: training.Network, params: Any, *inputs: Array) -> Array:
  """The network's v of `noisy`, `log_snr` and `label`."""
  names = ("noisy", "log_snr", "label")
  outputs, _ = network.forward(
    training.Variables(params, {}),
    dict(zip(names, inputs, strict=True)),
    train=False,
    key=None,
  )
  return outputs.logits


def denoise(network: training.Network, params: Any, labels: Array) -> Any:
  """`(noisy, log_snr) -> x` of images of these classes."""

  def function(noisy: Array, level: Array) -> Array:
    v = answer_v(network, params, noisy, level, labels)
    return generation.denoised(v, noisy, level)

  return function


def consistency(
  network: training.Network, params: Any, labels: Array, smallest: float
) -> Any:
  """`(noisy, sigma) -> x`, data with noise of deviation sigma added.

  With smallest = 0 it is the denoiser of the same weights.
  """

  def function(noisy: Array, sigma: Array) -> Array:
    z = noisy / jnp.sqrt(1 + jnp.square(sigma))[:, None]
    v = answer_v(network, params, z, -2 * jnp.log(sigma), labels)
    return generation.consistency_output(
      -v, noisy, sigma, data_std=1.0, smallest=smallest
    )

  return function
