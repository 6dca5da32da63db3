"""Small models of each family, and what PyTorch `transformers` computes.

  python -m tests.nets.text_models

records the values anew, where torch and transformers are installed. The weights
are drawn with NumPy from the recorded shapes, so only results are stored.
"""

import json
import pathlib

import numpy as np

GOLDEN = pathlib.Path(__file__).parent.parent / "golden"
SIZES = {
  "vocab_size": 31,
  "hidden_size": 8,
  "intermediate_size": 12,
  "num_hidden_layers": 2,
  "num_attention_heads": 4,
  "max_position_embeddings": 24,
}
GROUPED = SIZES | {"num_key_value_heads": 2}
# Name -> the class of transformers, and its configuration.
FAMILIES = {
  "bert": ("BertForMaskedLM", {"model_type": "bert", **SIZES}),
  "gpt2": (
    "GPT2LMHeadModel",
    {
      "model_type": "gpt2",
      "vocab_size": 31,
      "n_embd": 8,
      "n_layer": 2,
      "n_head": 4,
      "n_positions": 24,
    },
  ),
  "llama": (
    "LlamaForCausalLM",
    {
      "model_type": "llama",
      **GROUPED,
      "head_dim": 8,
      "attention_bias": True,
      "tie_word_embeddings": True,
      "rope_parameters": {
        "rope_type": "llama3",
        "rope_theta": 500.0,
        "factor": 4.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
      },
    },
  ),
  "qwen2": ("Qwen2ForCausalLM", {"model_type": "qwen2", **GROUPED}),
  "qwen3": (
    "Qwen3ForCausalLM",
    {"model_type": "qwen3", **GROUPED, "head_dim": 6},
  ),
  "gemma2": (
    "Gemma2ForCausalLM",
    {
      "model_type": "gemma2",
      **GROUPED,
      "head_dim": 6,
      "query_pre_attn_scalar": 5,
      "sliding_window": 4,
    },
  ),
}
TOKENS = np.random.default_rng(7).integers(1, 31, (3, 7))
# Whole, padded on the right, padded on the left.
MASK = np.array([[1] * 7, [1] * 4 + [0] * 3, [0] * 2 + [1] * 5])
POSITIONS = np.maximum(np.cumsum(MASK, 1) - 1, 0)


def draw_weights(shapes):
  """Returns weights by key, drawn in the order of the keys."""
  rng = np.random.default_rng(11)
  return {
    key: (0.3 * rng.normal(size=shapes[key])).astype(np.float32)
    for key in sorted(shapes)
  }


def write_folder(folder, name, recorded):
  """Writes a folder as transformers does."""
  from safetensors import numpy as safetensors

  folder.mkdir(parents=True, exist_ok=True)
  settings = FAMILIES[name][1]
  (folder / "config.json").write_text(json.dumps(settings))
  safetensors.save_file(
    draw_weights(recorded[name]),
    folder / "model.safetensors",
    metadata={"format": "pt"},
  )
  return folder


def load_shapes():
  """Returns the recorded shapes of the weights of each family."""
  return json.loads((GOLDEN / "transformers.json").read_text())


def build(name):
  """Makes a model of transformers, in evaluation mode."""
  import transformers

  class_name, settings = FAMILIES[name]
  model_class = getattr(transformers, class_name)
  settings = {k: v for k, v in settings.items() if k != "model_type"}
  config = model_class.config_class(**settings)
  config._attn_implementation = "eager"
  return model_class(config).eval()


def run(model, name):
  """Runs a model of transformers on `TOKENS`: logits, hidden states."""
  import torch

  options = {}
  if name != "bert":
    options["position_ids"] = torch.tensor(POSITIONS)
  with torch.no_grad():
    outputs = model(
      torch.tensor(TOKENS),
      attention_mask=torch.tensor(MASK),
      output_hidden_states=True,
      output_attentions=True,
      **options,
    )
  return {
    "logits": outputs.logits.numpy(),
    "hidden": np.stack([x.numpy() for x in outputs.hidden_states]),
    "attention": np.stack([x.numpy() for x in outputs.attentions]),
  }


def record():
  """Writes the shapes and the results of all families."""
  import tempfile

  import torch

  shapes, results = {}, {}
  for name in FAMILIES:
    model = build(name)
    with tempfile.TemporaryDirectory() as folder:
      model.save_pretrained(folder)
      from safetensors import numpy as safetensors

      saved = safetensors.load_file(f"{folder}/model.safetensors")
    shapes[name] = {key: list(value.shape) for key, value in saved.items()}
    weights = draw_weights(shapes[name])
    model.load_state_dict(
      {key: torch.tensor(value) for key, value in weights.items()},
      strict=False,
    )
    model.tie_weights()
    for field, value in run(model, name).items():
      results[f"{name}:{field}"] = value
  (GOLDEN / "transformers.json").write_text(json.dumps(shapes, indent=1) + "\n")
  np.savez_compressed(GOLDEN / "transformers.npz", **results)


if __name__ == "__main__":
  record()
