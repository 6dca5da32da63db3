"""Weights that the authors of some methods set for each pair of networks."""

from typing import Any

# Method -> (teacher, student) -> differences from its row of ROWS: the
# weight, or hyper-parameters. All of it for CIFAR-100.
#
# dkd: mdistiller, configs/cifar100/dkd; SDD-CVPR2024 keeps them.
# cat: CAT-KD, configs/cifar100/CAT_KD.
# lskd and dkd+lskd: logit-standardization-KD, the names of the files in logs/.
_DKD = {
  ("wrn-40-2", "wrn-16-2"): {"beta": 6.0},
  ("wrn-40-2", "wrn-40-1"): {"beta": 6.0},
  ("resnet56", "resnet20"): {"beta": 2.0},
  ("resnet110", "resnet32"): {"beta": 2.0},
  ("vgg13", "vgg8"): {"beta": 6.0},
  ("vgg13", "mobilenetv2"): {"beta": 6.0},
}
_PAIRS: dict[str, dict[tuple[str, str], dict[str, Any]]] = {
  "dkd": _DKD,
  "sdd_dkd": _DKD,
  "cat": {
    ("wrn-40-2", "wrn-16-2"): {"weight": 12.0},
    ("wrn-40-2", "wrn-40-1"): {"weight": 1.5},
    ("resnet56", "resnet20"): {"weight": 0.7},
    ("resnet110", "resnet32"): {"weight": 1.8},
    ("vgg13", "vgg8"): {"weight": 4.5},
    ("vgg13", "mobilenetv2"): {"weight": 15.0, "normalize": True},
    ("resnet50", "mobilenetv2"): {"weight": 40.0, "normalize": True},
    ("resnet32x4", "shufflenetv1"): {
      "weight": 600.0,
      "normalize": True,
      "resolution": 4,
    },
    ("resnet32x4", "shufflenetv2"): {
      "weight": 600.0,
      "normalize": True,
      "resolution": 4,
    },
    ("wrn-40-2", "shufflenetv1"): {
      "weight": 80.0,
      "normalize": True,
      "resolution": 4,
    },
  },
  "lskd": {
    ("resnet110", "resnet20"): {"weight": 12.0, "temperature": 4.0},
    ("vgg13", "vgg8"): {"temperature": 3.0},
    ("vgg13", "mobilenetv2"): {"temperature": 3.0},
    ("resnet50", "mobilenetv2"): {"weight": 1.0, "temperature": 3.0},
  },
  "dkd+lskd": {
    ("wrn-40-2", "wrn-16-2"): {"alpha": 12.0, "beta": 24.0},
    ("wrn-40-2", "wrn-40-1"): {"alpha": 12.0, "beta": 24.0},
    ("resnet56", "resnet20"): {
      "temperature": 3.0,
      "alpha": 18.0,
      "beta": 36.0,
    },
    ("resnet110", "resnet20"): {"alpha": 15.0, "beta": 30.0},
    ("resnet110", "resnet32"): {"alpha": 15.0, "beta": 30.0},
    ("vgg13", "vgg8"): {"alpha": 15.0, "beta": 30.0},
    ("vgg13", "mobilenetv2"): {"temperature": 3.0, "beta": 18.0},
    ("resnet50", "mobilenetv2"): {"alpha": 15.0, "beta": 30.0},
  },
}


def of_pair(
  method: str, pair: tuple[str, str] | None, weight: float
) -> tuple[float, dict[str, Any]]:
  """Returns a method's weight and its hyper-parameters for a pair."""
  changes = dict(_PAIRS.get(method, {}).get(pair, {})) if pair else {}
  return changes.pop("weight", weight), changes
