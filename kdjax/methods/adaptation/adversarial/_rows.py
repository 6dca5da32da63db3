"""The adversarial methods of adaptation, as their authors weigh them."""

from kdjax.methods._row import Row, Search
from kdjax.methods.adaptation._row_kinds import (
  adversary,
  rising,
  rising_weighted,
  row,
)
from kdjax.methods.adaptation.adversarial._adda import adda
from kdjax.methods.adaptation.adversarial._advent import advent
from kdjax.methods.adaptation.adversarial._cdan import cdan
from kdjax.methods.adaptation.adversarial._dann import bsp, dann
from kdjax.methods.adaptation.adversarial._iwan import iwan
from kdjax.methods.adaptation.adversarial._jda import jda
from kdjax.methods.adaptation.adversarial._mcd import mcd
from kdjax.methods.adaptation.adversarial._mdd import mdd
from kdjax.methods.adaptation.adversarial._osbp import osbp
from kdjax.methods.adaptation.adversarial._pada import pada

ROWS: dict[str, Row] = {
  "dann": adversary(
    "DANN", "a discriminator cannot tell the domains apart", rising(dann)
  ),
  "cdan": adversary(
    "CDAN",
    "as DANN, of embeddings times predicted classes",
    rising(cdan),
  ),
  "cdan_entropy": adversary(
    "CDAN+E",
    "as CDAN, sure examples weigh more",
    rising(cdan, entropy=True),
  ),
  "cdan_random": adversary(
    "CDAN, randomized",
    "as CDAN, by random maps of a given width",
    rising(cdan, mapped=1024),
  ),
  "bsp": row(
    "DANN+BSP",
    "as DANN, the largest singular value is penalized",
    rising_weighted(bsp),
    weight=1e-4,
  ),
  "jda": row(
    "JDA",
    "the task and the divergence of the domains, as one objective",
    rising_weighted(jda),
    cross_entropy=0.0,
    source="the formula L_JDA",
  ),
  "adda": row(
    "ADDA",
    "the target's features pass for the source's",
    adda,
    cross_entropy=0.0,
    networks=("source",),
    start="source",
    tuned="",
    source="paper",
  ),
  "mcd": adversary(
    "MCD",
    "two classifiers disagree on the target, the features prevent it",
    rising(mcd),
    cross_entropy=0.0,
  ),
  "mdd": adversary(
    "MDD",
    "a second classifier turns on the first, the features prevent it",
    rising(mdd),
    scale=0.1,
  ),
  "osbp": row(
    "OSBP",
    "a last class takes in what the source does not know (open sets)",
    osbp,
    tuned="unknown_share",
    search=Search(0.5),
  ),
  "iwan": row(
    "IWAN",
    "as DANN, source examples unlike the target weigh less (partial sets)",
    rising_weighted(iwan),
    weight=3.0,
  ),
  "pada": row(
    "PADA",
    "as DANN, source classes that the target lacks weigh less (partial sets)",
    rising_weighted(pada),
    cross_entropy=0.0,
  ),
  "advent": row(
    "ADVENT",
    "entropy maps of both domains look alike (segmentation)",
    advent,
    weight=0.001,
    source="authors",
  ),
}
