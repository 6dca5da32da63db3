"""Images and labels: sources, batches that resume, augmentation, shifts.

A source is anything with a length and examples; `load` opens one by name.
`batches` shuffles, pads and resumes on the host; augmentations and domain
shifts are pure functions on image batches, to be used inside jit. What needs
scikit-learn, tfds or grain imports it when it is called.
"""

from kdjax.data._augmentation import augment_examples
from kdjax.data._augmentation import channel_statistics
from kdjax.data._augmentation import cutout
from kdjax.data._augmentation import mixup
from kdjax.data._augmentation import normalize
from kdjax.data._augmentation import random_crop
from kdjax.data._augmentation import random_flip
from kdjax.data._augmentation import random_resized_crop
from kdjax.data._batches import BatchIterator
from kdjax.data._batches import batches
from kdjax.data._domain_shifts import blend_noise
from kdjax.data._domain_shifts import invert
from kdjax.data._domain_shifts import resize
from kdjax.data._domain_shifts import rotate
from kdjax.data._image_folder import image_folder
from kdjax.data._load import digits
from kdjax.data._load import load
from kdjax.data._load import tfds_source
from kdjax.data._sources import ArraySource
from kdjax.data._sources import Source
from kdjax.data._sources import as_arrays
from kdjax.data._sources import few_per_class
from kdjax.data._sources import split
from kdjax.data._sources import subset
from kdjax.data._sources import without_classes
from kdjax.data._teacher_cache import TeacherCache
from kdjax.data._teacher_cache_records import fingerprint
from kdjax.data._teacher_cache_writing import write_teacher_cache

__all__ = (
  "ArraySource",
  "BatchIterator",
  "Source",
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
