import errno
import os
import stat
import subprocess
import sys

import pytest

from featurepipe import files
from featurepipe.errors import OutputError


def listing(folder):
    return sorted(path.name for path in folder.iterdir())


def test_write_makes_folders_and_replaces(tmp_path):
    path = tmp_path / "a" / "b" / "f.txt"
    files.write_text(path, "one")
    files.write_text(path, "två\n")
    assert path.read_bytes() == "två\n".encode()
    assert listing(path.parent) == ["f.txt"]


def test_text_keeps_the_bytes_of_names_that_are_not_utf8(tmp_path):
    files.write_text(tmp_path / "f", os.fsdecode(b"caf\xe9"))
    assert (tmp_path / "f").read_bytes() == b"caf\xe9"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_interrupted_write_leaves_the_old_file_and_no_other(tmp_path, error):
    path = tmp_path / "f"
    path.write_text("old")

    def write():
        with files.atomic(path) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(error):
        write()
    assert path.read_text() == "old"
    assert listing(tmp_path) == ["f"]


def test_the_new_name_appears_only_when_the_content_is_complete_and_verified(tmp_path):
    path, seen = tmp_path / "f", []

    def verify(temporary):
        seen.append((temporary.read_text(), path.exists(), temporary.parent))

    with files.atomic(path, verify) as temporary:
        temporary.write_text("new")
    assert seen == [("new", False, tmp_path)]
    assert path.read_text() == "new"


def test_failed_verification_stops_the_rename(tmp_path):
    path = tmp_path / "f"
    path.write_text("old")

    def refuse(_):
        raise ValueError("bad")

    with pytest.raises(ValueError, match="bad"), files.atomic(path, refuse) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "old"
    assert listing(tmp_path) == ["f"]


def test_a_block_that_writes_nothing_is_an_error_and_keeps_the_old_file(tmp_path):
    path = tmp_path / "f"
    path.write_text("old")
    with pytest.raises(FileNotFoundError), files.atomic(path):
        pass
    assert path.read_text() == "old"


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (errno.ENOSPC, r"the disk is full \(.+B left in .*a\); what is finished is kept; make room"),
        (errno.EDQUOT, "the disk is full"),
        (errno.EFBIG, "File too large; give another place"),
        (errno.EROFS, "Read-only file system; give another place"),
    ],
)
def test_what_cannot_be_written_is_named_with_why_and_how_much_room_is_left(tmp_path, number, says):
    path = tmp_path / "a" / "f"
    files.write_text(path, "old")

    def write():
        with files.atomic(path) as temporary:
            temporary.write_text("half")
            raise OSError(number, "as write() says it, without a name")

    with pytest.raises(OutputError, match=rf"{path} cannot be written: {says}"):
        write()
    assert path.read_text() == "old"
    assert listing(path.parent) == ["f"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match=r"file/f cannot be written: (Not a directory|File exists)"):
        files.write_text(tmp_path / "file" / "f", "new")


def test_another_file_that_cannot_be_read_meanwhile_is_not_what_cannot_be_written(tmp_path):
    with pytest.raises(PermissionError), files.atomic(tmp_path / "f"):
        raise PermissionError(errno.EACCES, "Permission denied", "input.jpg")


@pytest.mark.parametrize(
    ("size", "text"), [(999, "999 bytes"), (1500, "1.5 kB"), (20 * 10**6, "20 MB"), (10**9, "1 GB")]
)
def test_sizes_have_their_unit(size, text):
    assert files.size_text(size) == text


def test_content_is_synced_before_the_rename_and_the_folder_after(tmp_path, monkeypatch):
    calls = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append("sync"), sync(fd)))
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append("rename"), replace(a, b)))
    files.write_bytes(tmp_path / "f", b"x")
    assert calls == (["sync", "rename"] if os.name == "nt" else ["sync", "rename", "sync"])


def test_two_writers_of_one_name_do_not_share_a_temporary_file(tmp_path):
    with files.atomic(tmp_path / "f") as first, files.atomic(tmp_path / "f") as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert (tmp_path / "f").read_text() == "first"


def test_remove_partials_removes_leftovers_and_nothing_else(tmp_path):
    with files.atomic(tmp_path / "shard.h5") as temporary:
        temporary.write_text("x")
        leftover = temporary.with_name("other" + temporary.name)
        leftover.write_text("half")
    (tmp_path / "folder.partial").mkdir()
    (tmp_path / "partial").write_text("mine")
    assert files.remove_partials(tmp_path) == 1
    assert listing(tmp_path) == ["folder.partial", "partial", "shard.h5"]
    assert files.remove_partials(tmp_path / "nowhere") == 0


# -- what killed writers leave


KILLED = """
import os, signal, sys
from pathlib import Path
from featurepipe import files
with files.atomic(Path(sys.argv[1])) as temporary:
    temporary.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.processes
@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_what_a_killed_writer_left_goes_when_the_same_file_is_written(tmp_path):
    for name in ("f", "f", "f.g"):
        subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / name)], check=False)
    assert len(listing(tmp_path)) == 2  # the second has removed what the first had left
    files.write_text(tmp_path / "f", "new")
    kept, left = listing(tmp_path)
    assert (kept, left.startswith("f.g.")) == ("f", True)
    files.write_text(tmp_path / "f.g", "new")
    assert listing(tmp_path) == ["f", "f.g"]


def test_a_live_writer_of_the_same_file_keeps_its_own(tmp_path):
    with files.atomic(tmp_path / "f") as first:
        first.write_text("first")
        os.utime(first, (1e9, 1e9))  # it may take longer than a day
        files.write_text(tmp_path / "f", "second")
        assert first.read_text() == "first"
    assert (tmp_path / "f").read_text() == "first"


@pytest.mark.parametrize("name", ["f.0123abcd.partial", "f.00000000-1f-0123abcd.partial"])
def test_what_nobody_can_be_asked_for_goes_when_it_is_a_day_old(tmp_path, name):
    """Of an earlier version, of another machine or of before the last boot."""
    (tmp_path / name).write_text("half")
    files.write_text(tmp_path / "f", "new")
    assert listing(tmp_path) == ["f", name]
    os.utime(tmp_path / name, (1e9, 1e9))
    files.write_text(tmp_path / "f", "new")
    assert listing(tmp_path) == ["f"]


@pytest.mark.parametrize("name", ["f.partial", "f.mine.partial", "g.0123abcd.partial", "xf.0123abcd.partial"])
def test_what_only_looks_alike_stays(tmp_path, name):
    (tmp_path / name).write_text("mine")
    os.utime(tmp_path / name, (1e9, 1e9))
    files.write_text(tmp_path / "f", "new")
    assert listing(tmp_path) == sorted(["f", name])


@pytest.mark.processes
def test_a_process_is_gone_only_if_it_has_run_here():
    if os.name != "nt":
        ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
        assert files._is_gone(f"{int(ended.stdout):x}")
    assert not files._is_gone(f"{os.getpid():x}")
    assert not files._is_gone("f" * 40)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_folder_that_cannot_be_synced_is_an_error_that_names_the_file(tmp_path, monkeypatch, number):
    sync = os.fsync

    def failing(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(OutputError, match=r"a\.txt cannot be written: "):
        files.write_text(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_text() == "new"  # it is there; whether it would outlive a power cut is not known
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
