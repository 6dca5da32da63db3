"""The methods of finetuning, as their authors weigh them."""

from kdjax.objectives._preset import Preset

PRESETS: dict[str, Preset] = {}
