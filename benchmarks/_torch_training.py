"""The same networks and steps in PyTorch, as its users write them.

Built only where PyTorch is installed; images come as `[steps, batch, height,
width, channels]` and are used in PyTorch's channels-last layout.
"""

import contextlib
import functools
from collections.abc import Callable
from typing import Any

from benchmarks._measure import import_torch, torch_device

# Blocks of each stage; the stages have the channels below.
RESNETS = {"resnet8x4": 1, "resnet32x4": 5}
CHANNELS = (32, 64, 128, 256)


def resnet(name: str, classes: int) -> Any:
  """A CIFAR ResNet of basic blocks, with projection shortcuts."""
  nn = import_torch().nn

  def convolution(inputs: int, outputs: int, size: int, stride: int) -> Any:
    return nn.Sequential(
      nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False),
      nn.BatchNorm2d(outputs),
    )

  class Block(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int):
      super().__init__()
      self.first = convolution(inputs, outputs, 3, stride)
      self.second = convolution(outputs, outputs, 3, 1)
      same = inputs == outputs and stride == 1
      self.shortcut = (
        nn.Identity() if same else convolution(inputs, outputs, 1, stride)
      )

    def forward(self, x: Any) -> Any:
      y = self.second(self.first(x).relu())
      return (y + self.shortcut(x)).relu()

  blocks, inputs = [], CHANNELS[0]
  for stage, outputs in enumerate(CHANNELS[1:]):
    for i in range(RESNETS[name]):
      blocks.append(Block(inputs, outputs, 2 if stage and not i else 1))
      inputs = outputs
  return nn.Sequential(
    convolution(3, CHANNELS[0], 3, 1),
    nn.ReLU(),
    *blocks,
    nn.AdaptiveAvgPool2d(1),
    nn.Flatten(),
    nn.Linear(inputs, classes),
  )


def convnet(
  channels: tuple[int, ...], hidden: int, classes: int, side: int
) -> Any:
  """5x5 convolutions with poolings, a hidden layer and a classifier."""
  nn = import_torch().nn
  layers, inputs = [], 1
  for outputs in channels:
    layers += [
      nn.Conv2d(inputs, outputs, 5, padding=2),
      nn.ReLU(),
      nn.MaxPool2d(2),
    ]
    inputs, side = outputs, side // 2
  return nn.Sequential(
    *layers,
    nn.Flatten(),
    nn.Linear(inputs * side**2, hidden),
    nn.ReLU(),
    nn.Linear(hidden, classes),
  )


def peers(
  make_student: Callable[[], Any],
  make_optimizer: Callable[[Any], Any],
  make_teacher: Callable[[], Any] | None = None,
  *,
  students: int = 1,
  temperature: float = 4.0,
  alpha: float = 0.9,
) -> dict[str, Callable[..., Any]]:
  """Training in eager and in compiled PyTorch.

  Args:
    make_student: builds a network.
    make_optimizer: takes its parameters.
    make_teacher: builds the teacher; None trains on labels alone.
    students: that are trained one after the other.
    temperature: of the soft targets.
    alpha: their weight; labels have the rest.

  Returns:
    Name -> a function of images and labels that takes a step for each batch
    and returns the last student's last loss.
  """

  def build(compiled: bool) -> tuple[list[Any], Any]:
    torch = import_torch()
    where = torch_device(torch)

    def prepare(network: Any) -> Any:
      network = network.to(where, memory_format=torch.channels_last)
      if not compiled:
        return network
      mode = "reduce-overhead" if where == "cuda" else "default"
      return torch.compile(network, mode=mode)

    pairs = []
    for _ in range(students):
      network = make_student()
      pairs.append((prepare(network), make_optimizer(network.parameters())))
    teacher = prepare(make_teacher().eval()) if make_teacher else None
    return pairs, teacher

  def loss_of(student: Any, teacher: Any, images: Any, labels: Any) -> Any:
    torch = import_torch()
    functional = torch.nn.functional
    logits = student(images).float()
    hard = functional.cross_entropy(logits, labels)
    if teacher is None:
      return hard
    with torch.no_grad():
      targets = teacher(images).float()
    soft = functional.kl_div(
      functional.log_softmax(logits / temperature, 1),
      functional.softmax(targets / temperature, 1),
      reduction="batchmean",
    )
    return alpha * temperature**2 * soft + (1 - alpha) * hard

  def peer(compiled: bool) -> Callable[..., Any]:
    built = functools.cache(functools.partial(build, compiled))

    def train(images: Any, labels: Any) -> Any:
      torch = import_torch()
      pairs, teacher = built()
      half = images.dtype == torch.bfloat16
      context = (
        torch.autocast(images.device.type, torch.bfloat16)
        if half
        else contextlib.nullcontext()
      )
      loss = None
      for step_images, step_labels in zip(images, labels, strict=True):
        x = step_images.permute(0, 3, 1, 2)
        for student, optimizer in pairs:
          optimizer.zero_grad(set_to_none=True)
          with context:
            loss = loss_of(student, teacher, x, step_labels)
          loss.backward()
          optimizer.step()
      return loss

    return train

  return {"torch eager": peer(False), "torch.compile": peer(True)}
