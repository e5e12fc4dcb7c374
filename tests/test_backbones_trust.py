"""What a file from anybody may make featurepipe do: read that file, the images, and weights whose digest is known."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file
from sklearn.linear_model import LogisticRegression

from featurepipe import backbones, models
from featurepipe.backbones import trust
from featurepipe.cards import Card, Selection
from featurepipe.digests import sha256_json
from featurepipe.errors import BackboneError, FingerprintMismatch, WeightsUnavailable
from featurepipe.estimators import TransferClassifier

OPTIONS = {"transform": {"input_size": (3, 32, 32)}, "precision": "fp32", "device": "cpu"}
SMALL = {"channels": [4, 4, 4, 4], "stem_width": 4}
SECRET = b"password 4711, and more that is nobody's business " * 9
CANARY = "c4n4ry"


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """A small network whose weights are in a file of their own."""
    path = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    made = backbones.create("test_resnet", arguments=SMALL, random_weights=True, **OPTIONS)
    save_file({key: value.contiguous().numpy() for key, value in made.module.state_dict().items()}, path)
    return backbones.create("test_resnet", arguments=SMALL, weights=path, **OPTIONS)


def write(path, backbone, *, carry=False, spec=None, source=None):
    """A model file of classes a and b, whose description is changed, and which is signed as if that were true."""
    estimator = LogisticRegression()
    estimator.classes_ = np.array(["a", "b"])
    estimator.coef_, estimator.intercept_ = np.ones((1, backbone.width)), np.zeros(1)
    about = {"name": backbone.name, "fingerprint": backbone.fingerprint}
    about |= {"spec": backbone.spec, "source": backbone.source}
    card = Card(selection=Selection.made("given", 1.0, []))
    model = models.Model("logistic", estimator, 1.0, about, np.zeros(0, np.uint64), card)
    models.save(path, model, module=backbone.module if carry else None)
    with safe_open(path, "np") as file:
        header = json.loads(file.metadata()["featurepipe"])
        held = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    described = header["backbone"]
    described["spec"] |= spec or {}
    described["source"] |= source or {}
    described["fingerprint"] = sha256_json(described["spec"])
    header["sha256"] = models.files._digest(header, {k: v for k, v in held.items() if not k.startswith("backbone.")})
    save_file(held, path, metadata={"featurepipe": json.dumps(header)})
    return path


def opened(path, **options):
    return models.open_backbone(models.load(path), path, device="cpu", **options)


# -- what goes on working -----------------------------------------------------------------------------------------


def test_weights_that_are_remembered_are_taken_without_a_word(tmp_path, network):
    notes = []
    made = opened(write(tmp_path / "m.safetensors", network), note=notes.append)
    assert (made.fingerprint, notes) == (network.fingerprint, [])


def test_weights_inside_the_file_are_taken(tmp_path, network):
    path = write(tmp_path / "m.safetensors", network, carry=True, source={"weights": "/nowhere/w.safetensors"})
    assert opened(path).fingerprint == network.fingerprint
    assert backbones.create(path, precision="fp32", device="cpu").fingerprint == network.fingerprint


def test_weights_that_the_user_gives_need_no_trust(tmp_path, network):
    path = write(tmp_path / "m.safetensors", network, source={"weights": "/dev/zero", "name": "hf-hub:a/b"})
    assert opened(path, weights=network.source["weights"]).fingerprint == network.fingerprint


def named(path, network):
    """A model file of a network whose weights timm has, under their name."""
    source = {"name": "test_resnet.r160_in1k", "weights": None}
    return write(path, network, spec={"arguments": {}}, source=source)


@pytest.fixture
def caches(tmp_path, monkeypatch):
    """Caches of weights with nothing in them, and no way to any host."""
    import huggingface_hub.constants
    import torch

    def refused(*_, **__):
        pytest.fail("a host was asked")

    backbones.forget()
    monkeypatch.setattr("socket.getaddrinfo", refused)
    monkeypatch.setattr("socket.socket.connect", refused)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "torch"))
    return tmp_path


def test_timms_own_weights_are_not_fetched_for_a_file(caches, network):
    path = named(caches / "m.safetensors", network)
    says = (
        r"the weights of test_resnet\.r160_in1k are not on this machine, and no file may fetch them from "
        r"https://huggingface\.co/timm/test_resnet\.r160_in1k; download them with --trust .*, or give .* --weights"
    )
    for make in (opened, TransferClassifier.load):
        with pytest.raises(WeightsUnavailable, match=says):
            make(path)


@pytest.mark.parametrize("place", ["hub", "torch"])
def test_timms_own_weights_are_taken_from_a_cache_without_asking_a_host(caches, place, monkeypatch):
    import timm
    from timm.models import get_pretrained_cfg

    state = timm.create_model("test_resnet", pretrained=False).state_dict()
    if place == "hub":
        folder = caches / "hub" / "models--timm--test_resnet.r160_in1k"
        (folder / "refs").mkdir(parents=True)
        (folder / "refs" / "main").write_text("0" * 40)
        file = folder / "snapshots" / ("0" * 40) / "model.safetensors"
    else:
        file = caches / "torch" / "checkpoints" / "test.safetensors"
        config = replace(get_pretrained_cfg("test_resnet"), hf_hub_id=None, url="https://a.invalid/b/test.safetensors")
        monkeypatch.setattr("timm.models.get_pretrained_cfg", lambda name: config)
    file.parent.mkdir(parents=True)
    save_file({key: value.numpy() for key, value in state.items()}, file)
    known = backbones.create("test_resnet", weights=file, **OPTIONS)
    notes = []
    path = named(caches / "m.safetensors", known)
    assert opened(path, note=notes.append).fingerprint == known.fingerprint
    assert notes == []
    assert TransferClassifier.load(path).predict(np.zeros((2, 32, 32, 3), np.uint8)).shape == (2,)


def test_timms_own_weights_are_told_of_before_they_are_fetched(tmp_path, network, monkeypatch):
    asked, notes = [], []

    def fetch(name, arguments, **options):
        asked.append((name, options["pretrained"], list(notes)))
        raise WeightsUnavailable("no network here")

    monkeypatch.setattr("featurepipe.backbones.makers.timm_networks.make_network", fetch)
    with pytest.raises(WeightsUnavailable, match="no network here"):
        opened(named(tmp_path / "m.safetensors", network), note=notes.append, trust=True)
    line = "weights of test_resnet.r160_in1k: from timm's cache, or downloaded from where timm has them"
    assert asked == [("test_resnet.r160_in1k", True, [line])]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("mobilenetv2_035", {"pad_type": "same"}),
        ("test_vit", {"img_size": 32, "patch_size": [8, 8], "pos_embed": "none"}),
        ("resnet18", {"in_chans": 1, "output_stride": 8, "act_layer": "gelu", "drop_path_rate": 0.1}),
        ("efficientnet_b0", {"bn_eps": 1e-3, "bn_momentum": 0.1, "norm_layer": "batchnorm2d"}),
        ("swin_tiny_patch4_window7_224", {"window_size": 8, "img_size": [256, 256]}),
    ],
)
def test_arguments_that_shape_a_network_are_let_through(name, arguments):
    trust.check_arguments(name, arguments, "m.safetensors")


def test_the_network_inside_the_package_is_made_again():
    made = backbones.create(device="cpu", precision="fp32")
    assert backbones.recreate(made.spec, made.source, device="cpu").fingerprint == made.fingerprint


# -- what does not ------------------------------------------------------------------------------------------------

HOSTILE_ARGUMENTS = [
    {"pretrained_cfg_overlay": {"url": f"http://{CANARY}.invalid/x.pth"}},
    {"pretrained_cfg_overlay": {"file": "/etc/passwd"}},
    {"pretrained_cfg": {"hf_hub_id": f"{CANARY}/b", "source": "hf-hub"}},
    {"pretrained_cfg": f"{CANARY}"},
    {"cache_dir": "/tmp/elsewhere"},
    {"checkpoint_path": "/etc/passwd"},
    {"scriptable": True},
    {"exportable": True},
    {"no_jit": True},
    {"pretrained": True},
    {"pretrained_model_args": {}},
    {"kwargs_filter": ["channels"]},
    {"model_cls": "os.system"},
    {"features_only": True},
    {"device": "cuda:0"},
    {"url": "http://a.invalid"},
    {"file": "/etc/passwd"},
    {"hf_hub_id": "a/b"},
]


@pytest.mark.parametrize("arguments", HOSTILE_ARGUMENTS, ids=str)
@pytest.mark.parametrize("carry", [False, True])
def test_arguments_that_reach_elsewhere_are_refused(tmp_path, network, arguments, carry):
    path = write(tmp_path / "m.safetensors", network, carry=carry, spec={"arguments": {**SMALL, **arguments}})
    says = rf"m\.safetensors wants to pass timm the argument '{next(iter(arguments))}'.*--trust"
    with pytest.raises(BackboneError, match=says):
        opened(path)
    if carry:
        with pytest.raises(BackboneError, match=says):
            backbones.create(path, device="cpu")
    with pytest.raises(BackboneError, match=says):
        TransferClassifier.load(path)


@pytest.mark.parametrize(
    "arguments",
    [
        {"act_layer": "../x"},
        {"act_layer": "http://a"},
        {"act_layer": "x" * 200},
        {"channels": [10**6] * 4},
        {"channels": [1] * 1000},
        {"channels": [[[[[1]]]]]},
        {"block_args": {"a": 1}},
    ],
    ids=str,
)
def test_values_that_no_network_has_are_refused(arguments):
    with pytest.raises(BackboneError, match=r"m\.safetensors gives .* the value .*which no network has"):
        trust.check_arguments("test_resnet", arguments, "m.safetensors")


HUBS = ["hf-hub:a/b", "local-dir:/tmp", "hf_hub:a/b", "http://a.invalid/b"]


@pytest.mark.parametrize("name", HUBS)
@pytest.mark.parametrize("carry", [False, True])
def test_a_hub_or_folder_as_architecture_is_refused(tmp_path, network, name, carry):
    path = write(tmp_path / "m.safetensors", network, carry=carry, spec={"architecture": name})
    with pytest.raises(BackboneError, match=rf"m\.safetensors wants to fetch its network from '{name}'.*--trust"):
        opened(path)
    with pytest.raises(BackboneError, match="wants to fetch its network from"):
        TransferClassifier.load(path)


@pytest.mark.parametrize("name", HUBS)
def test_a_hub_or_folder_as_origin_is_refused(tmp_path, network, name):
    path = write(tmp_path / "m.safetensors", network, source={"name": name, "weights": None})
    with pytest.raises(BackboneError, match=rf"wants to fetch its network from '{name}'"):
        opened(path)


def test_another_model_file_as_origin_is_refused(tmp_path, network):
    other = write(tmp_path / "other.safetensors", network, carry=True)
    path = write(tmp_path / "m.safetensors", network, source={"name": str(other), "weights": None})
    with pytest.raises(BackboneError, match=r"m\.safetensors names another file"):
        opened(path)


@pytest.fixture
def places(tmp_path):
    """Files that somebody may want to have opened."""
    (tmp_path / "secret.txt").write_bytes(SECRET)
    (tmp_path / "secret.pth").write_bytes(SECRET)
    (tmp_path / "empty.pth").write_bytes(b"")
    (tmp_path / "folder.pth").mkdir()
    (tmp_path / "zero.pth").symlink_to("/dev/zero")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "fifo.pth")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("secret.txt", "whose name is not that of a weights file"),
        ("empty.pth", "which is not a weights file"),
        ("folder.pth", "which is not a weights file"),
        ("fifo.pth", "which is not a weights file"),
        ("zero.pth", "which is not a weights file"),
        ("gone.pth", "does not exist"),
        ("gone\0.pth", "does not exist"),
        ("secret.pth", "does not hold the weights whose digest it gives"),
    ],
)
def test_a_place_that_a_file_names_is_opened_only_if_it_may_be_weights_and_is_never_shown(places, network, name, says):
    path = write(places / "m.safetensors", network, source={"weights": str(places / name)})
    for reader in (opened, TransferClassifier.load):
        with pytest.raises(BackboneError) as caught:
            reader(path)
        assert says in str(caught.value)
        assert "--weights" in str(caught.value)
        assert "password" not in str(caught.value)
        assert caught.value.__cause__ is None or "password" not in str(caught.value.__cause__)


@pytest.mark.parametrize(
    "place",
    [
        "//host/share/w.pth",
        r"\\host\share\w.pth",
        r"\/host/share/w.pth",
        r"/\host\share\w.pth",
        r"\\?\UNC\host\share\w.pth",
        "/net/host/w.pth",
        "/afs/cell/w.pth",
        "/home/../net/host/w.pth",
        "/proc/self/root/net/host/w.pth",
    ],
)
def test_a_place_on_another_host_is_not_even_looked_at(tmp_path, network, monkeypatch, place):
    looked, stat = [], os.stat
    monkeypatch.setattr(trust.os, "stat", lambda path, *a, **k: looked.append(str(path)) or stat(path, *a, **k))
    path = write(tmp_path / "m.safetensors", network, source={"weights": place})
    with pytest.raises(BackboneError, match="whose name is not that of a weights file"):
        opened(path)
    assert not [one for one in looked if one.endswith("w.pth")]


def test_weights_that_no_model_file_may_name_are_told_of_when_they_are_taken(tmp_path, network):
    plain = Path(network.source["weights"])
    (tmp_path / "pytorch_weights").write_bytes(plain.read_bytes())
    made = backbones.create("test_resnet", arguments=SMALL, weights=tmp_path / "pytorch_weights", **OPTIONS)
    (note,) = made.notes
    assert "pytorch_weights is not called as weights are (.safetensors, .pth, .pt, …)" in note
    assert "rename it, or give the weights yourself with --weights" in note
    assert network.notes == ()


def test_a_place_without_a_digest_is_not_opened(places, network):
    path = write(places / "m.safetensors", network, spec={"weights": None})
    with pytest.raises(BackboneError, match="but not their digest"):
        opened(path)


def test_other_weights_at_the_place_are_refused_by_their_digest(tmp_path, network):
    path = tmp_path / "w.safetensors"
    state = {key: value.contiguous().numpy() for key, value in network.module.state_dict().items()}
    save_file({key: value + 1 if value.dtype == np.float32 else value for key, value in state.items()}, path)
    with pytest.raises(FingerprintMismatch, match="weights is"):
        opened(write(tmp_path / "m.safetensors", network, source={"weights": str(path)}))


def test_the_bundled_name_with_somebodys_weights_is_held_to_the_same(tmp_path):
    for config, says in (
        ({"architecture": "hf-hub:a/b"}, "wants to fetch its network from"),
        ({"architecture": "test_resnet", "arguments": {"cache_dir": "/tmp"}}, "the argument 'cache_dir'"),
        ({"architecture": "test_resnet", "arguments": {"channels": [8192] * 4}}, "takes more than .* GB of memory"),
        ({"architecture": 5}, "cannot be read as weights"),
        ({"architecture": "test_resnet", "arguments": []}, "cannot be read as weights"),
    ):
        save_file({"a": np.zeros(3)}, tmp_path / "w.safetensors", metadata={"featurepipe": json.dumps(config)})
        with pytest.raises(BackboneError, match=says):
            backbones.create("bundled", weights=tmp_path / "w.safetensors", device="cpu")


# -- size ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "source"),
    [
        ({"arguments": {"channels": [8192] * 4}}, {}),
        ({"arguments": {"channels": [8192] * 4}}, {"weights": None, "random_seed": 0}),
        ({"arguments": {"layers": [16384] * 4}}, {"weights": None, "random_seed": 0}),
        ({"architecture": "vit_giant_patch14_dinov2", "arguments": {}}, {"weights": None, "random_seed": 0}),
        ({"architecture": "vit_giant_patch14_dinov2", "arguments": {}}, {}),
    ],
    ids=str,
)
def test_a_network_larger_than_its_weights_explain_is_not_made(tmp_path, network, monkeypatch, spec, source):
    if "random_seed" in source:
        source = {**source, "name": spec.get("architecture", "test_resnet")}
    path = write(tmp_path / "m.safetensors", network, spec=spec, source=source)
    monkeypatch.setattr(
        "featurepipe.backbones.makers.timm_networks.make_network", lambda *_, **__: pytest.fail("it was made")
    )
    with pytest.raises(BackboneError, match=r"m\.safetensors describes a network that takes more than .* GB of memory"):
        opened(path)


def test_images_larger_than_any_network_takes_are_refused(tmp_path, network):
    transform = {**network.spec["transform"], "input_size": [3, 100_000, 100_000]}
    path = write(tmp_path / "m.safetensors", network, carry=True, spec={"transform": transform})
    for make in (opened, lambda path: backbones.create(path, device="cpu")):
        with pytest.raises(BackboneError, match="wants to compute on images of 3×100000×100000"):
            make(path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_efficientnet", "swin_tiny_patch4_window7_224"])
def test_the_size_of_a_network_is_known_before_it_is_made(name):
    import timm

    module = timm.create_model(name, pretrained=False, num_classes=0)
    held = sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))
    assert trust.network_bytes(name, {}, 2 * held) == held
    assert trust.network_bytes(name, {}, held // 2) > held // 2


@pytest.mark.parametrize(
    ("name", "arguments", "size"),
    [
        ("vit_tiny_patch16_224", {"patch_size": 1, "img_size": 512}, 512),
        ("vit_tiny_patch16_224", {"patch_size": 1, "img_size": 512, "qkv_bias": False}, 512),
        ("resnet18", {"output_stride": 8, "stem_width": 1024, "stem_type": "deep"}, 2048),
    ],
)
def test_a_small_network_of_large_activations_is_not_run(tmp_path, network, monkeypatch, name, arguments, size):
    transform = {**network.spec["transform"], "input_size": [3, size, size]}
    spec = {"architecture": name, "arguments": arguments, "transform": transform}
    path = write(
        tmp_path / "m.safetensors", network, spec=spec, source={"name": name, "weights": None, "random_seed": 0}
    )
    monkeypatch.setattr(
        "featurepipe.backbones.makers.timm_networks.make_network", lambda *_, **__: pytest.fail("it was made")
    )
    with pytest.raises(BackboneError, match=r"m\.safetensors describes a network that takes .* GB for one step on one"):
        opened(path)


@pytest.mark.parametrize(
    "name",
    [
        "resnet50",
        "vit_base_patch16_384",
        "eva_giant_patch14_560",
        "resnetv2_152x4_bit",
        "swin_base_patch4_window12_384",
    ],
)
def test_what_timm_has_is_small_enough(name):
    import timm

    input_size = timm.get_pretrained_cfg(name).input_size
    trust.check_size(name, {}, input_size, None, "m.safetensors")


# -- with trust ---------------------------------------------------------------------------------------------------


def test_with_trust_a_file_gets_what_it_asks_for(tmp_path, network):
    path = write(tmp_path / "m.safetensors", network, spec={"arguments": {**SMALL, "no_jit": True}})
    with pytest.raises(BackboneError, match=r"allow it with --trust \(trust=True in Python\)"):
        opened(path)
    assert opened(path, trust=True).spec["arguments"] == {**SMALL, "no_jit": True}
    images = np.zeros((2, 32, 32, 3), np.uint8)
    assert TransferClassifier.load(path, trust=True).predict(images).shape == (2,)


# -- by the process itself ----------------------------------------------------------------------------------------

WATCH = """
import json, sys, os
import featurepipe, timm, torch, sklearn.linear_model, featurepipe.stages, featurepipe.estimators, huggingface_hub
import featurepipe.cli
from featurepipe import stages
from featurepipe.errors import FeaturepipeError
from featurepipe.listeners import SILENT
torch.set_num_threads(1)
folder, images, canary = sys.argv[1:]
heard = []
def hook(event, args):
    if event == "open" and isinstance(args[0], (str, bytes)):
        heard.append(["open", os.fsdecode(args[0])])
    elif event.startswith(("socket.", "subprocess.", "os.system", "os.exec", "os.spawn", "os.posix_spawn", "urllib.")):
        heard.append([event, repr(args)[:200]])
    elif event in ("exec", "compile") and canary in repr(args):
        heard.append([event, repr(args)[:200]])
above = os.path.dirname(folder)
tuning = {"tune": "head", "epochs": 1, "device": "cpu", "listener": SILENT}
def calls_of(path, name):
    return {
        "info": lambda: stages.info(path),
        "report": lambda: stages.report(path, os.path.join(above, "page.html")),
        "predict": lambda: stages.predict(path, images, device="cpu", listener=SILENT),
        "evaluate": lambda: stages.evaluate(path, images, device="cpu", listener=SILENT),
        "finetune": lambda: stages.finetune(path, images, os.path.join(above, "t", name), **tuning),
        "extract": lambda: stages.extract(images, above + "/s-" + name, backbone=path, device="cpu", listener=SILENT),
        "load": lambda: featurepipe.TransferClassifier.load(path),
    }
out, names = [], sorted(os.listdir(folder))
for name in ["honest.safetensors", *names]:  # the first time libraries load what is lazy
    for what, call in calls_of(os.path.join(folder, name), name).items():
        heard.clear()
        try:
            call()
            said = ""
        except FeaturepipeError as error:
            said = str(error)
        out.append([name, what, said, [list(one) for one in {tuple(one) for one in heard}]])
    if not out[7:]:
        sys.addaudithook(hook)
print(json.dumps(out[7:]))
"""


@pytest.mark.processes
def test_nothing_else_is_opened_run_or_asked_for(tmp_path, network, photos):
    folder, images = tmp_path / "models", photos(("a", "b"), 3)
    folder.mkdir()
    write(folder / "honest.safetensors", network)
    for number, arguments in enumerate(HOSTILE_ARGUMENTS):
        for carry in (False, True):
            spec = {"arguments": {**SMALL, **arguments}}
            write(folder / f"arguments-{number}-{carry}.safetensors", network, carry=carry, spec=spec)
    for number, name in enumerate((f"hf-hub:{CANARY}/b", f"local-dir:{tmp_path}", f"http://{CANARY}.invalid/b")):
        write(folder / f"architecture-{number}.safetensors", network, carry=True, spec={"architecture": name})
        write(folder / f"origin-{number}.safetensors", network, source={"name": name, "weights": None})
    for number, place in enumerate(("/etc/passwd", "/dev/zero", "/proc/kmsg", str(tmp_path / "secret.npz"))):
        (tmp_path / "secret.npz").symlink_to("/etc/passwd") if number == 0 else None
        write(folder / f"place-{number}.safetensors", network, source={"weights": place})
    code = [sys.executable, "-c", WATCH, str(folder), str(images), CANARY]
    done = subprocess.run(code, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert len(found) == 7 * len(list(folder.iterdir()))
    allowed = (str(tmp_path), str(Path(network.source["weights"]).parent), sys.prefix, sys.base_prefix, os.devnull)
    allowed += (str(Path(backbones.__file__).parents[2]), "/proc/", "/sys/", "/dev/shm", "/usr/share/zoneinfo")
    for name, what, said, heard in found:
        for event, about in heard:
            assert event == "open", (name, what, event, about)
            assert os.path.abspath(about).startswith(allowed), (name, what, about)
            assert "kmsg" not in about
        if what in ("predict", "evaluate", "finetune", "load"):
            assert (said == "") == name.startswith("honest"), (name, what, said)


@pytest.mark.parametrize(
    ("spec", "source"),
    [
        ({"architecture": None}, {}),
        ({"arguments": []}, {}),
        ({"transform": []}, {}),
        ({"weights": "ff"}, {}),
        ({"layer": 1}, {}),
        ({}, {"weights": 5}),
        ({}, {"name": None}),
        ({}, {"random_seed": "0"}),
    ],
    ids=str,
)
def test_a_description_of_other_types_is_refused(network, spec, source):
    with pytest.raises(BackboneError, match=r"s\.store does not describe a backbone: the (spec|source)\..* is "):
        backbones.recreate(network.spec | spec, network.source | source, who="s.store")
