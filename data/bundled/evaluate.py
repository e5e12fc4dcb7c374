"""Print the figures of the bundled backbone's model card: linear probes on frozen embeddings, next to two baselines.

Each data folder holds train/<class>/ and either test/<class>/ or val/<class>/ below it. Every probe is a StandardScaler
and a logistic regression whose C comes from 5-fold cross-validation inside the training images; the other split is only
scored. The baselines are the same probe on raw pixels (32x32 RGB) and on the same network with random weights.

    python data/bundled/evaluate.py featurepipe/bundled/backbone.safetensors data/digits --shots 1 5 10
"""

import argparse
import json
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

C_VALUES = [10.0**power for power in range(-5, 3)]  # ascending, so that GridSearchCV gives ties to the smaller C
C_OF_ONE_SHOT = 1.0  # one label per class leaves nothing to cross-validate
DRAWS = 10
SUFFIXES = {".png", ".jpg", ".jpeg"}
TIMM = {"input_size", "interpolation", "mean", "std", "crop_pct", "crop_mode"}  # what timm knows of a transform

Features = tuple[np.ndarray, np.ndarray]  # X (N, width) and the class names (N,)


def read_header(weights: Path) -> dict:
    """Return the JSON header stored beside the weights."""
    with safe_open(weights, framework="pt") as file:
        return json.loads(file.metadata()["featurepipe"])


def build(header: dict, weights: Path | None) -> torch.nn.Module:
    """Create the network in evaluation mode, with the file's weights or, without a file, random ones (seed 0)."""
    torch.manual_seed(0)
    model = timm.create_model(header["architecture"], num_classes=0, **header["arguments"])
    if weights is not None:
        model.load_state_dict(load_file(weights), strict=True)
    return model.eval()


def list_images(folder: Path) -> tuple[list[Path], np.ndarray]:
    """Return the image files of every class folder and their class names."""
    files = [path for path in sorted(folder.glob("*/*")) if path.suffix.lower() in SUFFIXES]
    return files, np.array([path.parent.name for path in files])


@torch.inference_mode()
def embed(model: torch.nn.Module, header: dict, files: list[Path]) -> np.ndarray:
    """Return the pre-logits embeddings of the files under the stored transform."""
    own = {key: value for key, value in header["transform"].items() if key in TIMM}
    transform = timm.data.create_transform(**own, is_training=False)
    rows = []
    for start in range(0, len(files), 128):
        images = [transform(Image.open(path).convert("RGB")) for path in files[start : start + 128]]
        x = torch.stack(images)  # (B, 3, size, size)
        rows.append(model.forward_head(model.forward_features(x), pre_logits=True).numpy())  # (B, width)
    return np.concatenate(rows)


def pixels(files: list[Path]) -> np.ndarray:
    """Return each image as 32x32 RGB values 0..1 in one row."""
    images = [Image.open(path).convert("RGB").resize((32, 32), Image.Resampling.BILINEAR) for path in files]
    return np.stack([np.asarray(image).ravel() / 255 for image in images])  # (N, 32 * 32 * 3)


def fit_probe(x: np.ndarray, y: np.ndarray) -> tuple[object, float, float]:
    """Fit the probe; return it with its C and its cross-validated accuracy (nan for one label per class)."""
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000, C=C_OF_ONE_SHOT))
    if np.unique(y, return_counts=True)[1].min() < 5:
        return pipeline.fit(x, y), C_OF_ONE_SHOT, float("nan")
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    search = GridSearchCV(pipeline, {"logisticregression__C": C_VALUES}, cv=folds).fit(x, y)
    return search, search.best_params_["logisticregression__C"], 100 * search.best_score_


def draw_shots(y: np.ndarray, shots: int, seed: int) -> np.ndarray:
    """Return the indices of `shots` random samples of every class."""
    generator = np.random.default_rng(seed)
    return np.concatenate([generator.permutation(np.flatnonzero(y == name))[:shots] for name in np.unique(y)])


def low_shot(train: Features, test: Features | None, shots: int) -> np.ndarray:
    """Return the accuracies of DRAWS probes, each trained on its own draw of `shots` labels per class.

    Without `test`, each probe is scored on the training samples that its draw left over.
    """
    scores = []
    for seed in range(DRAWS):
        chosen = draw_shots(train[1], shots, seed)
        probe = fit_probe(train[0][chosen], train[1][chosen])[0]
        left = np.setdiff1d(np.arange(len(train[1])), chosen)
        scores.append(100 * probe.score(*(test or (train[0][left], train[1][left]))))
    return np.array(scores)


def report(name: str, train: Features, test: Features | None, shots: list[int]) -> None:
    """Print one line per training size for one kind of features."""
    probe, c, validated = fit_probe(*train)
    score = f"held out {100 * probe.score(*test):5.1f} %, " if test else ""
    print(f"  {name:14s} {len(train[1]):4d} labels: {score}cross-validation {validated:5.1f} %, C={c:g}", flush=True)
    for count in shots:
        scores = low_shot(train, test, count)
        where = "held out" if test else "rest of train"
        print(f"  {name:14s} {count:2d} per class: {where} {scores.mean():5.1f} % +- {scores.std():.1f}", flush=True)


def main() -> None:
    """Read the command line and print the figures of every data folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path, help="the backbone's safetensors file")
    parser.add_argument("data", type=Path, nargs="+", help="folders with train/ and test/ or val/")
    parser.add_argument("--shots", type=int, nargs="*", default=[], help="also train on this many labels per class")
    parser.add_argument(
        "--train-only",
        action="store_true",
        help="never score the test split: cross-validation, and for --shots the rest of train",
    )
    parser.add_argument("--skip-baselines", action="store_true", help="report the backbone alone")
    args = parser.parse_args()

    header = read_header(args.weights)
    backbone, random = build(header, args.weights), build(header, None)
    kinds = {"backbone": lambda files: embed(backbone, header, files)}
    if not args.skip_baselines:
        kinds |= {"pixels": pixels, "random weights": lambda files: embed(random, header, files)}
    for folder in args.data:
        held_out = folder / "test" if (folder / "test").is_dir() else folder / "val"
        print(f"{folder.name}: train -> {'train' if args.train_only else held_out.name}")
        (train_files, train_y), (test_files, test_y) = list_images(folder / "train"), list_images(held_out)
        for name, features in kinds.items():
            test = None if args.train_only else (features(test_files), test_y)
            report(name, (features(train_files), train_y), test, args.shots)


if __name__ == "__main__":
    main()
