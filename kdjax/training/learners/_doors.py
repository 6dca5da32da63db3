"""Names for a form of batch, each of which hands on to `learner`."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kdjax import methods
from kdjax.training.learners._learner import Learner, open_door
from kdjax.training.networks._models import Variables
from kdjax.training.optimizers._optimizers import Optimizer
from kdjax.training.steps._state import TrainState

Loss = methods.Method | methods.Objective | Callable[..., Any]


def distill(
  student: Any, teacher: Any, method: Loss, optimizer: Optimizer, **options: Any
) -> Learner:
  """Distillation: a learner for a student that learns from a teacher.

  The batch is `{"image", "label", "mask"}`. The roles are `"student"` and
  `"teacher"`, and `"student_strong"` and `"teacher_strong"` of a view
  `"strong"`.

  Args:
    student: the network to train.
    teacher: the frozen network, in evaluation mode; a `CachedTeacher`, whose
      outputs come with the batch; or None to train on labels alone.
    method: a loss function such as `kdjax.distillation.kd_loss`, or a method
      such as `methods.create("dkd")`.
    optimizer: an Optax optimizer.
    **options: of `learner`, and hyper-parameters.

  Returns:
    A `Learner`.

  Examples:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> import optax
    >>> from flax import nnx
    >>> from kdjax.distillation import kd_loss
    >>> teacher = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    >>> student = nnx.Linear(3, 2, rngs=nnx.Rngs(1))
    >>> learner = distill(
    ...   student, teacher, kd_loss, optax.adam(1e-3), temperature=4.0, on="x"
    ... )
    >>> batch = {"x": jnp.ones((4, 3)), "label": jnp.zeros(4, int)}
    >>> state = learner.init(jax.random.key(0), batch)
    >>> state.state["objective"]["temperature"]
    Array(4., dtype=float32)

  References:
    Hinton et al., `Distilling the knowledge in a neural network
    <https://arxiv.org/abs/1503.02531>`_, 2015; Beyer et al., `Knowledge
    distillation: a good teacher is patient and consistent
    <https://arxiv.org/abs/2106.05237>`_, 2021: one view for both.
  """
  networks = {"student": student}
  if teacher is not None:
    networks["teacher"] = teacher
  return open_door(
    "distill", "distillation", method, networks, optimizer, **options
  )


def adapt(
  student: Any,
  method: Loss,
  optimizer: Optimizer,
  *,
  teacher: Any = None,
  joint: bool = True,
  **options: Any,
) -> Learner:
  """Domain adaptation: a learner for a student that sees two domains.

  A batch has a part for each domain, `{"source": {"image", "label", "mask"},
  "target": {"image", "mask"}}`, and the roles are `"source"` and `"target"`;
  a view `"strong"` of the target's examples is the role `"target_strong"`.
  The domains may differ in size, and entries beside the parts are of both. A
  method that reads one domain sees not even batch statistics of the other.

  Args:
    student: the network to train, or role -> network.
    method: a loss function such as `mine(source_logits, source_labels,
      target_embeddings)`, or a method such as `methods.create("dann",
      steps=1000)`.
    optimizer: an Optax optimizer.
    teacher: a frozen network, such as the student as trained on the source;
      its outputs on both domains are the roles `"source_teacher"` and
      `"target_teacher"`. `"average"`, for a loss function, is the average of
      the student that `methods.parameter_ema` keeps.
    joint: whether both domains go through the student as one batch, so that
      they share batch statistics (TLlib); otherwise one after the other (Dassl,
      DeepDA). The same without batch statistics.
    **options: of `learner`, and hyper-parameters.

  Returns:
    A `Learner`.

  Examples:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> import optax
    >>> from flax import nnx
    >>> from kdjax.methods import create
    >>> student = nnx.Linear(3, 2, rngs=nnx.Rngs(1))
    >>> adapt(student, create("fda"), optax.sgd(0.1))
    Learner(fda of student)

  References:
    Ganin et al., `Domain-adversarial training of neural networks
    <https://arxiv.org/abs/1505.07818>`_, 2016.
  """
  given = isinstance(student, Mapping)
  networks = dict(student) if given else {"student": student}
  if teacher is not None:
    if isinstance(teacher, str) and teacher != "average":
      raise ValueError(
        f"adapt: teacher is {teacher!r}; expected a network or 'average'."
      )
    networks["average" if isinstance(teacher, str) else "teacher"] = teacher
  if not isinstance(method, methods.Method):
    views = options.get("views") or {}
    names = ("on", "views", "augment", "metrics", "axis_name")
    own = {k: options.pop(k) for k in list(options) if k not in names}
    domains = own.pop("domains", ())
    method = methods.from_loss(
      method, networks, area="adaptation", views=views, domains=domains, **own
    )
  if not joint:
    passes = {k: v._replace(joint=None) for k, v in method.passes.items()}
    method = method._replace(passes=passes)
  networks.pop("average", None)
  return open_door(
    "adapt", "adaptation", method, networks, optimizer, **options
  )


def generalize(
  student: Any,
  method: Loss,
  optimizer: Optimizer,
  *,
  others: Mapping[str, Any] | None = None,
  **options: Any,
) -> Learner:
  """Domain generalization: a learner for a student of several domains.

  A batch has two batch axes, `{"image": [domains, batch, ...], "label":
  [domains, batch], "mask": [domains, batch]}`, and so have the outputs of the
  role `"student"`. All domains go through the student as one batch.

  Args:
    student: the network to train, or role -> network.
    method: a loss function, or a method such as `methods.create("vrex")`.
    optimizer: an Optax optimizer.
    others: role -> the further networks that the method trains, such as
      CrossGrad's `"judge"`, which tells the domains apart.
    **options: of `learner`, and hyper-parameters.

  Returns:
    A `Learner`.

  Examples:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> import optax
    >>> from flax import nnx
    >>> from kdjax.methods import create
    >>> student = nnx.Linear(3, 2, rngs=nnx.Rngs(1))
    >>> learner = generalize(student, create("mldg"), optax.adam(0.1), on="x")
    >>> batch = {"x": jnp.ones((3, 4, 3)), "label": jnp.zeros((3, 4), int)}
    >>> state = learner.init(jax.random.key(0), batch)
    >>> state, seen = learner.step(state, {}, batch, jax.random.key(1))

  References:
    Gulrajani and Lopez-Paz, `In search of lost domain generalization
    <https://arxiv.org/abs/2007.01434>`_, 2021.
  """
  networks = student if isinstance(student, Mapping) else {"student": student}
  return open_door(
    "generalize",
    "generalization",
    method,
    {**networks, **(others or {})},
    optimizer,
    **options,
  )


def finetune(
  student: Any, past: Any, method: Loss, optimizer: Optimizer, **options: Any
) -> Learner:
  """Fine-tuning: a learner for a student that starts as a pretrained network.

  The roles are `"student"` and `"past"`, the pretrained network, which is
  frozen and runs in evaluation mode.

  Args:
    student: the network to train, which starts with the pretrained body and a
      new head.
    past: the pretrained network, or None for a method that does not read it.
    method: a loss function, or a method such as `methods.create("l2_sp")`.
    optimizer: an Optax optimizer.
    **options: of `learner`, and hyper-parameters.

  Returns:
    A `Learner`.

  Examples:
    >>> import optax
    >>> from flax import nnx
    >>> from kdjax.methods import create
    >>> past = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    >>> finetune(nnx.clone(past), past, create("l2_sp"), optax.sgd(0.1))
    Learner(l2_sp of student, past (frozen))

  References:
    Li and Hoiem, `Learning without forgetting
    <https://arxiv.org/abs/1606.09282>`_, 2016.
  """
  networks = {"student": student}
  if past is not None:
    networks["past"] = past
  return open_door(
    "finetune", "finetuning", method, networks, optimizer, **options
  )


def continue_on(
  student: Any,
  method: Loss,
  optimizer: Optimizer,
  *,
  past: Any = None,
  **options: Any,
) -> Learner:
  """Continual learning: a learner for a student of one task after the other.

  The roles are `"student"` on the current examples, `"past"`, the network
  before the current task, on the same ones, and the student on replayed
  examples, which are parts of the batch: `"replay"`, and `"second_replay"` for
  a second draw. See `kdjax.continual.reservoir_sample`, whose mask is the
  part's `"mask"`: an empty buffer adds nothing.

  Args:
    student: the network to train, with a head for the classes of all tasks.
    method: a loss function such as `mine(student_logits, past_logits,
      replay_logits, replay_labels)`, or a method such as
      `methods.create("der_plus_plus")`.
    optimizer: an Optax optimizer.
    past: the network before the current task, or None for a method that does
      not read it. After a task the student takes its place: `frozen = {"past":
      state.student}`, without another compilation.
    **options: of `learner`, and hyper-parameters.

  Returns:
    A `Learner`.

  Examples:
    >>> import optax
    >>> from flax import nnx
    >>> from kdjax.methods import create
    >>> student = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    >>> continue_on(student, create("er"), optax.sgd(0.1))
    Learner(er of student)

  References:
    Buzzega et al., `Dark experience for general continual learning
    <https://arxiv.org/abs/2004.07211>`_, 2020.
  """
  networks = {"student": student}
  if past is not None:
    networks["past"] = past
  return open_door(
    "continue_on", "continual", method, networks, optimizer, **options
  )


def collaborate(
  peers: Sequence[Any], method: Loss, optimizer: Optimizer, **options: Any
) -> Learner:
  """Collaboration: a learner for peers that teach each other.

  The roles are `"peer_0"`, `"peer_1"` and so on, and so are the networks' names
  in the state. Peers may have different architectures, and see the same
  examples. A method that reads stale peers (codistillation) has them in
  `frozen`, with weights of their own; `stale_peers(state)` are the current
  ones.

  Args:
    peers: the networks to train, two or more.
    method: a loss function such as `mine(peer_0_logits, peer_1_logits,
      labels)`, or a method such as `methods.create("mutual")`.
    optimizer: an Optax optimizer.
    **options: of `learner`, and hyper-parameters.

  Returns:
    A `Learner`.

  Raises:
    ValueError: if there are fewer than two peers.

  Examples:
    >>> import optax
    >>> from flax import nnx
    >>> from kdjax.methods import create
    >>> peers = [nnx.Linear(3, 2, rngs=nnx.Rngs(i)) for i in range(3)]
    >>> collaborate(peers, create("mutual"), optax.sgd(0.1))
    Learner(mutual of peer_0, peer_1, peer_2)

  References:
    Zhang et al., `Deep mutual learning <https://arxiv.org/abs/1706.00384>`_,
    2018; Anil et al., `Large scale distributed neural network training through
    online distillation <https://arxiv.org/abs/1804.03235>`_, 2018.
  """
  if len(peers) < 2:
    raise ValueError(
      f"collaborate: peers has {len(peers)} networks; expected two or more."
    )
  networks = {f"peer_{i}": peer for i, peer in enumerate(peers)}
  if isinstance(method, methods.Method):
    rows = dict(method.passes)
    stale = any(name.startswith("stale_") for name in rows)
    rows = {k: v for k, v in rows.items() if not _is_peer(k)}
    kinds = ("peer", "stale") if stale else ("peer",)
    for i in range(len(peers)):
      rows |= {
        f"{kind}_{i}": methods.Pass(f"{kind}_{i}", train=kind == "peer")
        for kind in kinds
      }
    frozen = tuple(f"stale_{i}" for i in range(len(peers))) if stale else ()
    needs = method.needs._replace(networks=frozen)
    method = method._replace(passes=rows, needs=needs)
    if stale:
      networks |= {f"stale_{i}": peer for i, peer in enumerate(peers)}
  return open_door(
    "collaborate", "collaboration", method, networks, optimizer, **options
  )


def _is_peer(role: str) -> bool:
  return role.startswith(("peer_", "stale_"))


def stale_peers(state: TrainState) -> dict[str, Variables]:
  """The peers as they are now, for `frozen` of the steps to come.

  Args:
    state: of a learner of `collaborate`.

  Returns:
    `"stale_0"`, `"stale_1"` and so on -> variables. Update them every some
    thousand steps: `frozen = {**learner.frozen, **stale_peers(state)}`.

  Examples:
    >>> params = {"peer_0": 1.0, "objective": {}}
    >>> state = TrainState(0, params, {"peer_0": {}, "objective": {}}, ())
    >>> stale_peers(state)["stale_0"].params
    1.0

  References:
    Anil et al., `Large scale distributed neural network training through online
    distillation <https://arxiv.org/abs/1804.03235>`_, 2018.
  """
  return {
    name.replace("peer_", "stale_"): Variables(params, state.state[name])
    for name, params in state.params.items()
    if name.startswith("peer_")
  }


def guide(
  student: Any,
  teachers: Sequence[Any],
  method: Loss,
  optimizer: Optimizer,
  **options: Any,
) -> Learner:
  """Several teachers: a learner for one student that all of them guide.

  The roles are `"student"`, `"teacher_0"`, `"teacher_1"` and so on: a teacher
  and its assistants (`methods.create("dgkd")`), or teachers of different
  classes (`methods.create("amalgamation", teacher_classes=...)`). A mean of
  teachers is `training.ensemble`.

  Args:
    student: the network to train.
    teachers: the frozen networks, in evaluation mode.
    method: a loss function or a method.
    optimizer: an Optax optimizer.
    **options: of `learner`, and hyper-parameters.

  Returns:
    A `Learner`.

  Raises:
    ValueError: if there is no teacher.

  Examples:
    >>> import optax
    >>> from flax import nnx
    >>> from kdjax.methods import create
    >>> teachers = [nnx.Linear(3, 2, rngs=nnx.Rngs(i)) for i in range(2)]
    >>> student = nnx.Linear(3, 2, rngs=nnx.Rngs(9))
    >>> learner = guide(student, teachers, create("dgkd"), optax.sgd(0.1))
    >>> sorted(learner.frozen)
    ['teacher_0', 'teacher_1']

  References:
    Son et al., `Densely guided knowledge distillation using multiple teacher
    assistants <https://arxiv.org/abs/2009.08825>`_, 2021.
  """
  if not len(teachers):
    raise ValueError("guide: teachers is empty; expected one or more networks.")
  frozen = {f"teacher_{i}": teacher for i, teacher in enumerate(teachers)}
  if isinstance(method, methods.Method):
    rows = {
      k: v for k, v in method.passes.items() if not k.startswith("teacher_")
    }
    needs = method.needs._replace(networks=tuple(frozen))
    rows |= {name: methods.Pass(name) for name in frozen}
    method = method._replace(passes=rows, needs=needs)
  return open_door(
    "guide",
    "collaboration",
    method,
    {"student": student, **frozen},
    optimizer,
    **options,
  )


def align(
  students: Mapping[str, Any],
  method: Loss,
  optimizer: Optimizer,
  *,
  teachers: Mapping[str, Any] | None = None,
  **options: Any,
) -> Learner:
  """Cross-modal alignment: a learner for a tower of each modality.

  A batch is paired: row i of every entry is the same example. The roles are
  `"student_image"`, `"student_text"`, `"teacher_image"` and so on, of the names
  given, and each network sees the entry of its modality. A teacher on one
  modality and a student on another one need no towers: `distill(...,
  on={"student": "sound", "teacher": "image"})`.

  Args:
    students: modality -> the network to train.
    method: a loss function such as `mine(student_image_embeddings,
      student_text_embeddings)`, or a method such as
      `methods.create("clip_kd")`.
    optimizer: an Optax optimizer.
    teachers: modality -> the frozen network, in evaluation mode; or None.
    **options: of `learner`, and hyper-parameters.

  Returns:
    A `Learner`.

  Raises:
    ValueError: if there is no student.

  Examples:
    >>> import optax
    >>> from kdjax import nets
    >>> from kdjax.methods import create
    >>> from kdjax.training import Network
    >>> def tower(width):
    ...   return Network.of(
    ...     lambda rngs: nets.MLP(4, input_shape=(1, 1, width), rngs=rngs)
    ...   )
    >>> towers = {"image": tower(6), "text": tower(3)}
    >>> align(towers, create("clip"), optax.adam(1e-3))
    Learner(clip of student_image, student_text)

  References:
    Radford et al., `Learning transferable visual models from natural language
    supervision <https://arxiv.org/abs/2103.00020>`_, 2021; Yang et al.,
    `CLIP-KD <https://arxiv.org/abs/2307.12732>`_, 2024.
  """
  if not students:
    raise ValueError("align: students is empty; expected one or more networks.")
  networks = {f"student_{name}": x for name, x in students.items()}
  networks |= {f"teacher_{name}": x for name, x in (teachers or {}).items()}
  if isinstance(method, methods.Method):
    passes = methods.make_passes("cross_modal", networks)
    frozen = tuple(k for k in networks if k.startswith("teacher_"))
    lacking = set(method.needs.networks) - set(frozen)
    frozen += tuple(sorted(lacking))
    needs = method.needs._replace(networks=frozen)
    method = method._replace(passes=passes, needs=needs)
  return open_door(
    "align", "cross_modal", method, networks, optimizer, **options
  )
