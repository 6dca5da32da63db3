"""Teachers and students in Flax NNX.

Every network maps images `[batch, height, width, channels]` to
:class:`Outputs`: logits, features from shallow to deep, and the embedding.
"""

from kdjax.nets._create import create
from kdjax.nets._outputs import Outputs
from kdjax.nets._plain import MLP
from kdjax.nets._plain import ConvNet
from kdjax.nets._residual import ResNet
from kdjax.nets._residual import WideResNet

__all__ = (
  "MLP",
  "ConvNet",
  "Outputs",
  "ResNet",
  "WideResNet",
  "create",
)
