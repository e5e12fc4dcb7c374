"""What each named protocol fixes: its grid, normalisation, selection, refit and metric, as published."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from featurepipe import probes

LISTED = 12  # candidates up to which a grid is written out
TOP1, BALANCED, MAP = "top1", "balanced_accuracy", "map"
UNTOUCHED = "none"
ONE_SCALE = "one mean and one standard deviation over all training features, folded into the coefficients"
ON_ALL = "on train and the selection rows"
AS_FITTED = "none: what was fitted on train"
OPTIMUM = "run to the optimum, each fit with a certificate, instead of stopping L-BFGS at "
TIES = "whether a tie goes to weak or strong is not published; here to the strongest regularisation"


@dataclass(frozen=True)
class Protocol:
    """A published recipe for a classifier on frozen features.

    Attributes
    ----------
    name : str
    version : int
        Raised whenever a figure that the protocol gives could change.
    source : str
        Paper, repository or both.
    method : {'logistic', 'knn', 'svm', 'ridge'}
    parameter : str
        What `grid` holds, in scikit-learn's terms: ``C``, ``k`` or ``alpha``.
    grid : tuple of float
        Every candidate, ascending; a search may fit but a few of them.
    normalisation : str
        How features are normalised; what this needs is learned from the rows of the fit.
    selection : str
        How one of the grid is chosen.
    held_out : float
        Share of the training rows that select where no validation data are given; 0 where none is held out.
    refit : str
        On which rows the chosen candidate is fitted in the end.
    metrics : tuple of {'top1', 'balanced_accuracy', 'map'}
        What selects and is reported: the first, unless another is asked for.
    remarks : tuple of str
        In what this differs from the published recipe; of our own, why it is so.
    shots : tuple of int
        Labelled images per class; with any, the protocol is a few-shot one and leaves no single classifier.
    repeats : int
        Draws for each of `shots`.
    coarse : int
        How many places of the grid the first sweep of a search goes at a time, a power of 2 that is then halved; 0
        where every candidate is fitted.
    stratified : bool
        Whether rows are held out class by class, or from all together.
    """

    name: str
    version: int
    source: str
    method: str
    parameter: str
    grid: tuple[float, ...]
    normalisation: str
    selection: str
    held_out: float
    refit: str
    metrics: tuple[str, ...]
    remarks: tuple[str, ...]
    shots: tuple[int, ...] = ()
    repeats: int = 0
    coarse: int = 0
    stratified: bool = True

    @property
    def candidates(self) -> str:
        """The grid in words."""
        values = [f"{value:g}" for value in self.grid]
        if len(values) <= LISTED:
            return f"{self.parameter} = {', '.join(values)}"
        return f"{self.parameter} = {values[0]} … {values[-1]}, {len(values)} values evenly in log"

    @property
    def metric(self) -> str:
        """What selects and is reported unless another is asked for."""
        return self.metrics[0]

    @property
    def linear(self) -> bool:
        """Whether it leaves a linear classifier of raw embeddings, which a model file can hold."""
        return self.method == "logistic"


def _powers(start: float, stop: float, count: int) -> tuple[float, ...]:
    return tuple((10.0 ** np.linspace(start, stop, count)).tolist())


ONE_LABEL = "for one class per image, as ours are; the published runs are on VOC07, of several"
SEEDED = "the solver's random order is seeded"

_CLIP = Protocol(
    name="clip",
    version=1,
    source="Radford et al. 2021, arXiv 2103.00020, A.3; openai/CLIP issues 39, 64, 128",
    method="logistic",
    parameter="C",
    grid=_powers(-6, 6, 97),  # lambda = 1/C: 96 steps, 8 to a decade
    normalisation=UNTOUCHED,
    selection="parametric binary search: C = 1e-6, 1e-4, …, 1e6, then both neighbours of the best at 8, 4, 2 and 1 "
    "steps (15 fits), by the metric on val, else on 20 % of train, stratified and seeded",
    held_out=0.2,
    refit=ON_ALL,
    metrics=(TOP1, BALANCED),
    remarks=(
        OPTIMUM + "1,000 iterations",
        "the published text does not say how much of train is held out; here 20 % of each class",
        TIES,
    ),
    coarse=16,
)
_DINOV2_LOGREG = Protocol(
    name="dinov2-logreg",
    version=1,
    source="Oquab et al. 2023, arXiv 2304.07193; facebookresearch/dinov2, dinov2/eval/log_regression.py",
    method="logistic",
    parameter="C",
    grid=_powers(-6, 5, 45),
    normalisation=UNTOUCHED,
    selection="every C, the smallest of the best by the metric on val, else on 10 % of train: the first of torch's "
    "random permutation of the rows under the seed",
    held_out=0.1,
    refit=ON_ALL,
    metrics=(TOP1, BALANCED),
    remarks=(
        OPTIMUM + "1,000 iterations with tolerance 1e-12",
        "products in float32 inside the solver, objective and gradients in float64; published: float64 throughout",
    ),
    stratified=False,
)
_KORNBLITH = Protocol(
    name="kornblith",
    version=1,
    source="Kornblith et al. 2019, arXiv 1805.08974; Chen et al. 2020 (SimCLR), arXiv 2002.05709, B.8.1",
    method="logistic",
    parameter="C",
    grid=_powers(-5, 6, 45),  # lambda = 1/C from 1e-6 to 1e5
    normalisation=UNTOUCHED,
    selection="every lambda = 1/C from 1e-6 to 1e5, the largest of the best by the metric on val, else on 20 % of "
    "train, stratified and seeded",
    held_out=0.2,
    refit=ON_ALL,
    metrics=(TOP1, BALANCED),
    remarks=(
        OPTIMUM + "a limit of iterations",
        "lambda multiplies half the squared weights next to the sum of the losses, as in CLIP and ssl-transfer",
        "the published text does not say how much of train is held out; here 20 % of each class",
        TIES,
        "mean per class was published for Aircraft, Pets, Caltech-101 and Flowers, VOC07's 11-point mAP is left out",
    ),
)
_LPFT = Protocol(
    name="lpft",
    version=1,
    source="Kumar et al. 2022, arXiv 2202.10054; AnanyaKumar/transfer_learning, unlabeled_extrapolation/log_reg_sk.py",
    method="logistic",
    parameter="C",
    grid=_powers(-7, 2, 50),
    normalisation=ONE_SCALE,
    selection="every C, ascending, the smallest of the best by the metric on val, else on 20 % of train, stratified "
    "and seeded",
    held_out=0.2,
    refit=AS_FITTED,
    metrics=(TOP1,),
    remarks=(
        OPTIMUM + "200 iterations",
        "the published runs always have in-distribution validation data",
        "this is the head that LP-FT starts from; the fine-tuning after it is not part of a probe",
    ),
)
_FEATUREPIPE = Protocol(
    name="featurepipe",
    version=3,
    source="featurepipe, probes.fit('logistic', …); Breiman et al. 1984, section 3.4.3; McNemar 1947",
    method="logistic",
    parameter="C",
    grid=probes.C_GRID,
    normalisation="each feature by its mean and deviation over the rows of the fit, but by no less than a fifth of the "
    "common deviation, of fewer than 10 rows all by their root mean square, folded into the coefficients",
    selection="every C, of those that cannot be told apart from the best (paired comparison on the same images) the "
    "lowest log-loss, after a temperature, on val, else by stratified 5-fold cross-validation",
    held_out=0.0,
    refit=ON_ALL,
    metrics=(TOP1,),
    remarks=(
        "features are standardised, because their scale differs between backbones by orders of magnitude, and one grid "
        "must fit all",
        "no feature is divided by less than a fifth of the common deviation; otherwise one that few rows of the fit "
        "activate would lie tens of deviations away in other rows",
        "the common deviation is the root mean square of the features' deviations, clipped at their 95 % quantile",
        "with fewer than 10 rows, all features are divided by one deviation, their root mean square; divided by their "
        "own, two rows would become -1 and 1 in every feature",
        "the grid has whole decades, because finer steps change top-1 by less than its standard error on most data",
        "of the candidates that cannot be told apart, the one with the lowest log-loss is chosen, because by top-1 "
        "alone single images would decide",
        "a candidate can be told apart from the best if it is behind by more than 1 + √m images, where m is how many "
        "images only one of the two gets right",
        "scores are divided by a temperature that is fitted on the selection rows, because a probe of few rows is too "
        "confident",
        "strengths are chosen by cross-validation instead of on one held-out part, because few labels are the usual "
        "case",
    ),
)
_DINOV2_KNN = Protocol(
    name="dinov2-knn",
    version=1,
    source="Oquab et al. 2023, arXiv 2304.07193; facebookresearch/dinov2, dinov2/eval/knn.py; Wu et al. 2018",
    method="knn",
    parameter="k",
    grid=(10, 20, 100, 200),
    normalisation="each row by its L2 norm",
    selection="every k is reported; the smallest of the best by the metric on val, else by leave-one-out on train, is "
    "marked",
    held_out=0.0,
    refit="none: the neighbours are train's",
    metrics=(TOP1, BALANCED),
    remarks=(
        "neighbours vote with softmax(cosine / 0.07)",
        "the published code reports every k and marks none; taking the best of them would be selecting on test",
        "a k larger than the number of neighbours there are is left out",
    ),
)
_VISSL_SVM = Protocol(
    name="vissl-svm",
    version=1,
    source="Goyal et al. 2019, arXiv 1905.01235; facebookresearch/vissl, vissl/utils/svm_utils",
    method="svm",
    parameter="C",
    grid=(0.01, 0.1, 1.0, 2.0, 5.0, 10.0, 15.0, 20.0, 50.0, 100.0, 1000.0),
    normalisation="each row by its L2 norm + 1e-5",
    selection="per class every C, the smallest of the best by average precision in stratified 3-fold cross-validation "
    "on train and val",
    held_out=0.0,
    refit="on train and val, one LinearSVC per class (squared hinge, dual, tolerance 1e-4, 2,000 iterations, positives "
    "weighted 2)",
    metrics=(MAP,),
    remarks=(
        ONE_LABEL,
        SEEDED,
        "folds are judged by scikit-learn's average precision and test by the area under the interpolated "
        "precision-recall curve, both as published",
    ),
)
_VISSL_LOWSHOT_SVM = Protocol(
    name="vissl-lowshot-svm",
    version=1,
    source=_VISSL_SVM.source,
    method="svm",
    parameter="C",
    grid=_VISSL_SVM.grid,
    normalisation=_VISSL_SVM.normalisation,
    selection="inside each draw: per class every C, the smallest of the best by average precision in stratified "
    "cross-validation of 3 folds, 2 for two shots; C = 1 for one shot",
    held_out=0.0,
    refit="on the draw, as vissl-svm",
    metrics=(MAP,),
    remarks=(
        ONE_LABEL,
        SEEDED,
        "the published code reports the cost that is best on test; here nothing is selected on test",
        "the images of few shots are among those of more, draw by draw; the standard deviation is the sample's (n - 1)",
        "shots that some class has too few images for are left out",
    ),
    shots=(1, 2, 4, 8, 16, 32, 64, 96),
    repeats=5,
)
_BIGVISION_FEWSHOT = Protocol(
    name="bigvision-fewshot",
    version=1,
    source="google-research/big_vision, big_vision/evaluators/fewshot_lsr.py",
    method="ridge",
    parameter="alpha",
    grid=(2.0**10,),
    normalisation="each feature by its mean and standard deviation + 1e-5 over the shots",
    selection="nothing to select: one alpha; targets −1 and 1, and a constant feature of 100 for the bias",
    held_out=0.0,
    refit="on the draw",
    metrics=(TOP1,),
    remarks=(
        "float64 instead of float32",
        "the published code reports each of the three seeds; here their mean, its 95 % interval and standard deviation",
        "shots that some class has too few images for are left out; published: such a class gives what it has",
    ),
    shots=(1, 5, 10, 25),
    repeats=3,
)

PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        _FEATUREPIPE,
        _CLIP,
        _DINOV2_LOGREG,
        _DINOV2_KNN,
        _KORNBLITH,
        _VISSL_SVM,
        _VISSL_LOWSHOT_SVM,
        _BIGVISION_FEWSHOT,
        _LPFT,
    )
}
