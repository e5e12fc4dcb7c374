"""Every reader of featurepipe, and what it is given: sound files of which something was changed, and crafted ones."""

from __future__ import annotations

import dataclasses
import io
import json
import random
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from featurepipe.sources import Files

from . import mutators

ARCHIVES = Path(__file__).parents[1] / "archives"  # of formats without digests, which stop nothing that was changed
HEX = "0123456789abcdef" * 4
TABLE = "path,label,split,id\na.png,cat,train,1\nb.png,dog,test,2\n\n c.png ,cat;dog,val,3\n"
ROWS = [{"path": "a.png", "label": "cat", "split": "train"}, {"path": "b.png", "label": 7, "split": "test"}]
LIST = "id,path,label,split,digest,size,mtime_ns,ctime_ns,inode\n"
LIST += f"a,a.png,x,train,{HEX},1,2,3,4\nb,b.png,,,{HEX[::-1]},,,,\n"
STORE = {"encoding-type": "featurepipe-store", "encoding-version": "1.1", "root": "/tmp", "relative": "../data"}
Reader = Callable[[Path, random.Random, Path], object]  # sound files, draws, an empty folder


@cache
def _bytes(path: Path) -> bytes:
    return path.read_bytes()


def mutated(name: str, read: Callable[[Path], object], *, root: Path | None = None) -> Reader:
    """A reader of files whose bytes are changed."""

    def attack(bench: Path, rng: random.Random, folder: Path) -> None:
        path = folder / Path(name).name
        path.write_bytes(mutators.mutate(rng, _bytes((root or bench) / name)))
        read(path)

    return attack


def table(path: Path) -> None:
    """As a manifest, and as a table of labels."""
    from featurepipe import manifests, tables

    for name in ("a.png", "b.png", "c.png"):
        (path.parent / name).touch()
    manifests.header(path)
    try:
        manifests.read(path)
    finally:
        list(tables.Table(path, ["label"], ("id", "path"), keys=("id", "path")))


def parquet(paths: list[Any], labels: list[Any]) -> bytes:
    import pyarrow
    from pyarrow.parquet import write_table

    content = io.BytesIO()
    write_table(pyarrow.table({"path": paths, "label": labels}), content)
    return content.getvalue()


def odd_parquet(bench: Path, rng: random.Random, folder: Path) -> None:
    """Cells of types and values that Python has no word for."""
    import pyarrow as pa

    raw = pa.py_buffer(rng.randbytes(2))
    odd: list[Callable[[], Any]] = [
        lambda: pa.array([rng.randrange(-(2**62), 2**62)] * 2, pa.timestamp(rng.choice(["s", "ms", "us", "ns"]))),
        lambda: pa.array([rng.randrange(-(2**31), 2**31)] * 2, pa.date32()),
        lambda: pa.array([rng.randrange(-(2**62), 2**62)] * 2, pa.duration("s")),
        lambda: pa.array([rng.randrange(86_399)] * 2, pa.time32("s")),
        lambda: pa.Array.from_buffers(pa.string(), 2, [None, pa.py_buffer(np.array([0, 1, 2], "i4")), raw]),
        lambda: pa.array([b"\xff\x00", b""], pa.binary()),
        lambda: pa.array([[1], None]),
        lambda: pa.array([{"a": 1}, None]),
        lambda: pa.array([float("nan"), 1e300]),
        lambda: pa.array([None, None]),
        lambda: pa.array(["x", "y"]).dictionary_encode(),
    ]
    try:
        content = parquet(rng.choice([["a.png", "b.png"], rng.choice(odd)()]), rng.choice(odd)())
    except pa.ArrowInvalid:  # a file that cannot even be written
        return
    (folder / "t.parquet").write_bytes(content)
    table(folder / "t.parquet")


def odd_jsonl(bench: Path, rng: random.Random, folder: Path) -> None:
    """Lines of JSON whose values are something else."""
    path = folder / "t.jsonl"
    path.write_text("".join(json.dumps(mutators.mutate_json(rng, row)) + "\n" for row in ROWS))
    table(path)


def store(bench: Path, rng: random.Random, folder: Path) -> None:
    """``store.json`` and ``manifest.csv`` of a format without digests."""
    from featurepipe.stores import Store

    header, rows = json.dumps(STORE).encode(), LIST.encode()
    fate = rng.randrange(4)
    if fate == 0:
        header = json.dumps(mutators.mutate_json(rng, STORE)).encode()
    if fate == 3:  # what lies next to the store, as the root is not there any more
        relative = rng.choice(["a\0b", "\ud800", "x" * 100_000, "../" * 5000, "", "/", "."])
        header = json.dumps({**STORE, "root": "/nowhere", "relative": relative}).encode()
    header = mutators.mutate(rng, header) if fate == 1 else header
    rows = mutators.mutate(rng, rows) if fate == 2 else rows
    (folder / "store.json").write_bytes(header)
    (folder / "manifest.csv").write_bytes(rows)
    str(Store.open(folder).root)
    list(Store.open(folder).known(Files("/tmp")))
    Store.open(folder).verify()
    list(Store.open(folder).rows())


def shard(path: Path) -> None:
    """One file, as every reader of shards does it."""
    from featurepipe import shards

    shards.read_index(path)
    shards.Reader.open(path).read(np.arange(2))
    shards.read(path)


def odd_shard(bench: Path, rng: random.Random, folder: Path) -> None:
    """A shard whose checksums are right, and whose description says something else."""
    from featurepipe import shards, stages
    from featurepipe.digests import sha256_json

    sound = shards.read(sorted(bench.glob("store/*/shard-*.h5"))[0])
    field = rng.choice(["spec", "provenance"])
    changed = dataclasses.replace(sound, **{field: mutators.mutate_json(rng, getattr(sound, field))})
    if not (_is_json(changed.spec) and _is_json(changed.provenance)):
        return
    (folder / "store.json").write_text(json.dumps({**STORE, "root": None, "relative": None}))
    place = folder / f"odd-{sha256_json(changed.spec)[:8]}"
    place.mkdir()
    shards.write(place / "shard-00000.h5", changed)
    stages.verify(folder)
    stages.info(folder)


def model(path: Path) -> None:
    """One file, as every command that takes models does it."""
    from featurepipe import models, stages

    models.is_model(path)
    stages.info(path)
    stages.report(path, path.with_suffix(".html"))
    stages.predict(path, ARCHIVES.parents[1] / "docs" / "report.png", device="cpu")


@dataclasses.dataclass(frozen=True)
class OddCard:
    """What is written as a card, whatever it is."""

    said: object

    def to_json(self) -> object:  # as `featurepipe.cards.Card` has it
        return self.said


def odd_model(bench: Path, rng: random.Random, folder: Path) -> None:
    """A model file that featurepipe itself has written, whose card or backbone is described in another way."""
    from featurepipe import models

    sound = models.load(bench / "model.safetensors")
    field = rng.choice(["card", "backbone", "temperature"])
    odd = mutators.mutate_json(rng, sound.card.to_json() if field == "card" else getattr(sound, field))
    changed = dataclasses.replace(sound, **{field: OddCard(odd) if field == "card" else odd})
    if _is_json([changed.card.to_json(), changed.backbone, changed.temperature]):
        models.save(folder / "model.safetensors", changed)
        model(folder / "model.safetensors")


def odd_network(bench: Path, rng: random.Random, folder: Path) -> None:
    """A model file of a network, whose transform, layer, precision or arguments are others."""
    from featurepipe import models
    from featurepipe.digests import sha256_json

    sound = models.load(bench / "net.safetensors")
    spec = sound.backbone["spec"]
    key = rng.choice(["transform", "transform", "arguments", "layer", "pooling", "precision"])
    changed = {**spec, key: mutators.mutate_json(rng, spec[key])}
    if key == "transform" and rng.random() < 0.5:
        number = rng.choice([1e-9, 1e-3, 0.05, 20, 1e9, 1e308])
        changed = {**spec, key: {**spec[key], rng.choice(["crop_pct", "mean", "std"]): number}}
    if _is_json(changed):
        backbone = {**sound.backbone, "spec": changed, "fingerprint": sha256_json(changed)}
        models.save(folder / "model.safetensors", dataclasses.replace(sound, backbone=backbone))
        model(folder / "model.safetensors")


def odd_head(bench: Path, rng: random.Random, folder: Path) -> None:
    """A model file whose head, temperature and classes are other numbers, under the digests of these."""
    from safetensors import safe_open
    from safetensors.numpy import save

    from featurepipe import models

    with safe_open(bench / "model.safetensors", "np") as file:
        header = json.loads(file.metadata()["featurepipe"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    name = rng.choice(sorted(tensors))
    odd = rng.choice([0, -1, 1e30, 1e300, 1.7e308, float("nan"), float("inf")])
    with np.errstate(all="ignore"):
        tensors[name] = rng.choice(
            [
                np.full(tensors[name].shape, odd).astype(tensors[name].dtype),
                tensors[name][:1],
                tensors[name].astype("f4"),
            ]
        )
    header["temperature"] = rng.choice([header["temperature"], 1e-308, 1e-100, 1e100, 5e-324, 1e308])
    header["classes"] = rng.choice([header["classes"], ["x", "x\0"], [1e308, -1e308], [2**63, -1], [0.0, -0.0]])
    header["head-sha256"] = models.files._head_digest(tensors[key] for key in tensors if key != "seen")
    del header["sha256"]
    header["sha256"] = models.files._digest(header, tensors)
    (folder / "model.safetensors").write_bytes(save(tensors, {"featurepipe": json.dumps(header)}))
    model(folder / "model.safetensors")


def old_model(bench: Path, rng: random.Random, folder: Path) -> None:
    """A model file of 1.1, whose header is under no digest."""
    from safetensors import safe_open
    from safetensors.numpy import save

    with safe_open(ARCHIVES / "model-1.1.safetensors", "np") as file:
        header = json.loads(file.metadata()["featurepipe"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    text = json.dumps(mutators.mutate_json(rng, header))
    if rng.random() < 0.2:
        text = mutators.mutate(rng, json.dumps(header).encode()).decode("utf-8", "replace")
    (folder / "model.safetensors").write_bytes(save(tensors, {"featurepipe": text}))
    model(folder / "model.safetensors")


def claim(bench: Path, rng: random.Random, folder: Path) -> None:
    """A claim on activations, beside which a run makes its own."""
    from featurepipe.finetuning import claims
    from featurepipe.stores import Store

    told = {"folders": ["a-12345678"], "checkpoint": str(folder / "checkpoint.pt")}
    text = json.dumps(mutators.mutate_json(rng, told)).encode()
    made = Store.create(folder / "activations")
    (made.path / ".lock.0123abcd.json").write_bytes(rng.choice([text, mutators.mutate(rng, json.dumps(told).encode())]))
    claims.claim(made, [], None, lambda line: None).release()


def checkpoint(path: Path) -> None:
    """What a tuning goes on from."""
    from featurepipe.finetuning import checkpoints

    checkpoints.load(path, "this")


def odd_checkpoint(bench: Path, rng: random.Random, folder: Path) -> None:
    """A checkpoint whose digest is right, and whose content is something else."""
    import hashlib

    import torch

    from featurepipe.finetuning import checkpoints

    header = {"identity": "this", "progress": {"epoch": 1, "step": 0, "curve": []}}
    text: Any = json.dumps(mutators.mutate_json(rng, header))
    if rng.random() < 0.5:
        text = mutators.mutate(rng, text.encode()).decode("utf-8", "replace")
    held = {"header": text, "tensors": {"network": torch.ones(3)}}
    torch.save(mutators.mutate_json(rng, held) if rng.random() < 0.5 else held, content := io.BytesIO())
    digest = checkpoints._line(hashlib.sha256(content.getvalue()))
    (folder / "checkpoint.pt").write_bytes(checkpoints.START + digest + content.getvalue())
    checkpoint(folder / "checkpoint.pt")


def weights(path: Path) -> None:
    """What a backbone is filled with."""
    from featurepipe.backbones.weights import read_weights

    read_weights(path)


def ours(path: Path) -> None:
    """Whether an output of featurepipe's may be replaced: whatever lies there, the question has an answer."""
    from featurepipe import models, reports
    from featurepipe.stages import predictions

    predictions.is_prediction(path)
    models.is_model(path)
    reports.is_page(path)


def imagenet(path: Path) -> None:
    """timm's table of results."""
    from featurepipe import comparisons

    comparisons.read_imagenet(path)


def _is_json(value: Any) -> bool:
    """Whether it can be in a file at all."""
    try:
        json.dumps(value, allow_nan=False).encode()
    except (ValueError, RecursionError):
        return False
    return True


READERS: dict[str, Reader] = {
    "csv": mutated("t.csv", table),
    "tsv": mutated("t.tsv", table),
    "jsonl": mutated("t.jsonl", table),
    "parquet": mutated("t.parquet", table),
    "odd parquet": odd_parquet,
    "odd jsonl": odd_jsonl,
    "store": store,
    "shard": mutated("shard-1.0.h5", shard, root=ARCHIVES),
    "odd shard": odd_shard,
    "model": mutated("model.safetensors", model),
    "odd model": odd_model,
    "odd network": odd_network,
    "odd head": odd_head,
    "old model": old_model,
    "claim": claim,
    "checkpoint": mutated("checkpoint.pt", checkpoint),
    "odd checkpoint": odd_checkpoint,
    "weights.pth": mutated("weights.pth", weights),
    "weights.npz": mutated("weights.npz", weights),
    "weights.safetensors": mutated("weights.safetensors", weights),
    "predictions": mutated("predicted.csv", ours),
    "page": mutated("page.html", ours),
    "imagenet": mutated("imagenet.csv", imagenet),
}
SLOW = ("odd shard", "model", "odd model", "odd network", "odd head", "old model", "claim")  # they run whole commands
ORDER = [*SLOW, *(4 * [name for name in READERS if name not in SLOW])]
