import hashlib

import pytest
import torch

from featurepipe.digests import canonical_json, sha256_bytes, sha256_file, sha256_json, sha256_state_dict


def test_bytes_and_file_have_the_well_known_digest(tmp_path):
    data = b"x" * 3_000_000
    (tmp_path / "f").write_bytes(data)
    assert sha256_bytes(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert sha256_file(tmp_path / "f") == sha256_bytes(data) == hashlib.sha256(data).hexdigest()


def test_canonical_json_does_not_depend_on_order_or_tuples():
    assert canonical_json({"b": (1, 2), "a": {"d": 1, "c": 2}}) == '{"a":{"c":2,"d":1},"b":[1,2]}'
    assert sha256_json({"a": 1, "b": 2}) == sha256_json({"b": 2, "a": 1})
    assert sha256_json({"a": 1}) != sha256_json({"a": 2})


def test_canonical_json_is_ascii_even_of_names_that_are_not_utf8():
    assert canonical_json("é\udce9").isascii()


def test_canonical_json_refuses_nan_which_json_does_not_have():
    with pytest.raises(ValueError, match="JSON"):
        canonical_json({"a": float("nan")})


def state(**changes):
    return {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(1.5), **changes}


def test_state_digest_ignores_order_strides_and_batch_counters():
    same = {
        "b": state()["b"],
        "num_batches_tracked": torch.tensor(3),
        "bn.num_batches_tracked": torch.tensor(4),
        "a": state()["a"].T.contiguous().T,
    }
    assert sha256_state_dict(same) == sha256_state_dict(state())


@pytest.mark.parametrize(
    "other",
    [
        state(a=torch.arange(6.0).reshape(3, 2)),
        state(a=torch.arange(6.0).reshape(2, 3).double()),
        state(a=torch.arange(6).reshape(2, 3)),
        state(a=torch.nextafter(state()["a"], torch.tensor(9.0))),
        state(c=torch.empty(0)),
        {"a": state()["a"], "c": state()["b"]},
        {"a": state()["a"]},
    ],
    ids=["shape", "dtype", "kind", "one ulp", "extra", "name", "missing"],
)
def test_state_digest_sees_shape_dtype_name_and_every_bit(other):
    assert sha256_state_dict(other) != sha256_state_dict(state())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.bool, torch.int64])
def test_state_digest_takes_any_dtype_and_shape(dtype):
    digests = {sha256_state_dict({"a": torch.ones(shape, dtype=dtype)}) for shape in [(), (1,), (0,), (2, 2)]}
    assert len(digests) == 4


def test_state_digest_tells_equal_bytes_of_different_dtypes_apart():
    dtypes = (torch.float32, torch.int32, torch.uint8, torch.bool)
    zeros = [torch.zeros(4, dtype=dtype) for dtype in dtypes]
    assert len({sha256_state_dict({"a": tensor}) for tensor in zeros}) == len(dtypes)


def test_state_digest_of_parameters_that_want_gradients():
    tensor = state()["a"]
    assert sha256_state_dict({"a": torch.nn.Parameter(tensor)}) == sha256_state_dict({"a": tensor})
