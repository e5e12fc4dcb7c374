"""Archives for tests: folders packed as people pack them."""

import io
import tarfile
import zipfile


def to_zip(root, path, *, below=""):
    """Pack a folder's files, each under `below`."""
    with zipfile.ZipFile(path, "w") as packed:
        for file in sorted(root.rglob("*")):
            if file.is_file():
                packed.write(file, f"{below}{file.relative_to(root).as_posix()}")
    return path


def to_tar(root, path, *, mode="w", below="./"):
    """Pack a folder as ``tar -C root -cf path .`` does."""
    with tarfile.open(path, mode) as packed:
        for file in sorted(root.rglob("*")):
            packed.add(file, f"{below}{file.relative_to(root).as_posix()}", recursive=False)
    return path


def write_tar(path, contents, *, mode="w"):
    """A tar of these names and bytes, in their order."""
    with tarfile.open(path, mode) as packed:
        for name, data in contents:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            packed.addfile(info, io.BytesIO(data))
    return path


def files_of(root):
    """Path below a folder → bytes."""
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}
