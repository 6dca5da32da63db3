"""The networks' outputs for published weights, and what they promise."""

import jax
import numpy as np
import pytest
from flax import nnx

from kdjax import nets
from tests.nets import torch_names

# RepDistiller's models (commit b84f547) in PyTorch, float64, in evaluation,
# filled and fed by `torch_names.noise`: the first three logits of two images,
# then the mean of each feature and of the embedding.
RECORDED = {
  "vgg8": (
    [[10.279789, 1.29958, -4.745459], [10.145522, 1.028628, -4.888671]],
    [0.615174, 1.145589, 1.54163, 1.718576, 1.57627, 1.57627],
  ),
  "mobilenetv2": (
    [
      [1703.567648, -212.144329, 376.962371],
      [1981.094194, -204.599595, 346.751138],
    ],
    [0.572873, -0.611634, -0.155493, 11.148164, -4.874983, 207.716567],
  ),
  "shufflenetv1": (
    [
      [274.051604, -45.073431, -11.391543],
      [280.479529, -24.088607, -8.518919],
    ],
    [0.646125, 1.57845, 23.907912, 69.498649, 69.498649],
  ),
  "shufflenetv2": (
    [
      [61.842639, -67.45191, 10.863156],
      [67.797347, -76.105472, 14.782517],
    ],
    [0.646125, 1.351448, 11.117306, 17.319003, 16.855279],
  ),
  "resnet18": (
    [
      [45.48061, -11.341393, -43.684747],
      [46.489708, -16.207195, -43.485041],
    ],
    [0.590155, 1.539192, 4.19939, 7.919483, 16.845882, 16.845882],
  ),
}


@nnx.jit
def _run(model, images):
  return model(images)


def _outputs(name, **options):
  abstract = torch_names.abstract(name, **options)
  model = nets.load_torch(nnx.clone(abstract), torch_names.state_dict(abstract))
  model.eval()
  images = 4 * torch_names.noise((2, 32, 32, 3))
  return model, jax.device_get(_run(model, np.float32(images)))


def _head_fits(outputs):
  kernel, bias = outputs.classifier
  np.testing.assert_allclose(
    outputs.logits,
    outputs.embedding @ kernel + bias,
    atol=1e-5 * np.abs(outputs.logits).max(),
  )


@pytest.mark.slow
@pytest.mark.parametrize("name", RECORDED)
def test_outputs_are_the_published_ones(name):
  _, outputs = _outputs(name)
  logits, means = RECORDED[name]
  np.testing.assert_allclose(
    outputs.logits[:, :3], logits, atol=1e-5 * np.abs(logits).max()
  )
  arrays = [*outputs.features.values(), outputs.embedding]
  np.testing.assert_allclose([a.mean() for a in arrays], means, rtol=1e-4)
  _head_fits(outputs)
  linear = name == "mobilenetv2"  # its stages end without activation
  for key, before in outputs.preactivations.items():
    assert before.min() < 0
    after = before if linear and key != "f0" else np.maximum(before, 0)
    np.testing.assert_allclose(outputs.features[key], after, atol=1e-5)


def test_vit_of_two_tokens():
  options = {"patch_size": 8, "width": 12, "depth": 2, "num_heads": 3}
  model, outputs = _outputs("deit-tiny", distillation_token=True, **options)
  # timm's and DeiT's modules in PyTorch, as above.
  logits = [[2.667077, -0.257214, 1.70952], [2.239852, 0.182918, 1.63704]]
  np.testing.assert_allclose(outputs.logits[:, :3], logits, atol=1e-5)
  _head_fits(outputs)
  heads = [outputs.heads["class"], outputs.heads["distillation"]]
  for i, head in enumerate(heads):
    _head_fits(head)
    token = _run(model.norm, outputs.features["f1"][:, i])
    np.testing.assert_allclose(head.embedding, token, atol=1e-5)
  mean = (heads[0].logits + heads[1].logits) / 2
  np.testing.assert_allclose(outputs.logits, mean, atol=1e-5)
  assert outputs.features["f0"].shape == (2, 18, 12)
  for attention in outputs.attention.values():
    assert attention.shape == (2, 3, 18, 18)
    np.testing.assert_allclose(attention.sum(-1), 1, atol=1e-5)


def test_sizes_that_cannot_be():
  options = {"num_classes": 3, "rngs": nnx.Rngs(0)}
  with pytest.raises(ValueError, match=r"multiples of patch_size, 16"):
    nets.ViT(input_shape=(32, 24, 3), **options)
  with pytest.raises(ValueError, match=r"width is 10; .* of num_heads, 3"):
    nets.ViT(input_shape=(32, 32, 3), width=10, **options)
  with pytest.raises(ValueError, match=r"at least 8 for 3 poolings"):
    nets.VGG(8, input_shape=(32, 7, 3), **options)
  with pytest.raises(ValueError, match=r"depth is 9; expected one of 8, 11"):
    nets.VGG(9, input_shape=(32, 32, 3), **options)
  with pytest.raises(ValueError, match=r"depth is 20; expected one of 18, 34"):
    nets.ImageNetResNet(20, input_shape=(32, 32, 3), **options)
  with pytest.raises(ValueError, match=r"stem is 'tiny'"):
    nets.ImageNetResNet(18, input_shape=(32, 32, 3), stem="tiny", **options)
