"""Signals: the loop ends itself, and nothing is swallowed."""

import signal

import pytest

from kdjax.training import Interruption


def run(*signals, stop=False):
  with Interruption() as interruption:
    for number in signals:
      signal.raise_signal(number)
      assert interruption.signal == number
    if stop:
      interruption.stop("saved")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_loop_ends_itself_with_the_code_of_the_signal(number, capsys):
  before = signal.getsignal(number)
  # One exception for both kinds of callers, and no traceback.
  with pytest.raises(KeyboardInterrupt) as caught:
    run(number, stop=True)
  assert isinstance(caught.value, SystemExit)
  assert caught.value.code == 128 + number
  assert capsys.readouterr().err == "saved\n"
  assert signal.getsignal(number) is before


def test_a_second_signal_acts_at_once():
  # A program in the background of a shell is started with SIGINT ignored.
  before = signal.signal(signal.SIGINT, signal.default_int_handler)
  try:
    with pytest.raises(KeyboardInterrupt) as caught:
      run(signal.SIGINT, signal.SIGINT)
  finally:
    signal.signal(signal.SIGINT, before)
  assert not isinstance(caught.value, SystemExit)


def test_a_signal_after_the_last_step_is_not_lost(capsys):
  with pytest.raises(SystemExit, match="143"):
    run(signal.SIGTERM)
  assert "results are saved" in capsys.readouterr().err


def test_signals_are_left_alone_if_not_wanted():
  before = signal.getsignal(signal.SIGTERM)
  with Interruption(wanted=False):
    assert signal.getsignal(signal.SIGTERM) is before
