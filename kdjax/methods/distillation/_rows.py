"""Every method of distillation, as its authors weigh it."""

import functools

from kdjax import distillation as losses
from kdjax.methods._row import Row, lift
from kdjax.methods._stages import select_last_stage
from kdjax.methods.distillation.features._ab_ofd import ab, ofd
from kdjax.methods.distillation.features._afd import afd
from kdjax.methods.distillation.features._at_nst_fsp_kdsvd import (
  at,
  fsp,
  kdsvd,
  nst,
)
from kdjax.methods.distillation.features._cat import cat
from kdjax.methods.distillation.features._factor_transfer import (
  factor_transfer,
  factor_transfer_pretraining,
)
from kdjax.methods.distillation.features._fitnet import fitnet
from kdjax.methods.distillation.features._ickd_ktaad import ickd, ktaad
from kdjax.methods.distillation.features._l2_pad import l2, pad_l2
from kdjax.methods.distillation.features._mgd import mgd
from kdjax.methods.distillation.features._review_kd import review_kd
from kdjax.methods.distillation.features._semckd import semckd
from kdjax.methods.distillation.features._simkd_srrl import simkd, srrl
from kdjax.methods.distillation.features._srd_vkd import srd, vkd
from kdjax.methods.distillation.features._vid import vid
from kdjax.methods.distillation.features._wkd import wkd_feature
from kdjax.methods.distillation.relations._cc import cc
from kdjax.methods.distillation.relations._crd import crd, crd_in_batch
from kdjax.methods.distillation.relations._irg_itrd import irg, itrd
from kdjax.methods.distillation.relations._sskd import sskd
from kdjax.methods.distillation.tokens._vitkd import vitkd

_REPDISTILLER = "RepDistiller, scripts/run_cifar_distill.sh"
_MDISTILLER = "mdistiller, configs/cifar100"

# A method with a teacher; the rows below name those that have none.
_taught = functools.partial(Row, networks=("teacher",))
_EMBEDDINGS = ("student_embeddings", "teacher_embeddings")


_FEATURES: dict[str, Row] = {
  "fitnet": _taught(
    "FitNets, Romero 2015",
    "regresses a middle map of the teacher",
    fitnet,
    weight=100.0,
    source=_REPDISTILLER,
  ),
  "at": _taught(
    "Attention transfer, Zagoruyko 2017",
    "matches where the maps of each stage are active",
    at,
    weight=1000.0,
    source=_REPDISTILLER,
  ),
  "nst": _taught(
    "Neuron selectivity transfer, Huang 2017",
    "matches the distribution of the channels of each stage by MMD",
    nst,
    weight=50.0,
    source=_REPDISTILLER,
  ),
  "fsp": _taught(
    "Flow of solution procedure, Yim 2017",
    "matches the products of consecutive stages, in a stage before training",
    None,
    initialization=fsp,
    initialization_epochs=30,
    source=_REPDISTILLER,
  ),
  "ab": _taught(
    "Activation boundaries, Heo 2019",
    "matches which neurons are active, in a stage before training",
    None,
    initialization=ab,
    initialization_epochs=30,
    source=_REPDISTILLER,
  ),
  "ft": _taught(
    "Factor transfer, Kim 2018",
    "matches an autoencoder's code of the teacher's last map",
    functools.partial(factor_transfer, form="attention_maps"),
    weight=200.0,
    initialization=factor_transfer_pretraining,
    initialization_epochs=30,
    source=_REPDISTILLER,
  ),
  "vid": _taught(
    "Variational information distillation, Ahn 2019",
    "predicts the teacher's maps with a learned variance",
    vid,
    source=_REPDISTILLER,
  ),
  "kdsvd": _taught(
    "KD by singular value decomposition, Lee 2018",
    "matches singular vectors of consecutive stages",
    kdsvd,
    source=_MDISTILLER,
  ),
  "ofd": _taught(
    "Overhaul of feature distillation, Heo 2019",
    "matches pre-activations above a margin of each channel",
    ofd,
    weight=1e-3,
    source=_MDISTILLER,
  ),
  "review_kd": _taught(
    "ReviewKD, Chen 2021",
    "fuses each stage of the student with the deeper ones by attention",
    review_kd,
    weight=5.0,
    warmup_epochs=20,
    source=_MDISTILLER,
  ),
  "simkd": _taught(
    "SimKD, Chen 2022",
    "answers through the teacher's classifier",
    simkd,
    cross_entropy=0.0,
    source="SimKD, run_distill.sh",
  ),
  "srrl": _taught(
    "Softmax regression representation learning, Yang 2021",
    "passes the student's features through the teacher's classifier",
    srrl,
    source="KD_SRRL, train_imagenet_distillation.py",
  ),
  "semckd": _taught(
    "Semantic calibration, Chen 2021",
    "pairs the layers of both networks by learned attention",
    semckd,
    weight=400.0,
    kd=1.0,
    source="SemCKD, README.md",
  ),
  "afd": _taught(
    "Attention-based feature distillation, Ji 2021",
    "pairs attention maps of all layers by learned attention",
    afd,
    weight=200.0,
    kd=0.9,
    source="AFD, README.md and main.py",
  ),
  "cat": _taught(
    "Class attention transfer, Guo 2023",
    "matches the class activation maps",
    functools.partial(cat, normalize=False),
    weight=15.0,
    source="CAT-KD, res32x4_res8x4.yaml",
  ),
  "ickd": _taught(
    "Inter-channel correlation, Liu 2021",
    "matches the correlations between channels of the last map",
    functools.partial(ickd, scaling="cifar"),
    weight=2.5,
    source="ICKD, Cifar100",
  ),
  "mgd": _taught(
    "Masked generative distillation, Yang 2022",
    "generates the teacher's last map from a masked one of the student",
    mgd,
    weight=1.2e-3,
    source="cls_KD, res34_distill_res18_cifar.py",
  ),
  "wkd_feature": _taught(
    "Wasserstein distillation of features, Lv 2024",
    "matches means and deviations of the last map as Gaussians",
    wkd_feature,
    weight=0.08,
    source="WKD, configs/cifar100/wkd_f/res32x4_res8x4.yaml, without its decay",
  ),
  "l2": _taught(
    "CSE-L2, Zhang 2020",
    "regresses the teacher's embedding",
    l2,
    weight=15.0,
    source="torchdistill, ce_l2-resnet18_from_resnet34.yaml",
  ),
  "pad_l2": _taught(
    "Prime-aware adaptive distillation, Zhang 2020",
    "regresses the teacher's embedding with a learned variance",
    pad_l2,
    source="torchdistill, after CSE-L2",
  ),
  "ktaad": _taught(
    "Knowledge translation and affinity, He 2019",
    "matches the adapted last map and the affinities of its positions",
    ktaad,
    source="torchdistill, ktaad",
  ),
  "srd": _taught(
    "Simple recipe distillation, Miles 2024",
    "matches projected and batch-normalized embeddings by a high power",
    srd,
    kd=1.0,
    temperature=1.0,
    source="torchdistill, srd",
  ),
  "vkd": _taught(
    "VkD, Miles 2024",
    "matches embeddings through an orthogonal projection",
    vkd,
    kd=1.0,
    temperature=1.0,
    source="vkd, defaults",
  ),
}

_RELATIONS: dict[str, Row] = {
  "sp": _taught(
    "Similarity-preserving, Tung 2019",
    "matches the similarities between the examples of the batch",
    lift(losses.sp_loss, select_last_stage),
    weight=3000.0,
    source=_REPDISTILLER,
  ),
  "rkd": _taught(
    "Relational KD, Park 2019",
    "matches the distances and angles between examples",
    lift(losses.rkd_loss, _EMBEDDINGS, distance_weight=25.0, angle_weight=50.0),
    source=_REPDISTILLER,
  ),
  "pkt": _taught(
    "Probabilistic knowledge transfer, Passalis 2018",
    "matches the probabilities that examples are neighbors",
    lift(losses.pkt_loss, _EMBEDDINGS),
    weight=30000.0,
    source=_REPDISTILLER,
  ),
  "cc": _taught(
    "Correlation congruence, Peng 2019",
    "matches the correlations between learned embeddings",
    functools.partial(cc, form="adjacent"),
    weight=0.02,
    source=_REPDISTILLER,
  ),
  "irg": _taught(
    "Instance relationship graph, Liu 2019",
    "matches the graph of examples in each stage and its changes",
    irg,
    source="Knowledge-Distillation-Zoo, train_kd.py",
  ),
  "itrd": _taught(
    "Information-theoretic representation distillation, Miles 2022",
    "maximizes correlation and mutual information of the embeddings",
    itrd,
    source="ITRD, train_student.py",
  ),
  "crd": _taught(
    "Contrastive representation distillation, Tian 2020",
    "tells the teacher's embedding of an example from thousands of others",
    crd,
    weight=0.8,
    source=_REPDISTILLER,
  ),
  "crd+kd": _taught(
    "CRD and KD, Tian 2020",
    "adds KD to CRD",
    crd,
    weight=0.8,
    kd=1.0,
    source=_REPDISTILLER,
  ),
  "crd_in_batch": _taught(
    "CRD without a bank",
    "tells the teacher's embedding of an example from others of the batch",
    crd_in_batch,
    source="none published",
  ),
  "sskd": _taught(
    "Self-supervised KD, Xu 2020",
    "matches similarities and predictions on rotated views",
    sskd,
    cross_entropy=0.1,
    kd=0.9,
    views=("rotated_1", "rotated_2", "rotated_3"),
    source="SSKD, student.py",
  ),
}

_TOKENS: dict[str, Row] = {
  "vitkd": _taught(
    "ViTKD, Yang 2022",
    "mimics the first layers of tokens and generates the last",
    vitkd,
    source="cls_KD, deit-s3_distill_deit-t, of tokens",
  ),
}

ROWS: dict[str, Row] = _FEATURES | _RELATIONS | _TOKENS
