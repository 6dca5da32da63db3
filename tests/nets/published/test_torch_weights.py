"""PyTorch's weights: their keys, errors, a round trip and equal logits."""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from kdjax import nets
from tests.nets import torch_names

# The first digits of SHA-256 over the sorted lines "key shape" of the state
# dicts of RepDistiller (commit b84f547), and of mdistiller's ImageNet ResNets,
# which have torchvision's keys; num_batches_tracked left out.
KEYS = {
  "vgg8": "42c3aa3ba3fbee33",
  "vgg13": "207440f187602bb6",
  "mobilenetv2": "5337e7261c11fde8",
  "shufflenetv1": "d2731847af146052",
  "shufflenetv2": "9eba5dcc45d03821",
  "resnet8x4": "5cdad7d13f943d47",
  "resnet56": "c0ac762824457206",
  "wrn-16-2": "d52ee0e0a0e428cb",
  "resnet18": "61260526013ccd50",
  "resnet50": "64b781c0f527d9fc",
  "imagenet-resnet18": "4caf353016f2a208",
  "imagenet-resnet50": "a11354f66d867f08",
}

QUICK = {"resnet8x4", "imagenet-resnet18"}
VIT = {"patch_size": 8, "width": 12, "depth": 2, "num_heads": 3}


@pytest.mark.parametrize(
  "name",
  [
    pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow)
    for name in KEYS
  ],
)
def test_keys_and_shapes_are_the_published_ones(name):
  shapes = torch_names.shapes(torch_names.abstract(name))
  lines = sorted(f"{key} {shape}" for key, shape in shapes.items())
  digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
  assert digest[:16] == KEYS[name]


@pytest.mark.slow
def test_a_file_round_trip(tmp_path):
  safetensors = pytest.importorskip("safetensors.flax")
  model = nnx.clone(torch_names.abstract("deit-tiny", **VIT))
  state = torch_names.state_dict(model)
  half = {key: jnp.asarray(x, jnp.bfloat16) for key, x in state.items()}
  safetensors.save_file(half, tmp_path / "weights.safetensors")
  assert nets.load_torch(model, tmp_path / "weights.safetensors") is model
  for key, variable, axes in torch_names.entries(model):
    expected = np.asarray(half[key], np.float32).transpose(axes)
    np.testing.assert_array_equal(variable[...], expected)
    assert variable.dtype == jnp.float32


@pytest.mark.packages
def test_parameters_of_any_dtype_in_training_are_tensors_too():
  torch = pytest.importorskip("torch")
  model = _resnet()
  state = {
    key: torch.nn.Parameter(torch.tensor(value).bfloat16())
    for key, value in torch_names.state_dict(model).items()
  }
  nets.load_torch(model, state)
  expected = state["fc.weight"].detach().float().numpy().T
  np.testing.assert_array_equal(model.head.kernel[...], expected)


def _resnet():
  return nnx.clone(torch_names.abstract("resnet8"))


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (
      lambda state: state.pop("bn1.running_var"),
      r"fit ResNet:\n  bn1.running_var is missing; expected shape \(16,\)$",
    ),
    (
      lambda state: state.update({"fc.weight": np.zeros((64, 100))}),
      r"  fc.weight has shape \(64, 100\); expected \(100, 64\)$",
    ),
    (
      lambda state: state.update({"layer4.0.bn1.bias": np.zeros(3)}),
      r"  layer4.0.bn1.bias is left over, of shape \(3,\)$",
    ),
    (
      lambda state: state.update({"epoch": 240}),
      r"  epoch is left over, of type int$",
    ),
    (lambda state: state.clear(), r"bias is missing(.|\n)*\.\.\. and 42 more"),
  ],
)
def test_what_does_not_fit_is_named_and_changes_nothing(change, message):
  model = _resnet()
  before = nnx.state(model)
  state = torch_names.state_dict(model)
  change(state)
  with pytest.raises(ValueError, match=message):
    nets.load_torch(model, state)
  assert nnx.state(model) == before


def test_counters_are_no_weights_and_the_head_may_stay():
  model = _resnet()
  before = nnx.state(model.head)
  state = torch_names.state_dict(model)
  state["bn1.num_batches_tracked"] = np.zeros(())
  state["fc.weight"] = np.zeros((1000, 64))
  nets.load_torch(model, state, head=False)
  assert nnx.state(model.head) == before
  assert isinstance(model.stem.norm.mean[...], jax.Array)


def test_a_network_without_counterpart():
  model = torch_names.abstract("mlp")
  with pytest.raises(TypeError, match=r"model is of type MLP; expected one of"):
    nets.load_torch(model, {})


@nnx.jit
def _run(model, images):
  return model(images)


def _compare(model, reference, size):
  """Loads the reference's random weights; both see the same images."""
  torch = pytest.importorskip("torch")
  torch.manual_seed(0)
  reference = reference.eval()
  for name, tensor in reference.state_dict().items():
    if tensor.is_floating_point():
      tensor.copy_(torch.rand_like(tensor) / 5)
      if tensor.ndim == 4:
        tensor.sub_(0.1)
      if name.endswith("running_var"):
        tensor.add_(1)
  images = torch.rand(2, 3, size, size)
  with torch.no_grad():
    expected = reference(images).numpy()
  model = nets.load_torch(nnx.clone(model), reference.state_dict())
  model.eval()
  got = _run(model, jnp.asarray(images.numpy().transpose(0, 2, 3, 1)))
  assert np.ptp(expected) > 0.01
  np.testing.assert_allclose(
    got.logits, expected, atol=2e-6 * np.abs(expected).max()
  )


@pytest.mark.packages
def test_torchvision_resnet_has_equal_logits():
  pytest.importorskip("torch")
  model = torch_names.abstract("imagenet-resnet50", width=4)
  _compare(model, _torch_resnet50(width=4), 33)


@pytest.mark.packages
@pytest.mark.parametrize("distilled", [False, True])
def test_deit_has_equal_logits(distilled):
  pytest.importorskip("torch")
  model = torch_names.abstract("deit-tiny", distillation_token=distilled, **VIT)
  _compare(model, _torch_deit(distilled=distilled, **VIT), 32)


def _torch_resnet50(width):
  """As torchvision names its modules and places the bottleneck's stride."""
  import torch
  from torch import nn

  def convolution(inputs, outputs, size, stride=1):
    return nn.Conv2d(
      inputs, outputs, size, stride, padding=size // 2, bias=False
    )

  class Bottleneck(nn.Module):
    def __init__(self, inputs, planes, stride):
      super().__init__()
      outputs = 4 * planes
      self.conv1 = convolution(inputs, planes, 1)
      self.bn1 = nn.BatchNorm2d(planes)
      self.conv2 = convolution(planes, planes, 3, stride)
      self.bn2 = nn.BatchNorm2d(planes)
      self.conv3 = convolution(planes, outputs, 1)
      self.bn3 = nn.BatchNorm2d(outputs)
      self.downsample = None
      if inputs != outputs:
        self.downsample = nn.Sequential(
          convolution(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs)
        )

    def forward(self, x):
      y = torch.relu(self.bn1(self.conv1(x)))
      y = torch.relu(self.bn2(self.conv2(y)))
      y = self.bn3(self.conv3(y))
      return torch.relu(y + (self.downsample(x) if self.downsample else x))

  class Net(nn.Module):
    def __init__(self):
      super().__init__()
      self.conv1 = convolution(3, width, 7, 2)
      self.bn1 = nn.BatchNorm2d(width)
      inputs = width
      for i, count in enumerate((3, 4, 6, 3)):
        planes = width * 2**i
        blocks = [Bottleneck(inputs, planes, 2 if i else 1)]
        inputs = 4 * planes
        blocks += [Bottleneck(inputs, planes, 1) for _ in range(count - 1)]
        self.add_module(f"layer{i + 1}", nn.Sequential(*blocks))
      self.fc = nn.Linear(inputs, 100)

    def forward(self, x):
      x = torch.relu(self.bn1(self.conv1(x)))
      x = nn.functional.max_pool2d(x, 3, 2, 1)
      x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
      return self.fc(x.mean((2, 3)))

  return Net()


def _torch_deit(patch_size, width, depth, num_heads, distilled):
  """As timm and DeiT name their modules."""
  import torch
  from torch import nn

  class Attention(nn.Module):
    def __init__(self):
      super().__init__()
      self.qkv = nn.Linear(width, 3 * width)
      self.proj = nn.Linear(width, width)

    def forward(self, x):
      b, n, _ = x.shape
      qkv = self.qkv(x).reshape(b, n, 3, num_heads, -1).permute(2, 0, 3, 1, 4)
      mixed = nn.functional.scaled_dot_product_attention(*qkv)
      return self.proj(mixed.transpose(1, 2).reshape(b, n, width))

  class Block(nn.Module):
    def __init__(self):
      super().__init__()
      self.norm1 = nn.LayerNorm(width, eps=1e-6)
      self.attn = Attention()
      self.norm2 = nn.LayerNorm(width, eps=1e-6)
      self.mlp = nn.Sequential()
      self.mlp.add_module("fc1", nn.Linear(width, 4 * width))
      self.mlp.add_module("act", nn.GELU())
      self.mlp.add_module("fc2", nn.Linear(4 * width, width))

    def forward(self, x):
      x = x + self.attn(self.norm1(x))
      return x + self.mlp(self.norm2(x))

  class Net(nn.Module):
    def __init__(self):
      super().__init__()
      tokens = (32 // patch_size) ** 2 + 1 + distilled
      self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
      self.pos_embed = nn.Parameter(torch.zeros(1, tokens, width))
      self.patch_embed = nn.Module()
      self.patch_embed.proj = nn.Conv2d(3, width, patch_size, patch_size)
      self.blocks = nn.Sequential(*(Block() for _ in range(depth)))
      self.norm = nn.LayerNorm(width, eps=1e-6)
      self.head = nn.Linear(width, 100)
      if distilled:
        self.dist_token = nn.Parameter(torch.zeros(1, 1, width))
        self.head_dist = nn.Linear(width, 100)

    def forward(self, x):
      x = self.patch_embed.proj(x).flatten(2).transpose(1, 2)
      tokens = [self.cls_token, *([self.dist_token] if distilled else [])]
      tokens = [token.expand(len(x), -1, -1) for token in tokens]
      x = self.norm(self.blocks(torch.cat([*tokens, x], 1) + self.pos_embed))
      logits = self.head(x[:, 0])
      return (logits + self.head_dist(x[:, 1])) / 2 if distilled else logits

  return Net()
