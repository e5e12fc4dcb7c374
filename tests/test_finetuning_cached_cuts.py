"""A network in two: both parts together are the network, and train as it does."""

import pytest
import timm
import torch

from featurepipe.errors import FinetuningError
from featurepipe.finetuning import trainable
from featurepipe.finetuning.cached.cuts import split

SIZE = (3, 64, 64)
CASES = [
    ("test_resnet", "last-1", SIZE),
    ("test_resnet", "last-2", SIZE),
    ("test_resnet", "stage2+", SIZE),
    ("test_vit", "last-1", (3, 160, 160)),
    ("test_vit", "stage3+", (3, 160, 160)),
    ("test_vit", "last-2", (3, 96, 96)),  # positions interpolated
    ("test_convnext", "last-1", SIZE),  # cut within a stage
    ("test_convnext", "stage3+", SIZE),
    ("test_byobnet", "last-2", SIZE),
    ("test_efficientnet", "last-3", SIZE),
    ("test_nfnet", "last-2", SIZE),
    ("test_mambaout", "last-2", SIZE),
    ("mobilenetv2_035", "last-2", SIZE),
    ("mobilenetv2_035", "stage5+", SIZE),
    ("mobilenetv3_small_050", "last-1", SIZE),  # cut within the head
    ("regnety_002", "last-1", SIZE),
    ("dla34", "last-1", SIZE),  # cut through two tensors
]


def network(name, **arguments):
    torch.manual_seed(0)
    return timm.create_model(name, num_classes=0, **arguments).eval().to(memory_format=torch.channels_last)


def cut(name, tune, size=SIZE, **arguments):
    """A network of which only the parameters of a depth want gradients, and its two parts."""
    module = network(name, **({"dynamic_img_size": True} if "vit" in name else {}), **arguments)
    trained = trainable(module, tune, name)
    for parameter_name, parameter in module.named_parameters():
        parameter.requires_grad_(parameter_name in trained)
    return module, trained, split(module, trained, size, name)


def images(size, count=4, seed=0):
    x = torch.randn(count, *size, generator=torch.Generator().manual_seed(seed))
    return x.contiguous(memory_format=torch.channels_last)


def whole(module, x):
    return module.forward_head(module.forward_features(x), pre_logits=True)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "tune", "size"), CASES)
def test_both_parts_give_what_the_network_gives_and_the_same_gradients(name, tune, size):
    module, trained, made = cut(name, tune, size)
    x = images(size)
    wanted = whole(module, x)
    wanted.square().sum().backward()
    gradients = {key: value.grad.clone() for key, value in module.named_parameters() if value.grad is not None}
    module.zero_grad()

    kept = made.bottom(x)
    assert tuple(tuple(tensor.shape[1:]) for tensor in kept) == made.shapes
    assert not any(tensor.requires_grad for tensor in kept)
    before = [tensor.clone() for tensor in kept]
    found = made.top(*kept)
    assert torch.equal(found, wanted)
    assert all(map(torch.equal, kept, before))  # whoever keeps them can use them again
    found.square().sum().backward()
    assert gradients.keys() == {key for key in trained if key in gradients}
    assert gradients
    for key, parameter in module.named_parameters():
        assert (parameter.grad is None) == (key not in gradients), key
        if key in gradients:
            torch.testing.assert_close(parameter.grad, gradients[key], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "tune"),
    [
        ("test_resnet", "last-2"),
        ("test_convnext", "last-1"),
        ("mobilenetv2_035", "last-2"),  # what is cut is added to, in bf16
        ("mobilenetv3_small_050", "last-3"),  # its head has weights, which are not autocast
        ("mobilenetv3_small_050", "last-1"),
    ],
)
def test_under_autocast_tensors_kept_as_float32_give_the_same(name, tune):
    module, _, made = cut(name, tune)
    x = images(SIZE)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        maps = module.forward_features(x)
        found = made.top(*(tensor.float().contiguous() for tensor in made.bottom(x)))
        assert torch.is_autocast_enabled("cpu")
    with torch.no_grad():
        wanted = module.forward_head(maps.float(), pre_logits=True)  # as extraction pools
    assert found.dtype == torch.float32
    assert torch.equal(found, wanted)


@pytest.mark.slow
def test_what_is_cut_is_named_and_is_little():
    assert cut("test_resnet", "last-1")[2].layer == "input of layer4 (192×4×4)"
    assert cut("test_vit", "last-2", (3, 160, 160))[2].layer == "input of blocks.4 (101×64)"
    assert cut("mobilenetv3_small_050", "last-1")[2].layer == "input of conv_head (288×1×1)"  # pooled, not 2×2
    assert len({cut("test_convnext", f"last-{n}")[2].layer for n in range(1, 6)}) == 5


class Twice(torch.nn.Module):
    """A network whose top needs a tensor and a function of it, and one larger than what it is made of."""

    def __init__(self):
        super().__init__()
        self.stem, self.body = torch.nn.Conv2d(3, 4, 8, 8), torch.nn.Conv2d(4, 4, 1)
        self.last = torch.nn.Conv2d(4, 4, 1)

    def forward_features(self, x):
        x = self.stem(x)
        mirrored = torch.nn.functional.interpolate(x.flip(3), scale_factor=2)
        return self.last(x) + mirrored[:, :, ::2, ::2] + self.body(x).mean()

    def forward_head(self, x, pre_logits):
        return x.mean((2, 3)) if pre_logits else None


def test_what_can_be_computed_again_is_not_kept():
    module = Twice().eval()
    with pytest.raises(FinetuningError, match=r"Twice cannot be split: mean is not one tensor for each image; tune it"):
        split(module, {"last.weight", "last.bias"}, SIZE, "Twice")  # the mean is over the batch
    made = split(module, {"last.weight", "last.bias", "body.weight", "body.bias"}, SIZE, "Twice")
    assert made.shapes == ((4, 8, 8),)
    assert made.layer == "input of last, body (4×8×8)"


def test_the_bottom_stays_in_eval_mode_and_the_top_drops():
    module, _, made = cut("test_resnet", "last-1", drop_rate=0.5)  # dropout as a function, in the head
    x, twice = images(SIZE), images(SIZE, seed=1)
    kept = made.bottom(x)
    assert torch.equal(made.top(*kept), made.top(*kept))
    module.train()
    made.top.train()
    for _ in range(2):  # batch statistics would follow what they see
        assert torch.equal(made.bottom(twice)[0], made.bottom(twice)[0])
        assert torch.equal(made.bottom(x)[0], kept[0])
    first, second = made.top(*kept), made.top(*kept)
    assert float((first == 0).float().mean()) > 0.3
    assert not torch.equal(first == 0, second == 0)


def test_the_network_keeps_its_mode_and_its_checkpointing():
    module = network("test_vit")
    module.set_grad_checkpointing()
    module.train()
    module.blocks[0].eval()
    split(module, trainable(module, "last-1", "test_vit"), (3, 160, 160), "test_vit")
    assert module.grad_checkpointing
    assert module.training
    assert not module.blocks[0].training
    assert module.blocks[1].training


class Overwriting(Twice):
    """A network whose top overwrites what it is given."""

    def __init__(self):
        super().__init__()
        self.last = torch.nn.Sequential(torch.nn.ReLU(inplace=True), self.last)

    def forward_features(self, x):
        return self.last(self.stem(x))


def test_what_is_kept_is_not_overwritten():
    made = split(Overwriting().eval(), {"last.1.weight", "last.1.bias", "body.weight"}, SIZE, "Overwriting")
    (kept,) = made.bottom(images(SIZE))
    before = kept.clone()
    made.top(kept)
    assert torch.equal(kept, before)
    assert float(kept.min()) < 0


class Branching(Twice):
    """A network that looks at its values."""

    def forward_features(self, x):
        x = self.stem(x)
        return self.last(x) if x.sum() > 0 else self.body(x)


def test_what_cannot_be_split():
    module = network("test_resnet")
    names = {name for name, _ in module.named_parameters()}
    for trained, says in [
        (set(), "head alone is trained from the embeddings"),
        (names, "nothing to cache"),
        ({"conv1.0.weight"}, "nothing to cache"),
        ({"layer9.weight"}, "no parameter layer9.weight"),
    ]:
        with pytest.raises(FinetuningError, match=says):
            split(module, trained, SIZE, "test_resnet")
    with pytest.raises(FinetuningError, match=r"^B cannot be split: it computes differently .*; tune it without "):
        split(Branching().eval(), {"last.weight", "last.bias"}, SIZE, "B")
