"""Every method of distillation as its authors weigh it, in one table."""

import functools

from jaxtyping import Array

from kdjax import distillation as losses
from kdjax.objectives._preset import Preset
from kdjax.objectives._preset import lift
from kdjax.objectives._stages import select_last_stage
from kdjax.objectives.distillation._crd import crd
from kdjax.objectives.distillation._ctkd import ctkd
from kdjax.objectives.distillation._embedding_relations import cc
from kdjax.objectives.distillation._embedding_relations import crd_in_batch
from kdjax.objectives.distillation._embedding_relations import irg
from kdjax.objectives.distillation._embedding_relations import itrd
from kdjax.objectives.distillation._factor_transfer import factor_transfer
from kdjax.objectives.distillation._factor_transfer import (
  factor_transfer_pretraining,
)
from kdjax.objectives.distillation._layer_attention import afd
from kdjax.objectives.distillation._layer_attention import semckd
from kdjax.objectives.distillation._masked_generation import mgd
from kdjax.objectives.distillation._masked_generation import vitkd
from kdjax.objectives.distillation._ofa import ofa
from kdjax.objectives.distillation._projectors import ickd
from kdjax.objectives.distillation._projectors import ktaad
from kdjax.objectives.distillation._projectors import srd
from kdjax.objectives.distillation._projectors import vkd
from kdjax.objectives.distillation._regressors import ab
from kdjax.objectives.distillation._regressors import fitnet
from kdjax.objectives.distillation._regressors import ofd
from kdjax.objectives.distillation._reused_classifier import cat
from kdjax.objectives.distillation._reused_classifier import simkd
from kdjax.objectives.distillation._reused_classifier import srrl
from kdjax.objectives.distillation._review_kd import review_kd
from kdjax.objectives.distillation._sdd import sdd
from kdjax.objectives.distillation._stage_maps import at
from kdjax.objectives.distillation._stage_maps import fsp
from kdjax.objectives.distillation._stage_maps import kdsvd
from kdjax.objectives.distillation._stage_maps import nst
from kdjax.objectives.distillation._uskd import uskd
from kdjax.objectives.distillation._variances import l2
from kdjax.objectives.distillation._variances import pad_l2
from kdjax.objectives.distillation._variances import vid
from kdjax.objectives.distillation._views import crld
from kdjax.objectives.distillation._views import cskd
from kdjax.objectives.distillation._views import mlld
from kdjax.objectives.distillation._views import sskd
from kdjax.objectives.distillation._wkd import wkd_feature
from kdjax.objectives.distillation._wkd import wkd_logit

_REPDISTILLER = "RepDistiller, scripts/run_cifar_distill.sh"
_MDISTILLER = "mdistiller, configs/cifar100"
_CLS_KD = "cls_KD, configs/distillers/cifar100"
_LSKD = "logit-standardization-KD, tools/train.py"

# A method with a teacher; the rows below name those that have none.
_taught = functools.partial(Preset, networks=("teacher",))
_EMBEDDINGS = ("student_embeddings", "teacher_embeddings")


def _standardized(
  student_logits: Array, teacher_logits: Array, labels: Array
) -> tuple[Array, Array, Array]:
  """The logits as logit standardization gives them, and the labels."""
  return (
    losses.standardize_logits(student_logits),
    losses.standardize_logits(teacher_logits),
    labels,
  )


_LOGITS: dict[str, Preset] = {
  "scratch": Preset(
    "No distillation",
    "trains on the labels alone",
    None,
    source="cross-entropy alone",
  ),
  "kd": _taught(
    "Knowledge distillation, Hinton 2015",
    "matches the teacher's softened class probabilities",
    None,
    cross_entropy=0.1,
    kd=0.9,
    source=_REPDISTILLER,
  ),
  "function_matching": _taught(
    "Function matching, Beyer 2022",
    "matches the teacher without labels, on the same mixed views, for long",
    None,
    cross_entropy=0.0,
    kd=1.0,
    temperature=1.0,
    source="big_vision, configs/proj/distill/bit_i1k.py",
  ),
  "dkd": _taught(
    "Decoupled KD, Zhao 2022",
    "weighs the labelled class and the other classes apart",
    lift(losses.dkd_loss, temperature=4.0, alpha=1.0, beta=8.0),
    warmup_epochs=20,
    source=_MDISTILLER,
  ),
  "nkd": _taught(
    "Normalized KD, Yang 2023",
    "normalizes the probabilities of the classes other than the labelled one",
    lift(losses.nkd_loss, temperature=3.0, gamma=3.5),
    source=_CLS_KD,
  ),
  "dist": _taught(
    "DIST, Huang 2022",
    "correlates the predictions within each example and within each class",
    lift(losses.dist_loss, temperature=4.0, beta=1.0, gamma=1.0),
    weight=2.0,
    source="DIST_KD and image_classification_sota, dist_t4",
  ),
  "lskd": _taught(
    "Logit standardization, Sun 2024",
    "standardizes the logits of both networks before KD",
    lift(losses.lskd_loss, temperature=2.0),
    weight=9.0,
    cross_entropy=0.1,
    source=_LSKD,
  ),
  "dkd+lskd": _taught(
    "DKD on standardized logits, Sun 2024",
    "standardizes the logits of both networks before DKD",
    lift(losses.dkd_loss, _standardized, temperature=2.0, alpha=9.0, beta=72.0),
    warmup_epochs=20,
    source=_LSKD,
  ),
  "ttm": _taught(
    "Transformed teacher matching, Zheng 2024",
    "softens the teacher's probabilities but not the student's",
    lift(losses.ttm_loss, gamma=0.1),
    weight=45.0,
    source="TTM, README.md, vgg13 to vgg8",
  ),
  "wttm": _taught(
    "Weighted TTM, Zheng 2024",
    "weighs TTM by how smooth the teacher's distribution is",
    lift(losses.wttm_loss, gamma=0.2),
    weight=4.0,
    source="TTM, README.md, vgg13 to vgg8, where it accompanies CRD",
  ),
  "mlld": _taught(
    "Multi-level logit distillation, Jin 2023",
    "matches logits by example, by class and by batch, on two views",
    mlld,
    cross_entropy=0.1,
    views=("strong",),
    source="Multi-Level-Logit-Distillation, mdistiller/engine/cfg.py",
  ),
  "ofa": _taught(
    "One-for-all, Hao 2023",
    "gives each stage of the student a classifier that learns the teacher's "
    "logits",
    ofa,
    source="OFAKD, train.py and README.md",
  ),
  "rld": _taught(
    "Refined logit distillation, Sun 2024",
    "leaves out the classes that the teacher ranks above the label by mistake",
    lift(losses.rld_loss, temperature=4.0, beta=8.0),
    warmup_epochs=20,
    source="RLD, mdistiller/engine/cfg.py",
  ),
  "crld": _taught(
    "Cross-view regularization, Zhang 2024",
    "matches logits within and across a weak and a strong view",
    crld,
    views=("strong",),
    source="CRLD, mdistiller/engine/cfg.py",
  ),
  "wsld": _taught(
    "Weighted soft labels, Zhou 2021",
    "weighs the soft targets of each example by bias and variance",
    lift(losses.wsld_loss, temperature=4.0),
    weight=2.25,
    source="cls_KD, configs/distillers/cifar100",
  ),
  "binary_kl": _taught(
    "Binary KL (VanillaKD), Hao 2023",
    "matches each class's probability against all other classes",
    lift(losses.binary_kl_loss),
    source="vanillaKD, train-kd.py",
  ),
  "sdd_kd": _taught(
    "Scale-decoupled KD, Wei 2024",
    "applies KD to the logits of regions of the last map",
    functools.partial(sdd, inner="kd", temperature=4.0),
    weight=0.9,
    cross_entropy=0.1,
    source="SDD-CVPR2024, mdistiller/engine/cfg.py",
  ),
  "sdd_dkd": _taught(
    "Scale-decoupled DKD, Wei 2024",
    "applies DKD to the logits of regions of the last map",
    functools.partial(sdd, inner="dkd", temperature=4.0, alpha=1.0, beta=8.0),
    warmup_epochs=20,
    source="SDD-CVPR2024, mdistiller/engine/cfg.py, train_origin.py",
  ),
  "ctkd": _taught(
    "Curriculum temperature, Li 2023",
    "learns the temperature against the student, more and more",
    ctkd,
    weight=0.9,
    cross_entropy=0.1,
    source="CTKD, scripts/run_cifar_distill.sh",
  ),
  "wkd_logit": _taught(
    "Wasserstein distillation of logits, Lv 2024",
    "transports class probabilities by the likeness of the classes",
    wkd_logit,
    source="WKD, configs/cifar100/wkd_l/res32x4_res8x4.yaml, without its decay "
    "and with the cost of the classifier",
  ),
  "takd": _taught(
    "Teacher assistant, Mirzadeh 2020",
    "distills twice, through a network of middle size",
    None,
    cross_entropy=0.1,
    kd=0.9,
    source="KD's: the authors search them; the teacher is an assistant of "
    "middle size, itself distilled from a larger one",
  ),
  "tfkd": _taught(
    "Teacher-free KD from itself, Yuan 2020",
    "takes an earlier run of the student as the teacher",
    None,
    cross_entropy=0.1,
    kd=0.9,
    temperature=1.0,
    source="torchdistill, tfkd-resnet18_from_resnet18; the teacher is an "
    "earlier run of the student",
  ),
  "tfkd_reg": Preset(
    "Teacher-free regularization, Yuan 2020",
    "takes a hand-made distribution around the label as the teacher",
    lift(losses.virtual_teacher_loss, temperature=20.0),
    weight=10.0,
    cross_entropy=0.9,
    source="Teacher-free-Knowledge-Distillation, base_resnet18/params.json",
  ),
  "uskd": Preset(
    "Universal self-KD, Yang 2023",
    "makes soft labels from the student and a weak classifier on a stage",
    functools.partial(uskd, alpha=0.1, beta=0.1, mu=0.1),
    source=_CLS_KD,
  ),
  "cskd": Preset(
    "Class-wise self-distillation, Yun 2020",
    "matches the student's own prediction of another example of the class",
    cskd,
    views=("partner",),
    source="CS-KD, README.md",
  ),
}

_FEATURES: dict[str, Preset] = {
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

_RELATIONS: dict[str, Preset] = {
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

_TOKENS: dict[str, Preset] = {
  "vitkd": _taught(
    "ViTKD, Yang 2022",
    "mimics the first layers of tokens and generates the last",
    vitkd,
    source="cls_KD, deit-s3_distill_deit-t, of tokens",
  ),
}

PRESETS: dict[str, Preset] = _LOGITS | _FEATURES | _RELATIONS | _TOKENS
