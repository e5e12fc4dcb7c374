"""The shard format is what the docstring of `featurepipe.shards` says, and nothing damaged passes for a shard."""

import errno
import fcntl
import hashlib
import json
import os
import subprocess
import sys
import zlib
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from featurepipe import files, shards
from featurepipe.digests import sha256_json
from featurepipe.errors import FormatTooNew, OutputError, ShardCorrupt, ShardUnreadable, StoreError

ARCHIVE = Path(__file__).parent / "archives" / "shard-1.0.h5"
TOKEN_ARCHIVE = ARCHIVE.with_name("shard-2.0.h5")
SPEC = {"format": 1, "architecture": "some_net", "arguments": {"k": [1, 2.5, None]}, "weights": "0" * 64}
PROVENANCE = {"name": "some-net (ü)", "source": {"name": "some-net", "weights": None, "random_seed": None}}
REJECTS = {"ab" * 32: "broken image: ü, \\x00", "cd" * 32: "empty file (0 bytes)"}
VALUES = np.array([[1.5, -0.0, 3.25], [2.0**-20, 65504.0, -1.0]])  # exact in float16 too
DIGESTS = np.arange(64, dtype=np.uint8).reshape(2, 32)


def example(dtype="float32", rows=2, rejects=REJECTS):
    return shards.Shard(SPEC, PROVENANCE, VALUES[:rows].astype(dtype), DIGESTS[:rows], rejects)


def make_archive(path=ARCHIVE):
    """How the archive was made, once, by the first version that writes format 1.0. Never make it again."""
    shards.write(path, example())


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "store" / "net-12345678" / "shard-00000.h5"
    shards.write(path, example())
    return path


def check_equal(found, wanted):
    assert found.embeddings.dtype == wanted.embeddings.dtype
    assert found.embeddings.shape == wanted.embeddings.shape
    assert found.embeddings.tobytes() == wanted.embeddings.tobytes()  # -0.0 stays -0.0
    assert found.digests.tolist() == wanted.digests.tolist()
    assert (found.spec, found.provenance, dict(found.rejects)) == (wanted.spec, wanted.provenance, dict(wanted.rejects))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(("rows", "rejects"), [(2, REJECTS), (2, {}), (0, REJECTS), (0, {})])
def test_what_is_written_is_read(tmp_path, dtype, rows, rejects):
    shard = example(dtype, rows, rejects)
    shards.write(tmp_path / "s.h5", shard)
    check_equal(shards.read(tmp_path / "s.h5"), shard)
    index = shards.read_index(tmp_path / "s.h5")
    assert (index.width, index.dtype, len(index.digests), dict(index.rejects)) == (3, dtype, rows, rejects)


def test_the_archive_of_format_1_0_reads_as_it_always_did():
    check_equal(shards.read(ARCHIVE), example())
    assert shards.read(ARCHIVE).fingerprint == "b3c7824c8268efdc1f0f421ccb3a02ae1ad4b9501837466e3634420844271602"


def token_example(rows=2):
    """Tokens of a grid of 1 × 2, each of 3 numbers."""
    tokens = np.stack([VALUES, VALUES[::-1]])[:rows, None].astype("float16")
    spec = {**SPEC, "tokens": {"grid": [1, 2], "dtype": "float16"}}
    return shards.Shard(spec, PROVENANCE, tokens, DIGESTS[:rows], REJECTS)


def make_token_archive(path=TOKEN_ARCHIVE):
    """How the archive of tokens was made, once, by the first version that writes format 2.0. Never make it again."""
    shards.write(path, token_example())


@pytest.mark.parametrize("rows", [2, 0])
def test_tokens_are_written_as_version_2_and_read(tmp_path, rows):
    path = tmp_path / "s.h5"
    shards.write(path, token_example(rows))
    check_equal(shards.read(path), token_example(rows))
    assert (shards.read_index(path).shape, shards.read_index(path).width) == ((1, 2, 3), 3)
    with h5py.File(path) as file:
        assert file.attrs["encoding-version"] == b"2.0"
        assert file.attrs["digest"].decode() == described_digest(file)
    wanted = token_example(rows).embeddings[::-1]
    assert np.array_equal(shards.Reader.open(path).read(np.arange(rows)[::-1]), wanted)


def test_the_archive_of_format_2_0_reads_as_it_always_did():
    check_equal(shards.read(TOKEN_ARCHIVE), token_example())


@pytest.mark.parametrize(("shard", "version"), [(example(), "2.0"), (token_example(), "1.1")])
def test_a_version_that_the_shape_does_not_have_is_corrupt(tmp_path, shard, version):
    path = tmp_path / "store" / "net-12345678" / "shard-00000.h5"
    shards.write(path, shard)
    rewrite(path, encoding_version=version)
    seal(path)
    check_refused(path)


def described_digest(file):
    """The digest as docs/format.md describes it, without the code that writes it."""
    names = ("encoding-type", "encoding-version", "fingerprint", "spec", "provenance")
    arrays = {name: file[name][()] for name in ("digests", "checksums", "reject_digests")}
    layout = {
        name: {"dtype": file[name].dtype.str, "shape": list(file[name].shape)} for name in (*arrays, "embeddings")
    }
    content = {
        "attributes": {name: file.attrs[name].decode("utf-8") for name in names},
        "layout": layout,
        "reject_reasons": [text.decode("utf-8") for text in file["reject_reasons"][()]],
        "sha256": {name: hashlib.sha256(array.tobytes()).hexdigest() for name, array in arrays.items()},
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode("ascii")).hexdigest()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_file_is_what_the_specification_says(tmp_path, dtype):
    shards.write(tmp_path / "s.h5", example(dtype))
    with h5py.File(tmp_path / "s.h5") as file:
        text = {name: value.decode("utf-8") for name, value in file.attrs.items()}
        assert text["encoding-type"] == "featurepipe-shard"
        assert text["encoding-version"] == "1.1"
        assert json.loads(text["spec"]) == SPEC
        assert text["spec"] == json.dumps(SPEC, sort_keys=True, separators=(",", ":"))
        assert text["fingerprint"] == sha256_json(SPEC)
        assert json.loads(text["provenance"]) == PROVENANCE
        assert {name: (data.dtype.str, data.shape) for name, data in file.items() if name != "reject_reasons"} == {
            "embeddings": ("<f4" if dtype == "float32" else "<f2", (2, 3)),
            "digests": ("|u1", (2, 32)),
            "checksums": ("<u4", (2,)),
            "reject_digests": ("|u1", (2, 32)),
        }
        assert all(data.chunks is None and data.compression is None for data in file.values())
        assert [h5py.check_string_dtype(file["reject_reasons"].dtype).encoding, file["reject_reasons"].shape] == [
            "utf-8",
            (2,),
        ]
        raw = np.memmap(tmp_path / "s.h5", dtype, "r", file["embeddings"].id.get_offset(), (2, 3))
        assert (raw == VALUES).all()
        sums = [zlib.crc32(bytes(d) + v.tobytes()) for d, v in zip(DIGESTS, VALUES.astype(dtype), strict=True)]
        assert file["checksums"][()].tolist() == sums
        assert text["digest"] == described_digest(file)


PROTECTED = ["embeddings", "digests", "checksums", "reject_digests", "reject_reasons"]


@pytest.mark.slow
@pytest.mark.parametrize("name", PROTECTED)
def test_every_flipped_byte_is_found(written, name):
    with h5py.File(written) as file:
        start, size = file[name].id.get_offset(), file[name].id.get_storage_size()
    whole, says = (
        written.read_bytes(),
        "1 rows fail their checksum" if name == "embeddings" else "not match its digest",
    )
    for position in range(start, start + size):
        written.write_bytes(whole[:position] + bytes([whole[position] ^ 0x10]) + whole[position + 1 :])
        with pytest.raises(ShardCorrupt, match=says if name != "reject_reasons" else f"{says}|codec can't decode"):
            shards.read(written)
        if name != "embeddings":  # whose checksums are compared when they are read
            with pytest.raises(ShardCorrupt):
                shards.read_index(written)


@pytest.mark.parametrize("attribute", [*shards.ATTRIBUTES, shards.DIGEST])
def test_an_attribute_that_says_something_else_is_found(written, attribute):
    """Other software may rewrite one; HDF5's own checksum is right then."""
    with h5py.File(written) as file:
        text = file.attrs[attribute].decode("utf-8")
    other = {"encoding-version": "1.0", "provenance": text.replace("some-net", "same-net")}.get(attribute, text + " ")
    rewrite(written, **{attribute.replace("-", "_"): other})
    check_refused(written)
    rewrite(written, **{attribute.replace("-", "_"): text})
    check_equal(shards.read(written), example())


def test_a_shard_of_1_1_without_digest_is_corrupt_and_one_of_1_0_is_not(written):
    rewrite(written, digest=None)
    with pytest.raises(ShardCorrupt, match="does not match its digest"):
        shards.read_index(written)
    rewrite(written, encoding_version="1.0")
    check_equal(shards.read(written), example())


@pytest.mark.slow
def test_no_flipped_byte_anywhere_gives_another_vector(written):
    whole, found = written.read_bytes(), 0
    for position in range(0, len(whole), 19):
        written.write_bytes(whole[:position] + bytes([whole[position] ^ 0xFF]) + whole[position + 1 :])
        try:
            shard = shards.read(written)
        except (ShardCorrupt, FormatTooNew):
            found += 1
            continue
        check_equal(shard, example())
    assert found > 100


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.9, 0.999])
def test_truncated_files_are_corrupt(written, share):
    whole = written.read_bytes()
    written.write_bytes(whole[: int(len(whole) * share)])
    check_refused(written)


@pytest.mark.parametrize("content", [b"not HDF5 at all", b"\x89HDF\r\n\x1a\n", b"\0" * 4096])
def test_other_files_are_corrupt(written, content):
    written.write_bytes(content)
    check_refused(written)


def check_refused(path):
    for read in (shards.read, shards.read_index):
        with pytest.raises(ShardCorrupt) as caught:
            read(path)
        message = str(caught.value)
        assert str(path) in message
        assert f"featurepipe verify --repair {path.parent.parent}" in message
        assert isinstance(caught.value, StoreError | OSError)


def rewrite(path, **changes):
    """The same file with some attributes or datasets replaced, as other software might write it."""
    with h5py.File(path, "r+") as file:
        for name, value in changes.items():
            where, key = (file, name) if name in file else (file.attrs, name.replace("_", "-"))
            if key in where:
                del where[key]
            if value is not None:
                where[key] = np.bytes_(value.encode("utf-8")) if isinstance(value, str) else value


def seal(path):
    """Give a file that was rewritten the digest that fits it."""
    with h5py.File(path) as file:
        digest = described_digest(file)
    rewrite(path, digest=digest)


@pytest.mark.parametrize(
    "change",
    [
        {"encoding_type": "anndata"},
        {"encoding_type": None},
        {"encoding_version": None},
        {"encoding_version": "one"},
        {"fingerprint": "0" * 64},
        {"fingerprint": None},
        {"spec": "{"},
        {"spec": None},
        {"spec": json.dumps(SPEC | {"weights": "1" * 64})},
        {"provenance": None},
        {"embeddings": None},
        {"embeddings": VALUES},  # float64
        {"embeddings": VALUES.astype(">f4")},
        {"embeddings": VALUES[:1].astype("f4")},
        {"embeddings": VALUES.astype("f4").ravel()},
        {"embeddings": np.float32(1)},
        {"digests": DIGESTS[:1]},
        {"digests": DIGESTS[:, :16]},
        {"digests": DIGESTS.astype(np.int64)},
        {"digests": None},
        {"checksums": None},
        {"checksums": np.zeros(3, np.uint32)},
        {"reject_digests": DIGESTS[:1]},
        {"reject_reasons": ["one"]},
        {"reject_reasons": np.zeros(2)},
        {"embeddings": np.zeros((2, 3, 1), "f4")},
        {"embeddings": np.zeros((2, 3, 1, 1), "f4")},
        {"reject_reasons": None},
    ],
    ids=lambda change: "-".join(f"{key}={value!r:.12}" for key, value in change.items()),
)
def test_parts_that_miss_or_do_not_fit_are_corrupt(written, change):
    rewrite(written, **change)
    check_refused(written)


def test_a_later_minor_version_is_read_too(written):
    rewrite(written, encoding_version="1.7", something_new="of 1.7", more=np.zeros(3))
    seal(written)
    check_equal(shards.read(written), example())


@pytest.mark.parametrize(
    "change",
    [
        {"spec": json.dumps([SPEC])},
        {"spec": "[" * 100_000},
        {"spec": '{"n": 1' + "0" * 5_000 + "}"},
        {"spec": '{"n": 1e999}'},
        {"spec": "x" * 2_000_000},
        {"spec": np.zeros(3)},
        {"spec": np.bytes_(b"\xff")},
        {"spec": np.array("text of any length", h5py.string_dtype())},
        {"provenance": "[]"},
        {"provenance": "{" * 100_000},
        {"reject_reasons": ["text", "of any length"]},
        {"reject_reasons": np.array([b"\xff", b"a"])},
        {"reject_digests": DIGESTS[[0, 0]]},
        {"reject_digests": DIGESTS.astype("i8")},
    ],
    ids=lambda change: "-".join(f"{key}={value!r:.12}" for key, value in change.items()),
)
def test_hostile_content_is_corrupt_and_nothing_else(written, change):
    with h5py.File(written, "r+", libver="v110") as file:  # attributes above 64 kB need it
        for name, value in change.items():
            where = file if name in file else file.attrs
            del where[name]
            where[name] = np.bytes_(value.encode()) if isinstance(value, str) else value
            if name == "spec":  # a fingerprint that fits, as far as there can be one
                del file.attrs["encoding-version"]
                file.attrs["encoding-version"] = np.bytes_(b"1.0")
                del file.attrs[shards.DIGEST]
    check_refused(written)


def external(file, name, shape, dtype, place):
    del file[name]
    file.create_dataset(name, shape, dtype, external=[(str(place), 0, h5py.h5f.UNLIMITED)])


def virtual(file, name, place):
    with h5py.File(place, "w") as other:
        other["x"] = np.zeros(2, np.uint32)
    layout = h5py.VirtualLayout((2,), "<u4")
    layout[:] = h5py.VirtualSource(str(place), "x", (2,))
    del file[name]
    file.create_virtual_dataset(name, layout)


def linked(file, name, link):
    del file[name]
    file[name] = link


def claiming(file, name, shape, dtype, **options):
    del file[name]
    file.create_dataset(name, shape, dtype, **options)


@pytest.mark.parametrize(
    "harm",
    [
        lambda f, place: external(f, "reject_reasons", (2,), "S16", place),
        lambda f, place: external(f, "embeddings", (2, 3), "<f4", place),
        lambda f, place: linked(f, "reject_reasons", h5py.ExternalLink(str(place), "/")),
        lambda f, place: linked(f, "digests", h5py.SoftLink("/checksums")),
        lambda f, place: f.__setitem__("more", h5py.ExternalLink(str(place), "/")),
        lambda f, place: f.create_group("more"),
        lambda f, place: virtual(f, "checksums", place.with_name("other.h5")),
        lambda f, place: claiming(f, "digests", (2**37, 32), "u1", chunks=(2**10, 32)),
        lambda f, place: claiming(f, "embeddings", (2, 2**26), "<f4", chunks=(1, 2**20), compression="gzip"),
        lambda f, place: claiming(f, "embeddings", (2, 2**40), "<f4"),
        lambda f, place: claiming(f, "checksums", (2,), "<u4", chunks=(2,), shuffle=True),
        lambda f, place: claiming(f, "checksums", (2,), "<u4"),
        lambda f, place: claiming(f, "reject_digests", (2**40, 0), "u1"),
        lambda f, place: claiming(f, "reject_digests", (0, 2**40), "u1"),
        lambda f, place: claiming(f, "reject_reasons", (2**40, 0), "S1"),
        lambda f, place: claiming(f, "checksums", (2**40, 0), "<u4"),
        lambda f, place: claiming(f, "digests", (2**40, 0), "u1"),
        lambda f, place: claiming(f, "embeddings", (2**40, 0), "<f4"),
    ],
    ids=[
        *("external storage", "of the embeddings", "external link", "soft link", "another's link", "group", "virtual"),
        *("4 TB", "gzip", "contiguous", "filter", "never written"),
        *("rejects of nothing", "no wide rejects", "reasons of nothing", "sums of nothing", "digests of nothing"),
        "rows of nothing",
    ],
)
def test_a_shard_that_reaches_elsewhere_or_claims_more_than_it_holds_is_refused_unread(written, tmp_path, harm):
    secret = tmp_path / "private.txt"
    secret.write_bytes(b"secret=4711;" * 100)
    with h5py.File(written, "r+") as file:
        harm(file, secret)
    for read in (shards.read, shards.read_index, shards.Reader.open):
        with pytest.raises(ShardCorrupt, match=r"link|not a dataset|not contiguous|claims|fit together") as caught:
            read(written)
        assert "4711" not in str(caught.value)


def test_a_width_that_no_embedding_bears_out_is_refused(tmp_path):
    path = tmp_path / "store" / "net-12345678" / "shard-00000.h5"
    shards.write(path, example(rows=0))
    rewrite(path, embeddings=np.zeros((0, 2**40), "f4"))
    seal(path)
    check_refused(path)


@pytest.mark.processes
def test_external_storage_in_a_pipe_does_not_hang(written, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with h5py.File(written, "r+") as file:
        external(file, "reject_reasons", (2,), "S16", tmp_path / "pipe")
    code = f"from pathlib import Path; from featurepipe import shards; shards.read(Path({str(written)!r}))"
    done = subprocess.run([sys.executable, "-c", code], timeout=60, capture_output=True, text=True)
    assert "ShardCorrupt" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")], ids=["pipe", "device"])
def test_what_is_no_regular_file_is_not_opened(tmp_path, make):
    path = tmp_path / "net-12345678" / "shard-00000.h5"
    path.parent.mkdir()
    make(path)
    check_refused(path)


def test_too_little_memory_does_not_make_a_sound_shard_a_corrupt_one(written, monkeypatch):
    def fail(*_):
        raise MemoryError

    monkeypatch.setattr(h5py.Dataset, "__getitem__", fail)
    check_unread(written, "does not fit into memory")


@pytest.mark.parametrize("read", [shards.read, shards.read_index])
def test_a_newer_format_says_so(written, read):
    rewrite(written, encoding_version="3.0")
    with pytest.raises(FormatTooNew, match=r"3\.0.*reads 2\.0"):
        read(written)


def check_unread(path, why):
    """No content was seen, so nothing says that it is wrong."""
    for read in (shards.read, shards.read_index, shards.Reader.open):
        with pytest.raises(ShardUnreadable, match=why) as caught:
            read(path)
        assert str(caught.value).startswith(str(path))
        assert "repair" not in str(caught.value)


def test_a_shard_that_is_gone_is_not_corrupt(tmp_path):
    check_unread(tmp_path / "net-12345678" / "shard-00000.h5", "is gone")


def test_a_shard_that_another_program_has_locked_is_not_corrupt(written):
    with open(written, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # as HDF5 does for a file that it may write
        check_unread(written, "locked by another program; wait for it")
    check_equal(shards.read(written), example())


@pytest.mark.processes
def test_a_shard_that_a_writer_has_marked_as_its_own_is_not_corrupt(written):
    content = written.read_bytes()
    code = f"import h5py, os; file = h5py.File({str(written)!r}, 'r+'); os._exit(0)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    check_unread(written, "is open for writing in another program, or was when that ended")
    written.write_bytes(content)
    check_equal(shards.read(written), example())


def test_a_shard_that_may_not_be_read_is_not_corrupt(written, as_nobody):
    written.chmod(0)
    with as_nobody(written):
        check_unread(written, r"may not be read \(Permission denied\)")
    written.chmod(0o644)
    check_equal(shards.read(written), example())


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENOMEM])
def test_a_disk_that_fails_is_not_a_corrupt_shard(written, monkeypatch, number):
    def fail(*_, **__):
        raise OSError(number, "HDF5 says something long")

    reader = shards.Reader.open(written)
    monkeypatch.setattr("builtins.open", fail)
    with pytest.raises(ShardUnreadable, match="cannot be read now"):
        reader.read(np.array([0]))
    monkeypatch.setattr(h5py, "File", fail)
    check_unread(written, "cannot be read now")


def test_a_folder_in_place_of_a_shard_is_corrupt(tmp_path):
    path = tmp_path / "net-12345678" / "shard-00000.h5"
    path.mkdir(parents=True)
    check_refused(path)


@pytest.mark.parametrize(
    ("target", "name"), [(shards, "checksums"), (shards, "read"), (files, "_sync_file"), (files.os, "replace")]
)
def test_a_write_that_fails_leaves_nothing(tmp_path, monkeypatch, target, name):
    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(target, name, fail)
    with pytest.raises(OSError, match=r"No space left|s\.h5 cannot be written: the disk is full"):
        shards.write(tmp_path / "net" / "s.h5", example())
    assert list((tmp_path / "net").iterdir()) == []


def test_what_the_disk_does_not_give_back_gets_no_name(tmp_path, monkeypatch):
    """The file is read again after it was synced; a byte that went wrong on the way stops it."""

    def rot(path):
        with h5py.File(path) as file:
            offset = file["embeddings"].id.get_offset()
        whole = bytearray(path.read_bytes())
        whole[offset] ^= 1
        path.write_bytes(whole)

    monkeypatch.setattr(files, "_sync_file", rot)
    with pytest.raises(ShardCorrupt, match=r"s\.h5 was not written: the disk returned .* checksum"):
        shards.write(tmp_path / "s.h5", example())
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_is_named_and_not_taken_for_a_wrong_shard(tmp_path, limited_file_size):
    """HDF5 writing by itself may lose what has no room, without an error."""
    big = replace(example(), embeddings=np.zeros((2, 10_000), np.float32))
    with limited_file_size(8192), pytest.raises(OutputError, match=r"s\.h5 cannot be written: File too large"):
        shards.write(tmp_path / "s.h5", big)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "shard",
    [
        replace(example(), embeddings=VALUES),  # float64
        replace(example(), embeddings=VALUES[:1].astype("f4")),
        replace(example(), digests=DIGESTS[:, :31]),
    ],
    ids=["float64", "rows", "digests"],
)
def test_what_the_format_forbids_is_not_written(tmp_path, shard):
    with pytest.raises((ShardCorrupt, ValueError)):
        shards.write(tmp_path / "s.h5", shard)
    assert list(tmp_path.iterdir()) == []


def test_a_finished_shard_can_be_read_while_another_reader_has_it_open(written):
    with h5py.File(written):
        check_equal(shards.read(written), example())
