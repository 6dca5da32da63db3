"""The command line of an experiment: flags, mistakes, devices, interruption."""

import contextlib
import dataclasses
import errno
import inspect
import itertools
import logging
import os
import shlex
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, NoReturn, TypeVar, get_type_hints

import jax
import tyro
from rich.console import Console

from experiments.frame import tables
from kdjax import training

Config = TypeVar("Config")
Job = TypeVar("Job")

PATIENCE = 2.0  # seconds that the main thread has to end after a signal


@dataclasses.dataclass(frozen=True)
class Flags:
  """The flags of every experiment.

  Attributes:
    workdir: the run folder; it is made if missing.
  """

  workdir: str = "runs"  # explained above, since experiments override it
  resume: bool = False  # go on with the run in the run folder
  overwrite: bool = False  # replace the run in the run folder
  seed: int = 0  # the seed of all random numbers
  # if a loss, metric or parameter is not finite, stop and say so in the report,
  # or continue; the last finite checkpoint is kept
  nan: Literal["stop", "continue"] = "stop"


def optional(default: str, metavar: str = "INT") -> Any:
  """Annotates a flag with its default in words, such as "of digits 400"."""
  return tyro.conf.arg(
    metavar=metavar, help_behavior_hint=f"(default: {default})"
  )


DataDir = Annotated[str | None, optional("that of tfds", "FOLDER")]


def parse(config_class: type[Config]) -> Config:
  """Reads the command line into a dataclass; `--help` prints its flags."""
  return tyro.cli(config_class, use_underscores=True, prog=_program())


def launch(
  config_class: type[Config],
  prepare: Callable[[Config], Job],
  execute: Callable[[Job], Any],
  methods: Callable[[], Mapping[str, tuple[str, str]]] | None = None,
) -> None:
  """Runs an experiment from the command line.

  `prepare` has the steps that wrong flags, folders, devices and data make fail.
  If the rest, `execute`, diverges, the program ends with one line and code 1;
  files that are damaged or cannot be written end it with one line and code 2.
  Another error is a bug and keeps its traceback. `--methods help` prints the
  area and the description of each method.
  """
  _show_one_line()
  with stoppable() as started:
    if methods and _asks_for_methods(sys.argv[1:]):
      rows = [[name, *texts] for name, texts in methods().items()]
      table = tables.Table(("method", "area", "description"), rows)
      console().print(table.console(left=True))
      return
    job: Any = set_up(prepare, parse(config_class))
    started.append(True)
    try:
      execute(job)
    except training.DivergedError as error:
      job.run.report_divergence(job.console, error)
      print(f"error: {error}", file=sys.stderr)
      raise SystemExit(1) from None
    except (training.RunError, OSError) as error:
      if isinstance(error, OSError) and error.errno not in _NO_ROOM:
        raise
      hint = f"Go on with: {command_line(resume=True)}"
      print(f"error: {' '.join(str(error).split())} {hint}", file=sys.stderr)
      raise SystemExit(2) from None


# A disk is full, a quota used up, or a folder read-only.
_NO_ROOM = (
  *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
  *(errno.EROFS, errno.EACCES, errno.EPERM),
)


def _show_one_line() -> None:
  """Keeps all but one line off the screen where a file cannot be used.

  Orbax raises one error, and before it logs its tracebacks and those of all
  its tasks, some from threads that find their event loop closed.
  """
  warnings.showwarning = _show_warning
  logging.getLogger("absl").setLevel(logging.CRITICAL)
  logging.getLogger("asyncio").addFilter(
    lambda record: "orbax" not in record.getMessage()
  )
  show = sys.unraisablehook

  def show_others(fault: Any) -> None:
    if str(fault.exc_value) != "Event loop is closed":
      show(fault)

  sys.unraisablehook = show_others


def _show_warning(message: Any, *_: Any, **options: Any) -> None:
  """Warnings of a run are for its user: one line, without the source."""
  del options
  print(f"warning: {message}", file=sys.stderr)


def _asks_for_methods(arguments: Sequence[str]) -> bool:
  pairs = itertools.pairwise(arguments)
  return ("--methods", "help") in pairs or "--methods=help" in arguments


class Terminated(KeyboardInterrupt):
  """SIGTERM, treated like Ctrl-C."""


def _terminate(*_: Any) -> NoReturn:
  raise Terminated


@contextlib.contextmanager
def stoppable() -> Iterator[list[bool]]:
  """Ends the program with one line at Ctrl-C or SIGTERM."""
  started: list[bool] = []  # to be filled once there is a run to go on with
  signal.signal(signal.SIGINT, signal.default_int_handler)
  signal.signal(signal.SIGTERM, _terminate)
  # Python's handlers wait for the end of a compilation; a thread does not.
  reader, writer = os.pipe()
  os.set_blocking(writer, False)
  signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
  watcher = threading.Thread(target=_watch, args=(reader, started), daemon=True)
  watcher.start()
  try:
    yield started
  except KeyboardInterrupt as stop:
    if isinstance(stop, SystemExit):  # a loop has saved and ended itself
      _end(int(str(stop.code)) - 128, started)
    terminated = isinstance(stop, Terminated)
    _end(signal.SIGTERM if terminated else signal.SIGINT, started)
  finally:
    signal.set_wakeup_fd(-1)
    os.close(writer)


# The loops that end themselves after a signal.
_finishing: list[training.Interruption] = []


@contextlib.contextmanager
def finishing() -> Iterator[training.Interruption]:
  """A loop that saves and calls `stop` once the interruption has a signal.

  A second signal ends the program at once.
  """
  with training.Interruption() as interruption:
    _finishing.append(interruption)
    try:
      yield interruption
    finally:
      _finishing.remove(interruption)


def _watch(reader: int, started: list[bool]) -> None:
  """Ends the program if its main thread does not do so soon."""
  waiting = False
  while number := os.read(reader, 1):
    if number[0] not in (signal.SIGINT, signal.SIGTERM):
      continue
    if _finishing and not waiting:
      waiting = True
      print(
        "\nstopping after the step under way; a second signal stops at once.",
        file=sys.stderr,
      )
      continue
    time.sleep(PATIENCE)
    _end(number[0], started)


def _end(number: int, started: list[bool]) -> NoReturn:
  for handled in (signal.SIGINT, signal.SIGTERM):
    with contextlib.suppress(ValueError):  # not the main thread
      signal.signal(handled, signal.SIG_IGN)
  hint = "Nothing was computed yet."
  if started:
    hint = f"Go on with: {command_line(resume=True)}"
  print(f"\nstopped. {hint}", file=sys.stderr)
  sys.stdout.flush()
  sys.stderr.flush()
  # Threads that compute would be waited for, or crash at the interpreter's
  # end. All files are written whole or not at all.
  os._exit(128 + number)


def _program() -> str:
  """Such as "python -m experiments.distill"."""
  spec = sys.modules["__main__"].__spec__
  name = spec.name.removesuffix(".__main__") if spec else "experiments"
  return f"python -m {name}"


def command_line(*, resume: bool = False) -> str:
  """The command that started this run, for a fresh folder or to go on."""
  switches = {"--resume", "--overwrite", "--no_resume", "--no_overwrite"}
  words = [word for word in sys.argv[1:] if word not in switches]
  words += ["--resume"] if resume else []
  return f"{_program()} {shlex.join(words)}".rstrip()


def experiment_of(config: Any) -> str:
  """The experiment whose flags these are, such as "distill"."""
  module = type(config).__module__
  spec = getattr(sys.modules.get(module), "__spec__", None)
  name = spec.name if spec else module
  return name.removesuffix(".__main__").rpartition(".")[2]


def set_up(prepare: Callable[[Config], Job], config: Config) -> Job:
  """Prepares a run; a mistake of the user's ends the program with one line."""
  # tfds warns of a folder without data, which the error says in words.
  logging.getLogger("absl").setLevel(logging.CRITICAL)
  try:
    return prepare(config)
  except (ValueError, OSError) as error:
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    raise SystemExit(2) from None


def expect(config: Any, name: str, met: bool, expected: str) -> None:
  """Raises ValueError unless `met`, with the expected values in words."""
  if not met:
    raise ValueError(
      f"{name} is {getattr(config, name)!r}; expected {expected}."
    )


def expect_positive(config: Any, *names: str) -> None:
  """Raises ValueError unless flags are above 0, or tuples of such numbers."""
  for name in names:
    value = getattr(config, name)
    many = isinstance(value, tuple)
    numbers = value if many else (value,)
    met = all(0 < x < float("inf") for x in numbers)
    met = met and 0 < len(set(numbers)) == len(numbers)
    kind = "one or more different numbers" if many else "a number"
    expect(config, name, met, f"{kind} above 0")


def expect_at_least_zero(config: Any, *names: str) -> None:
  """Raises ValueError unless flags are 0 or more."""
  for name in names:
    expect(config, name, getattr(config, name) >= 0, "0 or more")


def expect_share(config: Any, *names: str) -> None:
  """Raises ValueError unless flags are between 0 and 1, ends excluded."""
  for name in names:
    met = 0 < getattr(config, name) < 1
    expect(config, name, met, "a number between 0 and 1")


def expect_units(config: Any, name: str) -> None:
  """Raises ValueError unless the sizes of hidden layers are above 0."""
  met = all(units > 0 for units in getattr(config, name))
  expect(config, name, met, "numbers above 0")


def expect_multiple(config: Any, name: str, unit: str) -> None:
  """Raises ValueError unless a flag is a multiple of another, both above 0."""
  expect_positive(config, unit, name)
  size = getattr(config, unit)
  met = getattr(config, name) % size == 0
  expect(config, name, met, f"a multiple of {unit}, which is {size}")


def expect_some(
  config: Any, name: str, choices: Iterable[str], *, also: str = ""
) -> None:
  """Raises ValueError unless a flag has one or more different choices.

  `also` says which values are valid beside them, such as "all, or ".
  """
  value, choices = getattr(config, name), tuple(choices)
  met = set(value) <= set(choices) and 0 < len(set(value)) == len(value)
  expected = f"{also}one or more different ones of {', '.join(choices)}"
  expect(config, name, met, expected)


# Types of flags whose values `check` looks at.
Count = Annotated[int, expect_positive]
Rate = Annotated[float, expect_positive]
Counts = Annotated[tuple[int, ...], expect_positive]
Rates = Annotated[tuple[float, ...], expect_positive]
Natural = Annotated[int, expect_at_least_zero]
Level = Annotated[float, expect_at_least_zero]
Share = Annotated[float, expect_share]
Units = Annotated[tuple[int, ...], expect_units]


def check(config: Any) -> None:
  """Raises ValueError unless all flags of the types above are valid."""
  hints = get_type_hints(type(config), include_extras=True)
  for name, hint in hints.items():
    for expected in getattr(hint, "__metadata__", ()):
      if inspect.isfunction(expected):
        expected(config, name)


def console() -> Console:
  """A console as wide as its terminal, or wide enough for a table in a file."""
  console = Console()
  return console if console.is_terminal else Console(width=110)


def use_devices(count: int) -> tuple[jax.Device, ...]:
  """The first devices; a CPU pretends to be as many as are wanted."""
  if count > 1:
    # JAX may run already, as in a test; then it has the devices it has.
    with contextlib.suppress(RuntimeError):
      jax.config.update("jax_num_cpu_devices", count)
  devices = jax.devices()
  if not 1 <= count <= len(devices):
    raise ValueError(f"devices is {count}; expected 1 to {len(devices)}.")
  return tuple(devices[:count])


def students_at_a_time(network: str) -> int | None:
  """The `chunk_size` of `training.sweep` that suits a network here."""
  # A CPU has no fast program for convolutions of several kernels at once.
  return 1 if jax.default_backend() == "cpu" and network != "mlp" else None
