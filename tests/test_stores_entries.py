"""Which entry is meant, where a store holds several layers of a backbone."""

from dataclasses import dataclass, field

import numpy as np
import pytest

from featurepipe.backbones.specs import make_spec
from featurepipe.digests import sha256_json
from featurepipe.errors import BackboneError, StoreError
from featurepipe.images import ImageTransform
from featurepipe.stores import Store, Writer

TRANSFORM = ImageTransform((3, 8, 8), "bilinear", (0.0,) * 3, (1.0,) * 3, 1.0)


@dataclass(frozen=True)
class Named:
    """As much of a backbone as a store looks at."""

    name: str = "net.a1_in1k"
    layer: object = "penultimate"
    seed: int | None = None
    precision: str = "fp32"
    weights: str = "digest"
    width: int = 3
    source: dict = field(init=False)
    spec: dict = field(init=False)

    def __post_init__(self):
        vars(self)["source"] = {"name": self.name.split(" ")[0], "weights": None, "random_seed": self.seed}
        weights = self.weights if self.seed is None else f"random {self.seed}"
        vars(self)["spec"] = make_spec("net", {}, weights, TRANSFORM, self.layer, None, self.precision)

    @property
    def fingerprint(self):
        return sha256_json(self.spec)


def twin(layer="penultimate", seed=0):
    return Named(f"net.a1_in1k (random weights, seed {seed})", layer, seed)


STAGES = [Named(layer=f"stage{n}") for n in (1, 2, 10)]
ALL = [*STAGES, Named()]


@pytest.fixture
def store(tmp_path):
    """Factory of stores that hold one row of each given backbone."""

    def make(*backbones):
        made = Store.create(tmp_path / "s")
        for one in backbones:
            sink = Writer(made.entry(one), {"name": one.name, "source": one.source}, 4)
            sink.append(["ab" * 32], np.zeros((1, one.width), np.float32), {})
            sink.commit()
        return made

    return make


def test_folders_and_titles_tell_layers_apart(store):
    made = store(Named(), Named(layer="stage3"), twin("stage3"))
    short = [one.fingerprint[:8] for one in (Named(), Named(layer="stage3"), twin("stage3"))]
    folders = [made.entry(one).folder.name for one in (Named(), Named(layer="stage3"), twin("stage3"))]
    assert folders == [
        f"net.a1_in1k-{short[0]}",
        f"net.a1_in1k.stage3-{short[1]}",
        f"net.a1_in1k-random-weights-seed-0.stage3-{short[2]}",
    ]
    titles = {entry.title for entry in made.entries()}
    assert titles == {"net.a1_in1k", "net.a1_in1k stage3", "net.a1_in1k (random weights, seed 0) stage3"}


def test_a_stage_in_a_folder_of_an_older_version_is_found(store):
    made = store(Named(layer="stage3"))
    folder = made.entry(Named(layer="stage3")).folder
    old = folder.rename(made.path / f"net.a1_in1k-{folder.name[-8:]}")
    assert made.entry(Named(layer="stage3")).folder == old
    assert len(made.entry(Named(layer="stage3")).places()) == 1


def test_several_layers_at_once_have_no_entry(store):
    with pytest.raises(BackboneError, match="an entry for each of its layers"):
        store().entry(Named(layer=["stage1", "penultimate"]))


@pytest.mark.parametrize("name", [None, "net.a1_in1k"])
def test_without_a_layer_it_is_the_penultimate(store, name):
    made = store(*ALL, twin(), twin("stage1"))
    assert made.choose(name).spec == Named().spec
    assert made.choose(name, "penultimate").spec == Named().spec
    assert made.choose(name, "stage10").spec == STAGES[2].spec


def test_the_only_layer_needs_no_name(store):
    assert store(STAGES[1]).choose().layer == "stage2"


def test_folder_names_and_fingerprints_mean_what_they_say(store):
    made = store(*ALL)
    for one in ALL:
        assert made.choose(made.entry(one).folder.name).spec == one.spec
        assert made.choose(one.fingerprint[:12]).spec == one.spec
    with pytest.raises(StoreError, match="no layer stage1 of net"):
        made.choose(made.entry(STAGES[1]).folder.name, "stage1")


def test_the_twin_has_layers_of_its_own(store):
    made = store(Named(), twin(), twin("stage1"))
    assert made.choose(twin().name).spec == twin().spec
    assert made.choose(twin().name, "stage1").spec == twin("stage1").spec
    with pytest.raises(StoreError, match=r"no layer stage1 of net\.a1_in1k here"):  # not its twin's
        made.choose("net.a1_in1k", "stage1")


def test_several_stages_and_no_penultimate_ask_for_the_layer(store):
    for name in (None, "net.a1_in1k"):
        with pytest.raises(
            StoreError, match=r"several layers of net.a1_in1k match; choose with --layer from: stage1, sta"
        ):
            store(*STAGES).choose(name)


def test_what_differs_in_more_than_the_layer_asks_for_the_backbone(store):
    made = store(Named(), Named(precision="bf16"), Named("other", weights="b", layer="stage1"))
    for name, layer in ((None, None), ("net.a1_in1k", None), ("net.a1_in1k", "penultimate")):
        with pytest.raises(StoreError, match=r"several backbones match; choose with -b from: net\.a1_in1k-"):
            made.choose(name, layer)
    assert made.choose("other").layer == "stage1"


def test_another_backbones_only_stage_is_no_reason_to_take_the_first(store):
    with pytest.raises(StoreError, match="several backbones match"):
        store(Named(), Named("other", weights="b", layer="stage1")).choose()


@pytest.mark.parametrize(("name", "layer"), [("nonsense", None), ("nonsense", "stage1"), (None, "stage7")])
def test_what_is_not_there_lists_what_is(store, name, layer):
    made = store(*ALL)
    with pytest.raises(StoreError, match=r"no (backbone nonsense|layer stage7 of a backbone) here") as caught:
        made.choose(name, layer)
    assert all(made.entry(one).folder.name in str(caught.value) for one in ALL)


# -- several layers


def layers(entries):
    return [entry.layer for entry in entries]


@pytest.mark.parametrize("name", [None, "net.a1_in1k", STAGES[0].fingerprint])
def test_all_layers_come_in_the_networks_order(store, name):
    made = store(*ALL[::-1], twin(), twin("stage1"), Named(precision="bf16"))
    assert layers(made.choose_layers(name)) == ["stage1", "stage2", "stage10", "penultimate"]
    assert {entry.spec["precision"] for entry in made.choose_layers(name)} == {"fp32"}


@pytest.mark.parametrize("wanted", ["penultimate, stage2", ["penultimate", "stage2"]])
def test_some_layers(store, wanted):
    assert layers(store(*ALL).choose_layers(layers=wanted)) == ["stage2", "penultimate"]


def test_the_twins_layers(store):
    made = store(*ALL, twin(), twin("stage1"))
    assert layers(made.choose_layers(twin().name)) == ["stage1", "penultimate"]


def test_a_missing_layer_says_what_to_do(store):
    with pytest.raises(StoreError, match=r"no layer stage3 of net.*it has stage1, .*extract DATA --layers stages"):
        store(*ALL).choose_layers(layers="stage1,stage3")
    with pytest.raises(StoreError, match=r"no layer all of net"):
        store(*ALL).choose_layers(layers="all,stage1")


@pytest.mark.parametrize("one", [Named(), STAGES[0], twin()])
def test_a_single_layer_says_what_to_do(store, one):
    with pytest.raises(StoreError, match=r"one layer only of net.*extract DATA --layers stages"):
        store(one).choose_layers()


def test_layers_of_several_backbones_ask_for_one(store):
    made = store(*ALL, *(Named(layer=one.layer, precision="bf16") for one in ALL))
    with pytest.raises(StoreError, match="several backbones match; choose with -b from: net"):
        made.choose_layers()
    assert made.choose_layers(made.entry(STAGES[0]).folder.name)[0].spec == STAGES[0].spec


def test_no_backbone_at_all(store):
    for name in (None, "nonsense"):
        with pytest.raises(StoreError, match=r"no backbone (nonsense )?here; choose with -b from: none yet"):
            store().choose_layers(name)
