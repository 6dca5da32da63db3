"""Two tokenizers on one text: chunks of equal bytes, and their likelihoods."""

import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.language import align_bytes, chunk_log_probs, token_bytes


def test_a_chunk_has_the_same_bytes_on_both_sides():
  rng = np.random.default_rng(0)
  text = "Ein Stück Käse, 5 €; naïve façade ☃".encode()
  for _ in range(20):
    sides = []
    for _ in range(2):
      cuts = np.sort(rng.choice(len(text), rng.integers(3, 12), replace=False))
      pieces = [
        text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)
      ]
      sides.append([None, *pieces])  # a special token first
    chunks = align_bytes(*sides)
    written = []
    for tokens, numbers in zip(sides, chunks, strict=True):
      assert numbers[0] == -1
      assert np.all(np.diff(numbers) >= 0)
      written.append(
        [
          b"".join(
            t for t, n in zip(tokens, numbers, strict=True) if n == k and t
          )
          for k in range(max(numbers) + 1)
        ]
      )
    assert written[0] == written[1]
    ends = [{*np.cumsum([len(t or b"") for t in x])} - {0} for x in sides]
    assert len(written[0]) == len(ends[0] & ends[1])  # none could be cut


def test_the_space_of_sentencepiece_is_left_out():
  student = token_bytes(["▁caf", "<0xC3>", "<0xA9>", "▁au"], "sentencepiece")
  teacher = token_bytes(["cafÃ©", "Ġa", "u"], "byte_level")
  chunks = align_bytes(student, teacher)
  np.testing.assert_array_equal(chunks[0], [0, 0, 0, 1])
  np.testing.assert_array_equal(chunks[1], [0, 1, 1])


def test_likelihoods_of_chunks_are_sums_over_their_tokens():
  log_probs = jnp.array([[-1.0, -2.0, -4.0, -8.0], [-1.0, -1.0, -1.0, -1.0]])
  chunks = jnp.array([[-1, 0, 0, 1], [0, 2, 2, 2]])
  values, where = chunk_log_probs(log_probs, chunks, num_chunks=3)
  np.testing.assert_array_equal(values, [[-6, -8, 0], [-1, 0, -3]])
  np.testing.assert_array_equal(where, np.array([[1, 1, 0], [1, 0, 1]], bool))


def test_different_texts_and_alphabets_are_refused():
  with pytest.raises(ValueError, match="different texts from byte 1 on"):
    align_bytes([b"abc"], [b"adc"])
  with pytest.raises(ValueError, match="has the character"):
    token_bytes(["a b"], "byte_level")
  every = bytes(range(256))
  alphabet = "".join(
    chr(x) if 33 <= x < 127 or 161 <= x < 173 or x > 173 else "" for x in every
  )
  assert token_bytes([alphabet], "byte_level")[0] == alphabet.encode("latin-1")
