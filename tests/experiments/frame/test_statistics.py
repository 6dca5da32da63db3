"""Intervals, verdicts and tables."""

import io

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from experiments.frame import statistics, tables

GAINS = np.array([0.1, 0.11, 0.12, 0.1])


def quiet():
  return Console(file=io.StringIO(), width=80)


def test_an_interval_is_that_of_a_paired_t_test():
  generator = np.random.default_rng(0)
  treated, control = generator.normal(size=(2, 9))
  gain = statistics.gain_of(treated + 1, control)
  test = stats.ttest_rel(treated + 1, control)
  np.testing.assert_allclose(gain[1:3], test.confidence_interval(0.95))
  np.testing.assert_allclose(gain.p_value, test.pvalue)
  np.testing.assert_allclose(gain.mean, np.mean(gain[1:3]))


def test_holms_correction():
  p_values = [0.01, 0.04, 0.03, 0.005]
  # By hand: 4 * .005, 3 * .01, 2 * .03, and never below the one before.
  expected = [0.03, 0.06, 0.06, 0.02]
  np.testing.assert_allclose(statistics.holm(p_values), expected)
  assert statistics.holm([0.6, 0.7]) == [1.0, 1.0]
  assert statistics.holm([]) == []


@pytest.mark.parametrize(
  ("differences", "verdict"),
  [
    (GAINS, "helped"),
    (-GAINS, "hurt"),
    (GAINS * [1, -1, 1, -1], "unclear"),
    (GAINS[:2], "unknown"),
    (GAINS[:1], "unknown"),
    # Equal gains have no spread to test by; their signs are too few.
    (np.full(2, 0.095), "unknown"),
    (np.full(3, 0.095), "unclear"),
    (np.full(6, 0.095), "helped"),
    # The same up to rounding, which a t-test takes for a spread.
    (np.array([0.6 - 0.5, 0.7 - 0.6, 0.8 - 0.7]), "unclear"),
    (np.zeros(5), "unclear"),
    (np.full(5, np.nan), "diverged"),
  ],
)
def test_a_verdict_needs_three_seeds_and_a_spread(differences, verdict):
  gain = statistics.gain_of(0.5 + differences, np.full(len(differences), 0.5))
  assert gain.verdict == verdict
  assert (gain.low is None) == (
    len(differences) < 3 or not np.ptp(differences) > 1e-6
  )
  if verdict == "diverged":
    assert gain.sentence("KD") == "KD diverged: its scores are not finite."
    assert gain.cell() == "diverged"
  if len(differences) < 3:
    assert statistics.TOO_FEW in gain.sentence("KD")
    assert "interval" not in gain.sentence("KD")
    assert gain.cell() == f"{100 * gain.mean:+.1f}"


def test_two_methods_must_show_more_than_one():
  weak = np.array([0.02, 0.05, 0.09, 0.04])
  alone = statistics.gain_of(weak, np.zeros(4))
  assert 0.025 < alone.p_value < 0.05
  both = statistics.compare({"a": weak, "b": weak}, np.zeros(4))
  assert [gain.verdict for gain in both.values()] == ["unclear", "unclear"]
  assert alone.verdict == "helped"


def test_table_words_and_title_say_the_same():
  zero = np.zeros(4)
  scores = {"kd": GAINS, "at": -GAINS, "crd": GAINS * [1, -1, 1, -1]}
  names = {"kd": "KD", "at": "AT", "crd": "CRD"}
  gains = statistics.compare(scores, zero)
  assert statistics.findings(gains, names, "scratch") == [
    "Clearly better than scratch: KD +10.8.",
    "Clearly worse than scratch: AT -10.8.",
    "No clear difference from scratch: CRD +0.2.",
  ]
  title = statistics.headline(gains, names, "scratch")
  assert title == "KD: +10.8 points over scratch"
  assert gains["kd"].cell().endswith(") **+**")
  assert gains["at"].cell().endswith(") **-**")
  assert gains["crd"].cell().endswith(")")
  few = statistics.compare({k: x[:2] for k, x in scores.items()}, zero[:2])
  (finding,) = statistics.findings(few, names, "scratch")
  assert finding.endswith(f"; {statistics.TOO_FEW}.")
  title = statistics.headline(few, names, "scratch")
  assert title == statistics.TOO_FEW.capitalize()
  del gains["kd"]
  title = statistics.headline(gains, names, "scratch")
  assert title == "No method is clearly better than scratch"


def test_mean_and_deviation_as_text():
  text = statistics.mean_std(np.array([0.1, 0.2, 0.3]), scale=100, digits=1)
  assert text == "20.0 ± 10.0"
  assert statistics.mean_std(np.array([0.5])) == "0.50"


def test_a_table_is_the_same_in_the_report_and_on_the_console():
  table = tables.Table(("a", "b", "c"), [("x", "1 **+**", "2")], shown=(0, 1))
  assert table.markdown().splitlines() == [
    "| a | b | c |",
    "| --- | ---: | ---: |",
    "| x | 1 **+** | 2 |",
  ]
  console = quiet()
  console.print(table.console())
  assert "1 +" in console.file.getvalue()
  assert "2" not in console.file.getvalue()


def test_one_seed_has_no_deviation():
  assert statistics.over_seeds(1) == "Of one seed, so without a deviation"
  assert statistics.over_seeds(3) == "Mean ± standard deviation over 3 seeds"
