"""Features in memory or in a scratch file: the same results, nothing left behind, and clear refusals."""

import os
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner

from featurepipe import extract, matrices, models, probe, probes
from featurepipe.cli import main
from featurepipe.errors import ProbeError, StoreError
from featurepipe.listeners import Listener
from featurepipe.matrices import scratch
from featurepipe.matrices.parts import arrange, cut
from featurepipe.memory import available, parse_size
from featurepipe.probes import parts as fitting
from featurepipe.probes.parts import hold
from featurepipe.stages import compare, comparisons, probe_layers, probe_protocol, protocols
from featurepipe.stores import Store

TINY = "10kB"  # less than any of these stores' features


@pytest.fixture
def stored(photos, tmp_path):
    """Factory of stores of colour histograms or raw pixels of made-up photos."""

    def make(splits=("train", "val", "test"), per_class=8, backbone="color-histogram"):
        data = photos(("ant", "bee", "cat"), per_class, splits)
        return extract(data, tmp_path / "s.store", backbone=backbone, workers=1)["store"]

    return make


def samples_of(store):
    opened = Store.open(store)
    entry = opened.choose(None)
    samples = matrices.outline(opened, entry)
    return opened, entry, arrange(samples, samples.split)


def files(store):
    return sorted(path.relative_to(store).as_posix() for path in Store.open(store).path.rglob("*"))


def maps():
    """What this process has mapped of scratch files, which have no name any more."""
    if not os.path.exists("/proc/self/maps"):
        pytest.skip("needs Linux, to see what is mapped")
    with open("/proc/self/maps") as file:
        return [line for line in file if line.rstrip().endswith("(deleted)") and ".store/" in line]


# -- sizes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "count"),
    [
        (None, None),
        (1, 1),
        ("500", 500),
        ("8GB", 8 * 10**9),
        ("500 mb", 5 * 10**8),
        ("2.5GiB", 5 * 2**29),
        ("1k", 1000),
        ("1TB", 10**12),
    ],
)
def test_sizes(size, count):
    assert parse_size(size) == count


@pytest.mark.parametrize("size", ["", "GB", "8 bytes", "-1GB", "1e9", "8PB", "nan", -1, "0.1B", 0, "0GB", "8 G B"])
def test_what_is_no_size(size):
    with pytest.raises(ProbeError, match=r"memory .*(is not a size|must be above 0)") as caught:
        parse_size(size)
    assert "\n" not in str(caught.value)


def test_a_bad_size_is_refused_before_anything_is_done(tmp_path):
    for stage in (probe, probe_layers):
        with pytest.raises(ProbeError, match="'lots' is not a size"):
            stage(tmp_path / "no.store", memory="lots")
    done = CliRunner().invoke(main, ["probe", str(tmp_path), "--memory", "lots"])
    assert done.exit_code == 2
    assert "'lots' is not a size" in done.stderr
    done = CliRunner().invoke(main, ["probe", str(tmp_path), "--memory", "1GB", "--protocol", "clip"])
    assert done.exit_code == 2
    assert "--memory does not work with --protocol" in done.stderr


def test_what_is_available_is_no_more_than_there_is():
    assert 0 < available() <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


# -- where the features lie ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("splits", "learned"), [(("train", "val", "test"), 48), (("train", "val"), 24)])
def test_parts_are_slices_of_one_matrix_wherever_it_lies(stored, splits, learned):
    store = stored(splits)
    opened, entry, samples = samples_of(store)
    whole, before = matrices.load(opened, entry), files(store)
    size = 8 * whole.X.size + 8 * len(samples) * 3 * fitting.SCORES  # of three classes
    for memory in (size, size - 1):
        parts = hold(entry, samples, "ridge", memory)
        assert (parts.elsewhere is None) == (memory == size)
        assert isinstance(parts.learned.X, np.memmap) == (parts.elsewhere is not None)
        assert len(parts.learned) == learned
        assert files(store) == before  # the scratch file has no name
        for name in ("train", "select", "report"):
            part = getattr(parts, name)
            if part is None:
                assert splits == ("train", "val")
                continue
            split = {"train": "train", "select": "val", "report": parts.reported}[name]
            expected = whole.take(whole.split == split)
            np.testing.assert_array_equal(part.X, expected.X)
            assert part.ids.tolist() == expected.ids.tolist()
            assert part.X.base is not None
    del part, parts
    assert maps() == []


def test_the_message_says_how_much(stored):
    _, entry, samples = samples_of(stored())
    size = 8 * len(samples) * entry.indexes[0].width
    note = hold(entry, samples, "svm", 1000).elsewhere
    assert f"take {size / 1000:.3g} kB, class scores up to 31.1 kB; that is more than the 1 kB of memory" in note


def test_no_memory_given_is_what_is_available(stored, monkeypatch):
    _, entry, samples = samples_of(stored())
    assert hold(entry, samples, "ridge", None).elsewhere is None
    monkeypatch.setattr(fitting, "available", lambda: 1000)
    assert hold(entry, samples, "ridge", None).elsewhere is not None
    monkeypatch.setattr(fitting, "available", lambda: None)  # nothing is known
    assert hold(entry, samples, "ridge", None).elsewhere is None


@pytest.mark.parametrize("kind", probes.KINDS)
@pytest.mark.parametrize(("split", "rows"), [("val", 8000), ("test", 32000)])
def test_classes_whose_scores_alone_do_not_fit_are_refused_at_once(kind, split, rows, monkeypatch):
    """Features on disk would not help; nothing is read, as there is nothing to read here."""
    monkeypatch.setattr(fitting, "available", lambda: 10**9)
    labels = np.array([f"label {number % 20_000}" for number in range(40_000)], object)
    splits = np.array(["train"] * 32_000 + [split] * 8_000, object)
    nothing = np.zeros((40_000, 0))
    samples = matrices.FeatureMatrix(labels, nothing, labels, splits, labels)
    entry = SimpleNamespace(width=8, shape=(8,), dtype="float32")
    for memory in (None, 10**8):
        with pytest.raises(ProbeError, match=rf"scores of {rows} samples for 20000 classes take .* memory is 1 GB"):
            hold(entry, samples, kind, memory)
    scratch.check_scores(samples, None, 10**9)
    scratch.check_scores(samples, 10**12, 10**9)


@pytest.mark.parametrize("kind", ["knn", "mlp"])
def test_kinds_that_hold_the_features_say_that_they_do_not_fit(stored, kind):
    message = f"more than the 10 kB of memory, but a {kind} probe needs both in memory; use logistic"
    with pytest.raises(ProbeError, match=message):
        probe(stored(), kind=kind, memory=TINY, baselines="none")


def test_semi_supervised_lines_need_the_features_in_memory(stored):
    with pytest.raises(ProbeError, match="leave out --semi, or give more --memory"):
        probe(stored(), kind="ridge", shots=[2], semi=True, memory=TINY)


@pytest.mark.slow
def test_a_baseline_that_fits_nowhere_costs_its_figure_and_not_the_probe(stored, limited_file_size):
    store = stored()
    memory = probe(store, kind="ridge") and 10**6  # too little for the pixels, which are there now
    with limited_file_size(200_000):
        result = probe(store, backbone="color-histogram", kind="ridge", memory=memory)
    assert result["baselines"]["pixels"] is None
    assert any(note.startswith("no figure for pixels: no room for features in ") for note in result["notes"])
    assert models.load(result["model"]).kind == "ridge"


def test_an_unknown_kind_is_still_said_to_be_unknown(stored):
    with pytest.raises(ProbeError, match="'tree' is unknown"):
        probe(stored(), kind="tree", memory=TINY, baselines="none")


def test_a_full_disk_is_found_before_it_is_written_to(stored):
    _, entry, samples = samples_of(stored())
    wide = SimpleNamespace(shape=(10**13,), dtype="float32", folder=entry.folder)
    with pytest.raises(StoreError, match=r"is more than the \S+ .B left in .*color-histogram"):
        hold(wide, samples, "ridge", 1000)


OF_VECTORS = [kind for kind in probes.names("is_copied", without=True) if probes.KINDS[kind].reads == "vectors"]


# -- results ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", OF_VECTORS)
@pytest.mark.parametrize("splits", [("train", "val", "test"), ("train", "test")])
@pytest.mark.parametrize("backbone", ["color-histogram", "pixels"])  # fewer features than rows, and more
def test_results_are_those_in_memory(stored, kind, splits, backbone):
    store = stored(splits, 8, backbone)
    options = {"kind": kind, "baselines": "none", "shots": [3], "repeats": 2}
    results, heads = [], []
    for memory in ("1GB", TINY):
        results.append(probe(store, memory=memory, **options))
        heads.append(models.load(results[-1]["model"]))
    inside, outside = results
    assert (inside["out_of_core"], outside["out_of_core"]) == (False, True)
    assert any(note.startswith("out of core: the features and a working copy take") for note in outside["notes"])
    assert not any("out of core" in note for note in inside["notes"])
    assert outside["selection"]["chosen"] == inside["selection"]["chosen"]
    assert outside["selection"]["on"] == inside["selection"]["on"]
    assert outside["test"]["confusion"] == inside["test"]["confusion"]
    assert outside["few_shot"] == inside["few_shot"]
    for one, other in zip(inside["selection"]["path"], outside["selection"]["path"], strict=True):
        assert other == pytest.approx(one, rel=1e-3, abs=1e-6)
    weights = [head.estimator.centroids_ if kind == "centroid" else head.estimator.coef_ for head in heads]
    np.testing.assert_allclose(weights[1], weights[0], rtol=1e-2, atol=2e-3 * np.abs(weights[0]).max())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["logistic", "ridge"])
def test_class_weights_out_of_core(stored, kind):
    results = [probe(stored(), kind=kind, class_weight="balanced", memory=m, baselines="none") for m in (None, TINY)]
    assert results[0]["test"]["log_loss"] == pytest.approx(results[1]["test"]["log_loss"], rel=1e-3)


@pytest.mark.slow
def test_baselines_keep_to_the_memory_that_the_features_leave(stored):
    store = stored()
    width = matrices.load(*samples_of(store)[:2]).X.shape[1]
    size = 4 * 72 * width
    room = 2 * size + 8 * 72 * 3 * fitting.SCORES
    for memory, told in ((room, True), ("1GB", False)):  # pixels are the wider ones
        result = probe(store, backbone="color-histogram", kind="ridge", memory=memory)
        assert not result["out_of_core"]
        assert any(note.startswith("pixels: out of core") for note in result["notes"]) == told
        assert result["baselines"]["pixels"] is not None
    result = probe(store, backbone="color-histogram", kind="knn", memory=room)
    assert result["baselines"]["pixels"] is None
    assert any("no figure for pixels: the features and a working copy take" in note for note in result["notes"])


@pytest.mark.slow
def test_layers_keep_to_the_memory(photos, tmp_path):
    data = photos(("ant", "bee"), 6)
    store = extract(data, tmp_path / "s.store", layers="stage2,penultimate", device="cpu", workers=1)["store"]
    inside, outside = (probe_layers(store, kind="ridge", baselines="none", memory=m) for m in (None, "1kB"))
    assert (inside["out_of_core"], outside["out_of_core"]) == (False, True)
    assert outside["layers"] == inside["layers"]


def test_nothing_is_left_after_a_failure(stored):
    class Failing(Listener):
        def progress(self, label, total):
            assert label == "few labels"  # when all is read
            assert len(maps()) == 1
            raise ProbeError("on purpose")

    store = stored()
    before = files(store)
    with pytest.raises(ProbeError, match="on purpose"):
        probe(store, kind="ridge", shots=[2], memory=TINY, baselines="none", listener=Failing())
    assert files(store) == before
    assert maps() == []


@pytest.mark.slow
def test_the_command_line_takes_a_size(stored):
    done = CliRunner().invoke(main, ["probe", stored(), "--memory", TINY, "--kind", "ridge", "--json"])
    assert done.exit_code == 0
    assert '"out_of_core": true' in done.stdout
    assert "note: out of core" in done.stderr


def test_cutting_needs_rows_to_report(stored):
    _, _, samples = samples_of(stored(("train", "test")))
    parts = cut(samples)
    assert (len(parts.train), parts.select, len(parts.report), parts.reported) == (24, None, 24, "test")
    assert parts.learned.ids.tolist() == parts.train.ids.tolist()


def test_compare_and_protocols_refuse_too(stored, monkeypatch):
    store = stored()
    monkeypatch.setattr(scratch, "SMALL", 0)
    for stage in (comparisons, protocols):
        monkeypatch.setattr(stage, "available", lambda: 1000)
    for command in (
        lambda: compare(store, kinds=["ridge", "lda"], baselines="none"),
        lambda: probe_protocol(store, protocol="clip"),
    ):
        with pytest.raises(ProbeError, match=r"scores of 24 samples for 3 classes take 2.3 kB or more"):
            command()
