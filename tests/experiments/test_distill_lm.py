"""The job of language models, reduced: documents, folders, resumption."""

import dataclasses
import json
import shutil
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments.distill_lm import __main__ as distill_lm
from experiments.distill_lm import data as lm_data
from experiments.distill_lm import methods as lm_methods
from experiments.distill_lm import networks as lm_networks
from experiments.distill_lm import report as lm_report
from experiments.distill_lm import training as lm_training
from kdjax import methods as kmethods
from kdjax import nets
from tests.experiments import runs

SMALL = distill_lm.Config(
  methods=("forward_kl", "on_policy"),
  seeds=2,
  steps=4,
  teacher_steps=4,
  evaluate_every=2,
  batch_size=4,
  length=12,
  prompt=3,
  width=8,
  heads=2,
  teacher_depth=2,
  student_depth=1,
  teacher_texts=6,
  samples=4,
  windows=20,
)
LINE = "the cat sat on the mat and the dog sat on the log\n"


run, small = runs.of(distill_lm, SMALL)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
  """A folder of twelve documents, and a file that is none of them."""
  folder = tmp_path_factory.mktemp("text")
  for i in range(12):
    (folder / f"{i:02}.txt").write_text(f"{i}: " + LINE * (3 + i % 4))
  (folder / "notes.md").write_bytes(b"\xff\xfe")
  return str(folder)


class Package:
  """What is used of a tokenizer of the package: a token a character."""

  def __init__(self, extra=""):
    known = sorted({*LINE, *"0123456789:", *extra})
    self.vocab = {x: i for i, x in enumerate((*known, "</s>"))}

  def get_vocab(self, with_added_tokens):
    return self.vocab

  def get_vocab_size(self, with_added_tokens):
    return len(self.vocab)

  def token_to_id(self, token):
    return self.vocab.get(token)

  def no_truncation(self):
    pass

  no_padding = no_truncation

  def encode(self, text, add_special_tokens):
    return types.SimpleNamespace(ids=[self.vocab[x] for x in text])

  def decode(self, ids):
    return "".join(list(self.vocab)[i] for i in ids)

  def save(self, path):
    with open(path, "w") as file:
      json.dump(self.vocab, file)


SIZE = len(Package().vocab)


@pytest.fixture
def package(monkeypatch):
  """Tokenizers of folders: `odd` in the name of a folder gives another one."""
  monkeypatch.setattr(lm_data, "import_tokenizers", lambda: None)
  monkeypatch.setattr(
    nets, "load_tokenizer", lambda x: Package("?" if "odd" in str(x) else "")
  )


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
  """Random models as folders of transformers."""
  root = tmp_path_factory.mktemp("models")

  def add(name, vocab=SIZE, depth=1, **options):
    config = nets.DecoderConfig(
      vocab, width=8, depth=depth, num_heads=2, inner_width=8, max_length=16
    )
    model = nets.Decoder(config, rngs=nnx.Rngs(depth))
    nets.save_pretrained(model, root / name, **options)

  add("teacher", depth=2)
  add("student", SIZE + 3)
  add("odd")
  add("wide", SIZE + 1000)
  add("narrow", SIZE - 1)
  add("shards", shard_bytes=2000)
  (root / "shards" / "model-00002-of-00002.safetensors").unlink(missing_ok=True)
  for file in sorted((root / "shards").glob("model-*"))[1:]:
    file.unlink()
  encoder = nets.TextEncoderConfig(
    SIZE, width=8, depth=1, num_heads=2, inner_width=8
  )
  encoder = nets.TextEncoder(encoder, rngs=nnx.Rngs(0))
  nets.save_pretrained(encoder, root / "bert")
  return root


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"seeds": 0}, "seeds is 0; expected a number above 0"),
    ({"steps": 3}, "steps is 3; expected a multiple of evaluate_every"),
    ({"width": 9}, "width is 9; expected a multiple of heads"),
    ({"width": 6}, "an even number of units a head"),
    ({"student_depth": 3}, "student_depth is 3; expected at most teacher_dep"),
    ({"prompt": 11}, r"length is 12; expected more than prompt \+ 1"),
    ({"methods": ("kd",)}, "expected one or more different ones of scratch, "),
    ({"learning_rates": (0.0,)}, "learning_rates is"),
    ({"teacher": "a"}, "teacher is 'a' and student None; expected the folders"),
    ({"vocabulary": 200}, "more than 256, the bytes"),
    ({"own_share": 1.5}, "own_share is 1.5; expected a number from 0 to 1"),
  ],
)
def test_flags_that_will_not_do(changes, message, tmp_path):
  with pytest.raises(ValueError, match=message):
    distill_lm.prepare(small(tmp_path / "run", **changes))
  assert not (tmp_path / "run").exists()


def test_text_that_will_not_do(text, tmp_path, monkeypatch):
  few = tmp_path / "few.txt"
  few.write_text("a")
  short = tmp_path / "short.txt"
  short.write_text(LINE)
  for name, message in (
    (f"{text}/notes.md", r"notes.md is no UTF-8 text: byte 0 is 0xff"),
    (f"{text}/*.md", "is no UTF-8 text"),
    (f"{text}/*.rst", "names no file; expected a text file, a folder"),
    ("nowhere.txt", "names no file"),
    (str(tmp_path / "few.txt"), "text has 1 documents; expected three or more"),
    (str(short), "tokens of .* documents; expected at least 24"),
  ):
    with pytest.raises(ValueError, match=message):
      distill_lm.prepare(small(tmp_path / "run", text=name))
  monkeypatch.setitem(sys.modules, "tokenizers", None)
  with pytest.raises(ValueError, match="need the package tokenizers: pip inst"):
    distill_lm.prepare(small(tmp_path / "run", text=text, tokens="bpe"))
  assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
  ("teacher", "student", "message"),
  [
    ("teacher", "odd", "have two tokenizers, of .* such as '.'; expected one"),
    ("wide", "student", "wide has a vocabulary of .* which no padding expl"),
    ("teacher", "narrow", "narrow has a vocabulary of .* no padding explains"),
    ("teacher", "bert", "bert has a TextEncoder, which writes no text; expect"),
    ("shards", "student", "shards has no model-.*safetensors; expected it"),
    ("teacher", "nothing", "nothing has no config.json; expected a folder"),
  ],
)
def test_folders_that_will_not_do(
  teacher, student, message, folders, text, tmp_path, package
):
  config = small(
    tmp_path / "run",
    text=text,
    teacher=str(folders / teacher),
    student=str(folders / student),
  )
  with pytest.raises((ValueError, OSError), match=message):
    distill_lm.prepare(config)
  assert not (tmp_path / "run").exists()


def test_a_window_longer_than_the_positions_is_refused(
  folders, text, tmp_path, package
):
  models = {x: str(folders / x) for x in ("teacher", "student")}
  config = small(tmp_path / "run", text=text, length=17, **models)
  with pytest.raises(ValueError, match="length is 17; expected at most 16"):
    distill_lm.prepare(config)


@pytest.mark.slow
def test_a_padded_vocabulary_has_the_logits_of_its_tokens(folders, package):
  tokenizer = lm_data.load_tokenizers("teacher", "student")
  loaded = lm_networks.load(str(folders / "student"), SMALL, tokenizer)
  variables = loaded.network.init(jax.random.key(0))
  tokens = jnp.arange(6)[None]
  outputs, _ = loaded.network.forward(variables, tokens, train=False, key=None)
  expected = loaded.module(variables.params)(tokens).logits
  assert expected.shape[-1] == SIZE + 3
  np.testing.assert_array_equal(outputs.logits, expected[..., :SIZE])
  assert outputs.classifier[0].shape[-1] == SIZE


@pytest.mark.slow
def test_no_token_of_padding_is_written(folders, text, tmp_path, package):
  """Rows that pad either vocabulary, however probable, are not drawn."""
  models = {x: str(folders / x) for x in ("teacher", "student")}
  job = distill_lm.prepare(small(tmp_path / "run", text=text, **models))
  params = job.student.network.init(jax.random.key(0)).params
  # The rows of padding point where those of the others do not.
  loud = params["head_weight"].at[job.vocabulary :].multiply(1e4)
  params = params | {"head_weight": loud}
  teacher = job.teacher, job.teacher.network.init(jax.random.key(0)).params
  windows = jnp.tile(job.data.test[:1], (40, 1))
  key = jax.random.key(1)
  whole = nets.generate(
    key, job.student.module(params), windows[:, :3], num_tokens=9
  ).tokens
  assert int(whole.max()) >= job.vocabulary
  own = lm_training.write(key, job, job.student, params, windows)
  both = lm_training.write(key, job, job.student, params, windows, teacher)
  assert int(own.max()) < job.vocabulary
  assert int(both.max()) < job.vocabulary
  # As probable as the others: the last real token gets none of the padding's.
  counts = np.bincount(np.asarray(own[:, 3:]).ravel(), minlength=SIZE)
  assert counts[-1] < 3 * counts.mean()


def test_a_share_of_the_steps_has_own_text():
  def steps(share):
    return [int(i) for i in range(8) if lm_training.has_own_text(i, share)]

  assert steps(0.5) == [1, 3, 5, 7]
  assert steps(0.25) == [3, 7]
  assert steps(0.0) == []
  assert steps(1.0) == list(range(8))


def test_bits_at_a_time_are_those_of_the_curve():
  row = types.SimpleNamespace(
    curve=np.array([[4.0, 5.0], [3.0, 3.0], [2.0, 2.5]]),
    times=np.array([2.0, 4.0, 8.0]),
  )
  assert lm_report.at_time(row, 1.9) is None
  np.testing.assert_allclose(lm_report.at_time(row, 3.0), [3.5, 4.0])
  np.testing.assert_allclose(lm_report.at_time(row, 6.0), [2.5, 2.75])
  np.testing.assert_allclose(lm_report.at_time(row, 99.0), [2.0, 2.5])


def test_methods_of_one_program_have_one_pace():
  def trained(*seconds):
    return types.SimpleNamespace(seconds=np.array(seconds))

  job = types.SimpleNamespace(config=SMALL)  # two steps a round
  found = lm_training.paces(
    job,
    {
      "scratch": trained(4.0, 3.0),
      "copied_scratch": trained(2.0, 9.0),
      "forward_kl": trained(8.0),
      "reverse_kl": trained(7.0),
      "copied": trained(6.0),
    },
  )
  assert found == {
    "scratch": 1.0,
    "copied_scratch": 1.0,
    "forward_kl": 3.0,
    "reverse_kl": 3.5,
    "copied": 3.0,
  }


def test_no_document_is_in_two_parts():
  documents = [f"{i:02}" + "x" * (10 + i) for i in range(40)]
  documents.append("y" * 900)
  train, validation, test = lm_data.deal(documents, np.random.default_rng(0))
  assert sorted([*train, *validation, *test]) == sorted(documents)
  total = sum(map(len, documents))
  for part in (validation, test):
    assert total / 10 <= sum(map(len, part)) < total / 5
  # The long one trains, as it is more than a part.
  assert documents[-1] in train
  assert lm_data.deal(["a", "b", "c"], np.random.default_rng(0))[1]


def test_characters_are_counted_of_each_part(text):
  """A document ends with one more token."""
  data = lm_data.load_data(small("", text=text))
  parts = lm_data.deal(
    lm_data.read_documents(text)[0], np.random.default_rng(SMALL.seed)
  )
  for part, found in zip(
    parts[1:], (data.validation_characters, data.characters), strict=True
  ):
    count = sum(map(len, part))
    assert found == count / (count + len(part))


def test_few_documents_are_cut_into_pieces(text, tmp_path):
  file = tmp_path / "one.txt"
  file.write_text(LINE * 100 + "z" * 400)
  found, name = lm_data.read_documents(str(file))
  assert "".join(found) == file.read_text()
  assert name == "one.txt"
  assert 25 <= len(found) <= 45
  assert sum(x.endswith("\n") for x in found) > 20
  documents, _ = lm_data.read_documents(text)
  assert len(documents) == 12


def test_windows_predict_each_token_once():
  row = np.arange(31, dtype=np.int32)
  windows = np.asarray(lm_data.cut(row, 6, 100))
  assert windows[:, 1:].ravel().tolist() == list(range(1, 31))
  few = np.asarray(lm_data.cut(row, 6, 3))
  assert few[:, 0].tolist() == [0, 10, 25]


def test_a_character_has_a_token():
  tokenizer = lm_data.characters_of(["abc", "cd"])
  assert tokenizer.size == 6
  tokens = tokenizer.encode("bax")
  assert tokens == [3, 2, 1]
  assert tokenizer.decode(tokens) == "ba\N{REPLACEMENT CHARACTER}"
  row = lm_data.encode(["a", "bc"], tokenizer)
  assert row.tolist() == [2, 0, 3, 4, 0]


@pytest.mark.packages
def test_bpe_is_learned_and_saved(text, tmp_path):
  pytest.importorskip("tokenizers")
  documents, _ = lm_data.read_documents(text)
  config = small(tmp_path, tokens="bpe", vocabulary=270)
  tokenizer = lm_data.train_bpe(config, documents)
  assert tokenizer.size == 270
  assert tokenizer.end == 0
  tokens = tokenizer.encode("the cat — é")
  assert len(tokens) < len("the cat — é".encode())
  assert tokenizer.decode(tokens) == "the cat — é"
  tokenizer.save(tmp_path)
  again = lm_data.load_tokenizers(tmp_path, tmp_path)
  assert again.encode("the cat") == tokenizer.encode("the cat")


def test_every_method_is_described_and_is_known():
  described = lm_methods.describe()
  assert list(described) == list(lm_methods.METHODS)
  assert set(lm_methods.USUAL) < set(described)
  for row in lm_methods.METHODS.values():
    if isinstance(row.loss, str):
      kmethods.create(row.loss, **row.options)
      assert row.taught == (row.loss not in ("scratch", "seqkd"))


@pytest.mark.slow
def test_sparse_and_linear_losses_are_those_of_all_tokens():
  """All tokens known, the losses are the forward KL of the logits."""
  model = lm_networks.Language(None, nets.DecoderConfig(5))
  rng = np.random.default_rng(0)

  def outputs(width):
    hidden, kernel = (
      jnp.asarray(rng.normal(size=shape), jnp.float32)
      for shape in ((2, 3, width), (width, 5))
    )
    return nets.Outputs(
      hidden @ kernel, {}, hidden, classifier=(kernel, jnp.zeros(5))
    )

  student, teacher = outputs(4), outputs(6)
  labels = jnp.array([[0, 1, 2], [3, 4, 0]])
  log_q, log_p = (jax.nn.log_softmax(x.logits) for x in (student, teacher))
  kl = jnp.sum(jnp.exp(log_p) * (log_p - log_q), -1)
  ce = -jnp.take_along_axis(log_q, labels[..., None], -1)[..., 0]
  top = lm_methods.top_loss(model, model, 4)(student.logits, teacher.logits)
  # Of all but one token the bucket is the last one.
  np.testing.assert_allclose(top, kl, rtol=1e-4)
  both = lm_methods.linear_loss(model, model, 4)(student, teacher, labels)
  np.testing.assert_allclose(both, (kl + ce) / 2, rtol=1e-4)
  drawn = lm_methods.sampled_loss(model, model, 4000)(
    student.logits, teacher.logits, key=jax.random.key(0)
  )
  np.testing.assert_allclose(drawn, kl, atol=0.1)


@pytest.fixture(scope="module")
def reference(text, tmp_path_factory):
  folder = tmp_path_factory.mktemp("reference") / "run"
  return folder, run(small(folder, text=text, learning_rates=(1e-2, 1e-9)))


@pytest.mark.slow
def test_a_run_leaves_a_report(reference):
  folder, rows = reference
  report = (folder / "report.md").read_text()
  for name in ("methods.png", "curves.png"):
    assert (folder / name).stat().st_size > 10_000
    assert f"({name})" in report
  for words in (
    "by character tokens",
    "too few seeds for a verdict",
    "| learning rate |",
    "| saved at equal time |",
    "## Texts",
  ):
    assert words in report
  assert list(rows) == ["scratch", "forward_kl", "on_policy", "teacher", "text"]
  for name in ("scratch", "forward_kl", "on_policy"):
    row = rows[name]
    assert f"\n| {lm_methods.TITLES[name]} |" in report
    assert row.bits.shape == row.perplexity.shape == row.samples.shape == (2,)
    assert row.curve.shape == (2, 2)
    # A rate of nothing is not chosen.
    assert row.rate == pytest.approx(1e-2)
    saved = nets.from_pretrained(folder / "students" / name)
    assert saved.config.depth == 1
  logged = [json.loads(line) for line in runs.lines_of(folder)]
  stages = ("teacher", "scratch", "forward_kl", "on_policy")
  assert [(row["stage"], row["step"]) for row in logged] == [
    (stage, step) for stage in stages for step in (2, 4)
  ]


@pytest.mark.slow
def test_models_of_folders_are_distilled_and_saved(
  folders, text, tmp_path, package, monkeypatch
):
  monkeypatch.setattr(lm_report, "draw", lambda job, rows: {})
  own = tmp_path / "own"
  shutil.copytree(folders / "student", own)
  settings = json.loads((own / "config.json").read_text())
  settings["eos_token_id"] = [3, 5]
  (own / "config.json").write_text(json.dumps(settings))
  (own / "generation_config.json").write_text("{}")
  config = small(
    tmp_path / "run",
    text=text,
    teacher=str(folders / "teacher"),
    student=str(own),
    methods=None,
    seeds=None,
    learning_rates=None,
  )
  rows = run(config)
  assert list(rows)[:2] == ["scratch", "forward_kl"]
  assert rows["forward_kl"].bits.shape == (1,)
  before = nets.from_pretrained(folders / "student")
  after = nets.from_pretrained(tmp_path / "run/students/forward_kl")
  assert after.config == before.config
  changed = jax.tree.map(
    lambda x, y: float(jnp.abs(x - y).max()),
    nnx.to_pure_dict(nnx.state(before)),
    nnx.to_pure_dict(nnx.state(after)),
  )
  # Four steps of 1e-4 move weights a little: they started from the folder's.
  assert 0 < max(jax.tree.leaves(changed)) < 1e-2
  saved = tmp_path / "run/students/forward_kl"
  assert (saved / "tokenizer.json").is_file()
  assert (saved / "generation_config.json").read_text() == "{}"
  settings = json.loads((saved / "config.json").read_text())
  assert settings["eos_token_id"] == [3, 5]


@pytest.mark.slow
def test_a_student_starts_as_layers_of_the_teacher():
  tokenizer = lm_data.characters_of(["abc"])
  config = dataclasses.replace(SMALL, teacher_depth=6, student_depth=2)
  teacher, student = lm_networks.make(config, tokenizer)
  params = teacher.network.init(jax.random.key(3)).params
  started = lm_networks.start(
    student, jax.random.split(jax.random.key(0)), (teacher, params)
  )
  for i, layer in enumerate((0, 5)):
    for seed in range(2):
      jax.tree.map(
        lambda x, y, seed=seed: np.testing.assert_array_equal(x[seed], y),
        started.params["blocks"][i],
        params["blocks"][layer],
      )


@pytest.mark.slow
def test_a_step_reads_the_text_of_its_method(text, tmp_path):
  """Own text begins with the corpus, and goes on as the student writes."""
  job = distill_lm.prepare(small(tmp_path / "run", text=text))
  key = jax.random.key(0)
  student = job.student.network.init(key)
  windows = job.data.test[:3]
  own = lm_training.write(key, job, job.student, student.params, windows)
  assert own.shape == windows.shape
  np.testing.assert_array_equal(own[:, :3], windows[:, :3])
  assert not np.array_equal(own, windows)
  nats = lm_training.make_reading(job)(
    job.teacher.network.init(key).params, own[None]
  )
  # An untrained teacher thinks all tokens alike.
  np.testing.assert_allclose(nats, np.log(job.vocabulary), atol=0.05)
  scored = job.score[job.student](
    jax.tree.map(lambda x: x[None], student.params), windows
  )
  np.testing.assert_allclose(scored, np.log(job.vocabulary), atol=0.05)
