"""Images and labels: sources, resumable batches, augmentation, domain shifts.

A source is an object with a length and examples; `load` opens a source by
name. `batches` shuffles, pads and resumes on the host. Augmentations and domain
shifts are pure functions of image batches, for use inside `jax.jit`. Functions
that need scikit-learn, tfds or grain import it when they are called.
"""

from kdjax.data._any_data import (
  ArrayExamples,
  BatchStream,
  SourceExamples,
  open_data,
)
from kdjax.data._augmentation import (
  augment_examples,
  channel_statistics,
  cutout,
  mixup,
  normalize,
  random_crop,
  random_flip,
  random_resized_crop,
)
from kdjax.data._batches import BatchIterator, batches
from kdjax.data._domain_shifts import blend_noise, invert, resize, rotate
from kdjax.data._image_folder import image_folder
from kdjax.data._load import digits, load, tfds_source
from kdjax.data._sources import (
  ArraySource,
  Source,
  as_arrays,
  few_per_class,
  pair,
  split,
  subset,
  without_classes,
)
from kdjax.data._teacher_cache import TeacherCache
from kdjax.data._teacher_cache_records import fingerprint
from kdjax.data._teacher_cache_writing import write_teacher_cache

__all__ = (
  "ArrayExamples",
  "ArraySource",
  "BatchIterator",
  "BatchStream",
  "Source",
  "SourceExamples",
  "TeacherCache",
  "as_arrays",
  "augment_examples",
  "batches",
  "blend_noise",
  "channel_statistics",
  "cutout",
  "digits",
  "few_per_class",
  "fingerprint",
  "image_folder",
  "invert",
  "load",
  "mixup",
  "normalize",
  "open_data",
  "pair",
  "random_crop",
  "random_flip",
  "random_resized_crop",
  "resize",
  "rotate",
  "split",
  "subset",
  "tfds_source",
  "without_classes",
  "write_teacher_cache",
)
