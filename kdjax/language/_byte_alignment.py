"""Alignment of two tokenizers by the bytes of their tokens, on the host."""

import functools
import re
from collections.abc import Sequence

import numpy as np

from kdjax import ops

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


@ops.validate
def token_bytes(tokens: Sequence[str], form: str) -> list[bytes]:
  r"""Token bytes: the bytes of each token of a vocabulary.

  Args:
    tokens: tokens as a tokenizer stores them, such as `["Ġthe", "Ċ"]`.
    form: "byte_level" for the alphabet of GPT-2, Llama 3 and Qwen;
      "sentencepiece" for that of Llama 2 and Gemma, with `▁` for a space and
      `<0x0A>` for a byte.

  Returns:
    The bytes of each token.

  Raises:
    ValueError: if the form is unknown, or a token has a character that the
      alphabet does not have, as special tokens may.

  Examples:
    >>> token_bytes(["Ġthe", "Ċ"], "byte_level")
    [b' the', b'\n']
    >>> token_bytes(["▁the", "<0x0A>"], "sentencepiece")
    [b' the', b'\n']

  References:
    Radford et al., `Language models are unsupervised multitask learners
    <https://cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf>`_,
    2019, section 2.2; Kudo and Richardson, `SentencePiece
    <https://arxiv.org/abs/1808.06226>`_, 2018.
  """
  ops.check_choice("form", form, ("byte_level", "sentencepiece"))
  if form == "sentencepiece":
    return [
      bytes([int(byte[1], 16)])
      if (byte := _BYTE.fullmatch(token))
      else token.replace("▁", " ").encode()
      for token in tokens
    ]
  alphabet = _byte_alphabet()
  result = []
  for token in tokens:
    try:
      result.append(bytes(alphabet[character] for character in token))
    except KeyError as error:
      raise ValueError(
        f"token_bytes: token {token!r} has the character {error.args[0]!r}; "
        "expected the byte-level alphabet of GPT-2. Leave out special tokens, "
        "or use form 'sentencepiece'."
      ) from None
  return result


@ops.validate
def align_bytes(
  student_tokens: Sequence[bytes | None], teacher_tokens: Sequence[bytes | None]
) -> tuple[np.ndarray, np.ndarray]:
  """Byte alignment: chunks of the same text under two tokenizers.

  A chunk ends where tokens of both sides end. A chunk is the smallest run of
  tokens on both sides with the same bytes.

  Args:
    student_tokens: the bytes of each token of a text (`token_bytes`); None for
      a token in no chunk: a special token, a prompt, padding.
    teacher_tokens: the same for the teacher's tokens of the same text.

  Returns:
    Two arrays for `chunk_log_probs`, of the student's and of the teacher's
    tokens: the number of each token's chunk, from 0 on; -1 for a token in no
    chunk.

  Raises:
    ValueError: if the texts differ by more than one space at their start, which
      SentencePiece adds.

  Examples:
    >>> student, teacher = align_bytes([b"a", b"bc", b"d"], [b"ab", b"c", b"d"])
    >>> student.tolist(), teacher.tolist()
    ([0, 0, 1], [0, 0, 1])

  References:
    Minixhofer, Vulić and Ponti, `Universal cross-tokenizer distillation via
    approximate likelihood matching <https://arxiv.org/abs/2503.20083>`_, 2025,
    section 3.
  """
  sides = [list(student_tokens), list(teacher_tokens)]
  texts = [b"".join(x or b"" for x in tokens) for tokens in sides]
  if texts[0] != texts[1]:
    _strip_space(sides, texts)
  ends = [
    np.cumsum([len(x or b"") for x in tokens], dtype=np.int64)
    for tokens in sides
  ]
  boundaries = np.intersect1d(ends[0], ends[1])
  boundaries = boundaries[boundaries > 0]
  student, teacher = (
    np.where(
      [x is not None for x in tokens],
      np.searchsorted(boundaries, end),
      -1,
    ).astype(np.int32)
    for tokens, end in zip(sides, ends, strict=True)
  )
  return student, teacher


def _strip_space(sides: list[list[bytes | None]], texts: list[bytes]) -> None:
  """Removes the space that one of two texts starts with, in place."""
  for i in (0, 1):
    if texts[i] == b" " + texts[1 - i]:
      for j, token in enumerate(sides[i]):
        if token:
          sides[i][j] = token[1:]
          return
  shorter = min(map(len, texts))
  first = next(
    (i for i in range(shorter) if texts[0][i] != texts[1][i]), shorter
  )
  start = max(first - 10, 0)
  raise ValueError(
    f"align_bytes: the tokens write different texts from byte {first} on, "
    f"{texts[0][start : first + 10]!r} (student) and "
    f"{texts[1][start : first + 10]!r} (teacher); expected the same text, with "
    "None for special tokens."
  )


@functools.cache
def _byte_alphabet() -> dict[str, int]:
  """Returns the character of each byte: printable ones stand for themselves."""
  printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
  others = [x for x in range(256) if x not in set(printable)]
  return {chr(x): x for x in printable} | {
    chr(256 + i): x for i, x in enumerate(others)
  }
