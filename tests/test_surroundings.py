"""Everything that users call works under whatever settings the process has, and leaves them as they were."""

import importlib.util
import inspect
import multiprocessing
import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import warnings
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import hub
import huggingface_hub.constants
import numpy as np
import pytest
import sklearn
import torch
from doubles import KINDS_HERE
from PIL import Image, ImageFile
from sklearn.base import clone
from wordy import install

import featurepipe
from featurepipe import backbones, finetuning, models, probes
from featurepipe.cli import main
from featurepipe.surroundings import guarded, own_settings

IMAGES = np.random.default_rng(0).integers(0, 120, (12, 32, 32, 3), np.uint8)
IMAGES[::2] += 100
LABELS = ["ant", "bee"] * 6
PLAIN = {"kind": "ridge", "baselines": "none"}
PRETRAINED = {"backbone": "test_resnet", "input_size": (3, 32, 32), "epochs": 1}
EPOCH = {"tune": "last-1", "epochs": 1}
TABLES = "pandas" if importlib.util.find_spec("pandas") else "default"

# What users call, on what `made` gives: function, estimator's method or command → what has to come out the same.
CALLS = {
    "extract": lambda at: featurepipe.extract(at.data, at.new)["computed"],
    "probe": lambda at: featurepipe.probe(at.store, at.file, **PLAIN)["test"]["log_loss"],
    "probe_layers": lambda at: featurepipe.probe_layers(at.store, at.file, layers="stage1,stage2", **PLAIN)["layer"],
    "probe_protocol": lambda at: featurepipe.probe_protocol(at.store, at.file, protocol="clip")["test"]["top1"],
    "probe_tasks": lambda at: list(
        featurepipe.probe_tasks(at.store, at.file, labels=at.table, tasks="label", **PLAIN)["tasks"]
    ),
    "compare": lambda at: [
        row["top1"] for row in featurepipe.compare(at.store, kinds=KINDS_HERE, baselines="none")["rows"]
    ],
    "finetune": lambda at: featurepipe.finetune(at.store, output=at.file, **EPOCH)["finetuning"]["curve"][1]["top1"],
    "advise": lambda at: featurepipe.advise(at.store)["option"],
    "audit": lambda at: featurepipe.audit(at.store, at.file.with_suffix(".html"))["summary"],
    "pretrain": lambda at: featurepipe.pretrain(at.data, at.file, objective="autoencoder", **PRETRAINED)["curve"][1][
        "train_loss"
    ],
    "push": lambda at: published(lambda url: featurepipe.push(at.model, "a/b", endpoint=url)["files"]),
    "pull": lambda at: published(lambda url: featurepipe.pull("a/b", at.file, endpoint=url)["kind"], at.model),
    "zeroshot": lambda at: named(at)["scale"],
    "segment": lambda at: featurepipe.segment(at.tokens, at.masks, at.file)["path"][0]["miou"],
    "paint": lambda at: featurepipe.paint(at.painter, at.data / "ant", at.new)["classes"]["0"]["share"],
    "search": lambda at: featurepipe.search(at.store, at.data)["queries"][0]["neighbours"][0]["id"],
    "label": lambda at: [one["id"] for one in featurepipe.label(at.unlabelled, count=2)["next"]],
    "evaluate": lambda at: featurepipe.evaluate(at.model, at.data, split="all")["top1"],
    "predict": lambda at: featurepipe.predict(at.model, at.data, at.file.with_suffix(".csv"))["predicted"],
    "explain": lambda at: featurepipe.explain(at.model, at.data / "ant", at.new)["explained"],
    "run": lambda at: featurepipe.run(at.data, at.new, **PLAIN)["test"]["log_loss"],
    "report": lambda at: len(featurepipe.report(at.model, at.file.with_suffix(".html"))),
    "info": lambda at: featurepipe.info(at.store)["samples"],
    "verify": lambda at: featurepipe.verify(at.store, drift=True)["ok"],
    "export": lambda at: featurepipe.export(at.store, at.file.with_suffix(".npz"), layer="stage1")["rows"],
    "FeatureExtractor.fit": lambda at: featurepipe.FeatureExtractor().fit(IMAGES).fingerprint_,
    "FeatureExtractor.transform": lambda at: np.asarray(featurepipe.FeatureExtractor().fit_transform(IMAGES)),
    "FeatureExtractor.network": lambda at: featurepipe.FeatureExtractor().network().fingerprint,
    "TransferClassifier.fit": lambda at: at.classifier(strategy="auto").fit(IMAGES, LABELS).probe_.chosen,
    "TransferClassifier.cross_validate": lambda at: at.classifier(kind="ridge").cross_validate(IMAGES, LABELS)["top1"],
    "TransferClassifier.predict": lambda at: at.fitted.predict(IMAGES).tolist(),
    "TransferClassifier.predict_proba": lambda at: at.fitted.predict_proba(IMAGES),
    "TransferClassifier.promote": lambda at: at.fitted.promote(IMAGES, LABELS, **EPOCH).curve_[1]["train_loss"],
    "TransferClassifier.save": lambda at: at.fitted.save(at.file),
    "TransferClassifier.load": lambda at: featurepipe.TransferClassifier.load(at.model).predict_proba(IMAGES),
    "FineTuner.fit": lambda at: featurepipe.FineTuner(**EPOCH).fit(IMAGES, LABELS).curve_[1]["train_loss"],
    "FineTuner.predict": lambda at: at.tuned.predict(IMAGES).tolist(),
    "FineTuner.predict_proba": lambda at: at.tuned.predict_proba(IMAGES),
    "FineTuner.decision_function": lambda at: at.tuned.decision_function(IMAGES),
    "FineTuner.save": lambda at: at.tuned.save(at.file),
    "featurepipe run": lambda at: command("run", at.data, "-o", at.new, "--kind", "centroid", "--baselines", "none"),
    "featurepipe extract": lambda at: command("extract", at.data, "-s", at.new, "--profile"),
    "featurepipe probe": lambda at: command("probe", at.store, "-o", at.file, "--kind", "knn", "--baselines", "none"),
    "featurepipe compare": lambda at: command("compare", at.store, "--kind", "ridge", "--baselines", "none"),
    "featurepipe evaluate": lambda at: command("evaluate", at.model, at.data, "--split", "all"),
    "featurepipe predict": lambda at: command("predict", at.model, at.data, "-o", at.file.with_suffix(".csv")),
    "featurepipe report": lambda at: command("report", at.model, "-o", at.file.with_suffix(".html")),
    "featurepipe info": lambda at: command("info", at.store),
    "featurepipe verify": lambda at: command("verify", at.store),
    "featurepipe export": lambda at: command("export", at.store, "-o", at.file.with_suffix(".csv")),
    "featurepipe backbones": lambda at: command("backbones", "test_*"),
    "featurepipe advise": lambda at: command("advise", at.store),
    "featurepipe audit": lambda at: command("audit", at.store, "--fix", at.file.with_suffix(".csv")),
    "featurepipe pretrain": lambda at: command(
        "pretrain", at.data, "-o", at.file, "-b", "test_resnet", "--input-size", "3", "32", "32", "--epochs", "1"
    ),
    "featurepipe zeroshot": lambda at: (
        install(),
        command("zeroshot", "a,b", "-o", at.file, "-b", "wordy:test_resnet"),
    )[1],
    "featurepipe push": lambda at: published(lambda url: command("push", at.model, "a/b", "--endpoint", url)),
    "featurepipe pull": lambda at: published(
        lambda url: command("pull", "a/b", "-o", at.file, "--endpoint", url), at.model
    ),
    "featurepipe explain": lambda at: command("explain", at.model, at.data / "ant", "-o", at.new),
    "featurepipe segment": lambda at: command("segment", at.tokens, at.masks, "-o", at.file),
    "featurepipe paint": lambda at: command("paint", at.painter, at.data / "ant", "-o", at.new),
    "featurepipe search": lambda at: command("search", at.store, at.data),
    "featurepipe label": lambda at: command("label", at.unlabelled),
    "featurepipe finetune": lambda at: command("finetune", at.store, "-o", at.file, "--tune", "head", "--epochs", "1"),
}
NO_CALLS = {"__version__", "FeaturepipeError"}
STEPS = {"FineTuner.tune_from"}  # of `TransferClassifier.promote` and `FineTuner.fit`
STEPS |= {
    f"FeatureExtractor.{name}" for name in ("adopt", "embed", "identity", "items", "listing", "rows")
}  # of `fit` and `transform`


def command(*arguments):
    """Run a command as the shell does, and give its exit code."""
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments], prog_name="featurepipe")
    return caught.value.code or 0


def published(call, model=None):
    """What `call` gives of the address of a hub, which holds a model in ``a/b``."""
    with hub.serving() as server, TemporaryDirectory() as cache, pytest.MonkeyPatch.context() as patch:
        patch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", cache)
        if model is not None:
            server.repositories["a/b"] = {"model.safetensors": Path(model).read_bytes()}
        return call(server.url)


def named(at):
    """A model of two names."""
    install()
    return featurepipe.zeroshot("a,b", at.file, backbone="wordy:test_resnet")


def methods(cls):
    own = [name for name, value in vars(cls).items() if callable(value) or isinstance(value, classmethod)]
    return {name: getattr(cls, name) for name in own if name[0] != "_"}


def functions():
    """Public functions, and the estimators' own public methods, by name."""
    found = {}
    for name in set(featurepipe.__all__) - NO_CALLS:
        value = getattr(featurepipe, name)
        of_class = methods(value) if inspect.isclass(value) else None
        found |= {name: value} if of_class is None else {f"{name}.{key}": each for key, each in of_class.items()}
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """What is there before: twelve images in two classes, their embeddings, models of them; and what comes out of
    each call as libraries come.
    """
    at = tmp_path_factory.mktemp("made")
    for number, (pixels, label) in enumerate(zip(IMAGES, LABELS, strict=True)):
        path = at / "data" / label / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    rows = [f"{label}/{number}.png,{label}\n" for number, label in enumerate(LABELS)]
    (at / "labels.csv").write_text("id,label\n" + "".join(rows), "utf-8")
    featurepipe.extract(at / "data", at / "store", layers="stage1,stage2,penultimate")
    featurepipe.extract(at / "data" / "ant", at / "unlabelled", backbone="pixels")
    featurepipe.probe(at / "store", at / "model.safetensors", **PLAIN)
    featurepipe.extract(at / "data", at / "tokens", tokens=True, transform={"input_size": (3, 32, 32)})
    for number, pixels in enumerate(IMAGES):
        path = at / "masks" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray((pixels[:, :, 0] > 80).astype(np.uint8)).save(path)
    featurepipe.segment(at / "tokens", at / "masks", at / "painter.safetensors")
    return SimpleNamespace(
        painter=at / "painter.safetensors",
        data=at / "data",
        table=at / "labels.csv",
        store=at / "store",
        unlabelled=at / "unlabelled",
        tokens=at / "tokens",
        masks=at / "masks",
        model=at / "model.safetensors",
        classifier=featurepipe.TransferClassifier,
        fitted=featurepipe.TransferClassifier(kind="ridge", value=1.0).fit(IMAGES, LABELS),
        tuned=featurepipe.FineTuner(**EPOCH).fit(IMAGES, LABELS),
    )


def state():
    """All settings that a call could change, and the random generators."""
    numpy_random = np.random.get_state()
    return {
        "numpy": np.geterr(),
        "sklearn": sklearn.get_config(),
        "gradients": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "autocast": [torch.is_autocast_enabled(kind) for kind in ("cpu", "cuda")],
        "floats": (torch.get_default_dtype(), torch.get_float32_matmul_precision()),
        "device": torch.get_default_device() if not torch.is_inference_mode_enabled() else torch.empty(0).device,
        "threads": (torch.get_num_threads(), threading.active_count()),
        "switches": (torch.backends.cudnn.allow_tf32, torch.are_deterministic_algorithms_enabled()),
        "pillow": (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES),
        "warnings": list(warnings.filters),
        "streams": (sys.stdin, sys.stdout, sys.stderr),
        "signals": {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE)},
        "process": (os.getcwd(), dict(os.environ), sys.getrecursionlimit(), multiprocessing.active_children()),
        "python's random": random.getstate(),
        "numpy's random": (numpy_random[1].tobytes(), numpy_random[2:]),
        "torch's random": bytes(torch.get_rng_state().numpy()),
    }


@contextmanager
def hostile():
    """All of it at once: what notebooks, other libraries and services set."""
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("error")
        stack.enter_context(np.errstate(all="raise"))
        changed = {"assume_finite": True, "enable_metadata_routing": True, "transform_output": TABLES}
        stack.enter_context(sklearn.config_context(**changed))
        stack.callback(torch.set_default_dtype, torch.get_default_dtype())
        torch.set_default_dtype(torch.float64)
        stack.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
        torch.set_float32_matmul_precision("medium")
        stack.callback(torch.set_default_device, None)
        torch.set_default_device("meta")
        stack.enter_context(torch.autocast("cpu", torch.bfloat16))
        stack.enter_context(torch.inference_mode())
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(sys, "stdout", None)
        patch.setattr(sys, "stderr", None)
        yield


def outcome(name, made, folder):
    """What a call gives, which writes into `folder`, and makes its networks anew."""
    backbones.forget()
    return CALLS[name](SimpleNamespace(**vars(made), new=folder / "new", file=folder / "made.safetensors"))


@pytest.mark.slow
@pytest.mark.parametrize("name", CALLS)
def test_whatever_is_called_works_under_any_settings_and_leaves_them(made, tmp_path, name):
    wanted = outcome(name, made, tmp_path / "friendly")
    with hostile():
        before = state()
        found = outcome(name, made, tmp_path / "hostile")
        after = state()
    assert [key for key in before if after[key] != before[key]] == []
    if wanted is not None and not isinstance(wanted, (str, list)):
        np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-5)
    else:
        assert found == wanted


@contextmanager
def one_descriptor_to_spare():
    """As in a process that has opened nearly as many files as it may."""
    import resource

    before, fillers = resource.getrlimit(resource.RLIMIT_NOFILE), []
    highest = max(map(int, os.listdir("/dev/fd")))
    while not fillers or fillers[-1] <= highest:
        fillers.append(os.open(os.devnull, os.O_RDONLY))
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (fillers[-1] + 2, before[1]))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        for filler in fillers:
            os.close(filler)


@pytest.mark.skipif(not os.path.isdir("/dev/fd"), reason="needs POSIX's list of open files")
@pytest.mark.parametrize(
    "name", ["extract", "probe", "evaluate", "predict", "info", "verify", "export", "FeatureExtractor.transform"]
)
def test_with_one_descriptor_to_spare_it_works_or_says_so(made, tmp_path, name):
    wanted, found = outcome(name, made, tmp_path / "friendly"), None
    with one_descriptor_to_spare():
        try:
            found = outcome(name, made, tmp_path / "hostile")
        except (featurepipe.FeaturepipeError, OSError) as error:
            assert "oo many open files" in str(error)  # noqa: PT017  # one or the other
    if found is not None:
        np.testing.assert_array_equal(found, wanted)


def test_no_public_function_method_or_command_is_left_out():
    assert CALLS.keys() == (functions().keys() - STEPS) | {f"featurepipe {name}" for name in main.commands}


@pytest.mark.parametrize("name", sorted(functions()))
def test_every_public_function_and_method_is_guarded(name):
    assert functions()[name].is_guarded


@pytest.mark.parametrize(
    "function",
    [
        *(backbones.create, backbones.create_layers, backbones.recreate, backbones.twin, backbones.learn_codebook),
        *(backbones.Backbone.embed, backbones.Backbone.compile, backbones.Layers.embed, backbones.Pixels.embed),
        *(backbones.Hog.embed, backbones.ColorHistogram.embed, backbones.Sift.embed),
        *(probes.fit, probes.choose, probes.choose_layer, probes.fit_labels, probes.fit_few_shot),
        *(probes.evaluate, probes.predict),
        *(models.load, models.save, models.open_backbone, models.Model.predict_proba),
        *(finetuning.promote, finetuning.tune),
    ],
    ids=lambda function: function.__qualname__,
)
def test_what_notebooks_call_in_the_rooms_is_guarded(function):
    assert function.is_guarded


def test_a_guarded_function_looks_and_fails_as_it_did():
    @guarded
    def divide(a: float, b: float = 2.0) -> float:
        """A quotient."""
        return a / b

    assert (divide.__doc__, divide.__name__, str(inspect.signature(divide))) == (
        "A quotient.",
        "divide",
        "(a: float, b: float = 2.0) -> float",
    )
    assert divide(1.0, b=4.0) == 0.25
    with np.errstate(divide="raise"), pytest.raises(ZeroDivisionError):
        divide(1.0, 0.0)
    with np.errstate(divide="raise"):
        assert np.geterr()["divide"] == "raise"
    assert pickle.loads(pickle.dumps(featurepipe.extract)) is featurepipe.extract


def test_estimators_are_cloned_and_shown_as_before():
    extractor = featurepipe.FeatureExtractor("pixels", workers=1)
    assert clone(extractor).get_params() == extractor.get_params()
    assert repr(extractor) == "FeatureExtractor(backbone='pixels', workers=1)"


def test_who_is_inside_already_pays_and_changes_nothing():
    with own_settings(), np.errstate(under="raise"):
        with own_settings():
            assert np.geterr()["under"] == "raise"
        assert np.geterr()["under"] == "raise"


def test_two_threads_share_what_is_the_process_s_and_the_last_puts_it_back():
    inside, leave = threading.Event(), threading.Event()

    def other():
        with own_settings():
            inside.set()
            leave.wait(30)

    torch.set_default_dtype(torch.float64)
    try:
        thread = threading.Thread(target=other)
        thread.start()
        inside.wait(30)
        with own_settings():
            assert torch.get_default_dtype() == torch.float32
        assert torch.get_default_dtype() == torch.float32  # the other one is still at work
        leave.set()
        thread.join()
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.skipif(TABLES == "default", reason="needs pandas")
def test_transform_gives_the_tables_that_the_notebook_has_asked_for_and_fit_works_on_arrays():
    with sklearn.config_context(transform_output=TABLES):
        table = featurepipe.FeatureExtractor("pixels").fit_transform(IMAGES)
    assert table.shape == (12, 3072)
    assert not isinstance(table, np.ndarray)
    asked = featurepipe.FeatureExtractor("pixels").set_output(transform=TABLES)
    fitted = featurepipe.TransferClassifier(asked, kind="ridge", strategy="auto").fit(IMAGES, LABELS)
    assert fitted.score(IMAGES, LABELS) == 1


FORKED = """
import os, signal
import numpy as np, torch
from featurepipe import backbones
torch.set_num_threads(2)
options = {"device": "cpu", "precision": "fp32"}
made = backbones.create(**options)
pixels = np.zeros((8, *made.transform.input_size), np.uint8)
made.embed(pixels)
child = os.fork()
if not child:
    signal.alarm(15)  # ends it, should it wait for threads that have stayed in the parent
    made.embed(pixels)
    backbones.create(**options).embed(pixels)
    os._exit(torch.get_num_threads())
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.processes
@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked there")
def test_a_forked_child_uses_and_makes_networks_after_its_parent_has_used_one():
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}  # Python warns of forks beside threads, rightly
    done = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, env=environment, timeout=300)
    assert (done.stdout, done.returncode) == ("2\n", 0), done.stderr


@pytest.mark.processes
def test_the_guard_loads_nothing_and_hides_no_interrupt_of_loading():
    code = """
import sys
from featurepipe.surroundings import guarded

@guarded
def interrupted():
    raise KeyboardInterrupt

try:
    interrupted()
except KeyboardInterrupt:
    print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout == "False\n", done.stderr
