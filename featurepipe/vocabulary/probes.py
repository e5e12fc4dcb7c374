"""What a user may ask of a probe, of a protocol and of a comparison."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias

from featurepipe.vocabulary.backbones import OriginOptions
from featurepipe.vocabulary.flags import Flag, option
from featurepipe.vocabulary.names import BASELINES, KINDS, METRICS, PROTOCOLS

Extractor: TypeAlias = Any  # one that is ready-made; rooms further up know what it is
CHOSEN = "  [default: chosen on validation data]"
SEED = Flag(("--seed",), "Seed for every random draw.", kind="integer", least=0, shown=True)


@dataclass(frozen=True)
class ProbeOptions:
    """How a probe is fitted, and what it is compared with."""

    kind: str = option(
        "logistic",
        "See `featurepipe.probes`.",
        Flag(
            ("--kind",),
            "Kind of probe. centroid is the nearest class mean; mlp has one hidden layer; attentive learns which "
            "patches count, and needs a store made with extract --tokens. approximate-knn is quicker than knn on a "
            "million images, misses at most about one neighbour in a hundred, and needs the extra faiss.",
            choices=tuple(KINDS),
            shown=True,
        ),
    )
    value: float | None = option(
        None,
        "C, alpha, shrinkage or number of neighbours, instead of selection. Without a val split a logistic probe then "
        "runs no cross-validation: ``val`` has no figures, and the probabilities are not calibrated, which a note "
        "says.",
        Flag(
            ("--C", "c"),
            f"Inverse regularisation strength of a logistic or svm probe.{CHOSEN}",
            "Probe",
            "number",
            least=0,
            above=True,
        ),
        Flag(
            ("--alpha",),
            f"Regularisation strength of a ridge, mlp or attentive probe.{CHOSEN}",
            "Probe",
            "number",
            least=0,
            above=True,
        ),
        Flag(
            ("--shrinkage",),
            f"Shrinkage of the covariance of an lda probe, from 0 to 1.{CHOSEN}",
            "Probe",
            "number",
            least=0,
            most=1,
        ),
        Flag(
            ("-k", "--neighbors", "k"),
            f"Number of neighbours of a knn or approximate-knn probe.{CHOSEN}",
            "Probe",
            "integer",
            least=1,
        ),
    )
    class_weight: str | None = option(
        None,
        "See `featurepipe.probes.fit`, and `featurepipe.probes.fit_labels`.",
        Flag(
            ("--class-weight",),
            "Give every class the same weight, however many images it has. Not for centroid, knn and approximate-knn.",
            "Probe",
            choices=("balanced",),
        ),
        shape="{None, 'balanced'}",
    )
    multi_label: bool = option(
        False,
        "Labels are sets: ``cat;dog``, or ``;`` for the empty one. The probe is logistic and has a C for each label. "
        "Splits that are made here are not stratified. All figures are mean average precision.",
        Flag(
            ("--multi-label",),
            "Read labels as sets, such as cat;dog. A single ; is the empty set. The probe is logistic and has a C for "
            "each label.",
            "Probe",
        ),
    )
    shots: Sequence[int] = option(
        (),
        "Also report top-1 with only this many labels per class, over `repeats` seeded draws: see "
        "`featurepipe.probes.fit_few_shot`. The strength is chosen inside each draw, whatever `value` is.",
        Flag(
            ("--shots",),
            "Also report accuracy with only N labelled images per class. Give one or more numbers, such as 1,5,10.",
            metavar="N,N,…",
            parse="shots",
        ),
    )
    repeats: int = option(
        10,
        "Draws for each of `shots`.",
        Flag(
            ("--repeats",),
            "Number of random draws of labelled images for each number in --shots.",
            "Few labels",
            "integer",
            least=1,
            shown=True,
        ),
    )
    semi: bool = option(
        False,
        "For each of `shots`, also report self-training and label spreading. They also use all other images that are "
        "not reported, without their labels.",
        Flag(
            ("--semi",),
            "Also report self-training and label spreading. They use the remaining training images without their "
            "labels, which can help or hurt.",
            "Few labels",
        ),
    )
    text: str | PathLike[str] | None = option(
        None,
        "A zero-shot model file of the same backbone, whose classes are those of the data (`featurepipe.zeroshot`). "
        "For each of `shots`, also report zero-shot, Tip-Adapter, Tip-Adapter-F, LP++ and WiSE-FT.",
        Flag(
            ("--text",),
            "Zero-shot model file (see featurepipe zeroshot). Also report methods that start from its class names: "
            "Tip-Adapter, LP++ and others.",
            "Few labels",
            metavar="MODEL",
        ),
    )
    baselines: str = option(
        "simple",
        "``simple``: majority class and the same probe on raw pixels; ``full``: also on a randomly initialised copy of "
        "the backbone, which costs another extraction.",
        Flag(
            ("--baselines",),
            "What to compare the probe with. simple: always answering the most common class, and raw pixels. full: "
            "also the same network untrained.",
            choices=BASELINES,
            shown=True,
        ),
    )
    seed: int = option(0, "Seed for splits, folds, draws and random weights.", SEED)
    probe_device: str = option(
        "cpu",
        "Device that fits a logistic, svm, attentive or multi-label probe; see `featurepipe.probes.fit`. Never run on "
        "a GPU. The many small fits of `shots` stay on the CPU.",
        Flag(
            ("--probe-device",),
            "Device that fits a logistic, svm or attentive probe: cpu, cuda or cuda:1. Not tested on a GPU yet.",
            "Probe",
            shown=True,
        ),
    )


@dataclass(frozen=True)
class EntryOptions(OriginOptions):
    """Which of a store's entries is probed, and what goes into the model file."""

    backbone: str | PathLike[str] | Extractor | None = option(
        None,
        "Which backbone of the store to use, if it holds several.",
        Flag(("-b", "--backbone"), "Backbone to use, if the store holds several."),
        shape="str, Backbone or Descriptor, optional",
    )
    layer: str | None = option(
        None,
        "Which layer to use, if the store holds several; by default the penultimate embedding.",
        Flag(("--layer",), "Layer to use, if the store holds several.  [default: penultimate]"),
    )
    include_backbone: bool = option(
        False,
        "Store the backbone's weights in the model file.",
        Flag(("--include-backbone",), "Store the backbone's weights in the model file.", "Output"),
    )


@dataclass(frozen=True)
class JoinOptions:
    """Which other entries are probed together with the first one."""

    with_: Sequence[str | PathLike[str]] = option(
        (),
        "Other backbones of the store, named as in `backbone`, whose embeddings of the same samples are further blocks "
        "of the features. A path names an entry of another store: that store, if it holds only one, or the entry's "
        "folder in it. Each block is standardised by itself, and none drowns the others "
        "(`featurepipe.statistics.feature_scales`). Without `backbone`, several names are all that is probed. Samples "
        "that one of them lacks are left out, and a note names them.",
        Flag(
            ("--with", "with_"),
            "Probe the embeddings of several backbones together. Give the other backbones of the store, or paths of "
            "other stores that hold the same samples.",
            metavar="NAME,NAME,…",
            parse="listed",
        ),
        shape="sequence of str or path",
    )


@dataclass(frozen=True)
class FoldOptions:
    """Whether all samples are measured by k-fold cross-validation, instead of a reported split."""

    folds: int | None = option(
        None,
        "Report the accuracy of k-fold cross-validation over all labelled samples, whatever split they have, instead "
        "of that on a test split. Strength and temperature are chosen inside each training part. The model file then "
        "holds a probe of all samples, and its figures are under ``folds``: see `featurepipe.probes.cross_validate`. "
        "It does not work with `shots` and `multi_label`.",
        Flag(
            ("--folds",),
            "Report the accuracy of K-fold cross-validation over all labelled images, with an interval, instead of "
            "that on a test split. The model file holds a probe that is trained on all of them.",
            kind="integer",
            least=2,
            metavar="K",
        ),
    )


@dataclass(frozen=True)
class ProtocolOptions:
    """Which published recipe is followed, instead of a probe's options."""

    protocol: str | None = option(
        None,
        "A name in `featurepipe.protocols.PROTOCOLS`.",
        Flag(
            ("--protocol",),
            "Follow a published recipe, which fixes everything except --metric and --seed. The recipes are "
            f"{', '.join(PROTOCOLS)}.",
            "Probe",
            choices=PROTOCOLS,
            metavar="NAME",  # the list of names is wider than a terminal
        ),
    )
    metric: str | None = option(
        None,
        "One of the protocol's metrics; by default its first.",
        Flag(
            ("--metric",),
            "Metric that --protocol uses to choose, and reports.  [default: the recipe's first metric]",
            "Probe",
            choices=METRICS,
        ),
    )


@dataclass(frozen=True)
class CompareOptions:
    """What is compared."""

    kinds: Sequence[str] = option(
        ("logistic",),
        "Probes, as `probe` takes them; C or alpha is chosen on selection data as there.",
        Flag(
            ("--kind", "kinds"),
            f"Kind of probe ({', '.join(KINDS)}). Repeat the option to give several.",
            many=True,
            metavar="KIND",
            parse="kinds",
            shown=True,
        ),
    )
    baselines: str = option(
        "simple",
        "Baselines to add to the first store, if it lacks them. ``simple``: raw pixels. ``full``: also HOG, a colour "
        "histogram, a bag of SIFT words (where scikit-image and OpenCV are installed), and for each backbone an "
        "untrained copy of it.",
        Flag(
            ("--baselines",),
            "Baselines to add as rows. simple: raw pixels. full: also HOG, colour histogram, SIFT words, and the same "
            "networks untrained.",
            choices=BASELINES,
            shown=True,
        ),
    )
    reference: str | None = option(
        None,
        "Backbone (or folder, or start of a fingerprint) that the others are tested against; its best row on selection "
        "data counts. By default the reference is chosen as C is: among the rows that cannot be told apart from the "
        "best (paired comparison on the same images), the lowest log-loss wins (`featurepipe.probes.choose`).",
        Flag(("--reference",), "Backbone that the others are compared with.  [default: that of the best row]"),
    )
    imagenet: str | Path | None = option(
        None,
        "Table of ImageNet top-1 by timm name, with which the rows' top-1 is then correlated; see "
        "`featurepipe.comparisons.read_imagenet`.",
        Flag(
            ("--imagenet",),
            "Also report how well the ranking agrees with the ranking by ImageNet accuracy. CSV is timm's table of "
            "results.",
            kind="path",
            metavar="CSV",
        ),
    )
