"""Teacher and student networks in Flax NNX.

Every network maps images `[batch, height, width, channels]`, tokens `[batch,
length]`, or sound (`CREPE` frames of samples, `TCResNet` the spectrograms of
`log_mel`) to `Outputs`: logits, features from shallow to deep, the embedding
and further arrays for methods that need them. `load_torch` loads published
PyTorch weights, `from_pretrained` a folder of `transformers`.
`kdjax.nets.layers` contains the layers of all networks.
"""

from kdjax.nets._batch_axis import is_of_batch, set_batch_axis
from kdjax.nets._convolution import convolve
from kdjax.nets._copy_paste import copy_paste
from kdjax.nets._create import create
from kdjax.nets._narrow import narrow
from kdjax.nets._normalization import IBN, DomainBatchNorm, domain_batch_norms
from kdjax.nets._outputs import Outputs
from kdjax.nets._pooling import max_pool
from kdjax.nets._sharding import SHARDING_RULES, shard_parameters
from kdjax.nets.images._convnet import ConvNet
from kdjax.nets.images._imagenet_resnet import ImageNetResNet
from kdjax.nets.images._mlp import MLP
from kdjax.nets.images._mobilenet import MobileNetV2
from kdjax.nets.images._resnet import ResNet, WideResNet
from kdjax.nets.images._shufflenet import ShuffleNetV1, ShuffleNetV2
from kdjax.nets.images._vgg import VGG
from kdjax.nets.images._vit import ViT
from kdjax.nets.published._pretrained import (
  from_pretrained,
  load_tokenizer,
  save_pretrained,
)
from kdjax.nets.published._torch_weights import load_torch
from kdjax.nets.sound._crepe import CREPE, pitch_bins, pitch_hertz
from kdjax.nets.sound._log_mel import frame_signal, log_mel
from kdjax.nets.sound._tc_resnet import TCResNet
from kdjax.nets.text._decoder import Decoder, DecoderConfig, KVCache
from kdjax.nets.text._generation import Generated, generate
from kdjax.nets.text._text_encoder import TextEncoder, TextEncoderConfig

__all__ = (
  "CREPE",
  "IBN",
  "MLP",
  "SHARDING_RULES",
  "VGG",
  "ConvNet",
  "Decoder",
  "DecoderConfig",
  "DomainBatchNorm",
  "Generated",
  "ImageNetResNet",
  "KVCache",
  "MobileNetV2",
  "Outputs",
  "ResNet",
  "ShuffleNetV1",
  "ShuffleNetV2",
  "TCResNet",
  "TextEncoder",
  "TextEncoderConfig",
  "ViT",
  "WideResNet",
  "convolve",
  "copy_paste",
  "create",
  "domain_batch_norms",
  "frame_signal",
  "from_pretrained",
  "generate",
  "is_of_batch",
  "load_tokenizer",
  "load_torch",
  "log_mel",
  "max_pool",
  "narrow",
  "pitch_bins",
  "pitch_hertz",
  "save_pretrained",
  "set_batch_axis",
  "shard_parameters",
)
