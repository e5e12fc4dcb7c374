"""Roots: patterns of paths, and what data sets are called."""

import pytest

from featurepipe.sources.roots import base_of, expand, is_there, title


def test_patterns_name_paths_in_their_order(tmp_path):
    for name in ("b.tar", "a.tar", "c.zip"):
        (tmp_path / name).touch()
    assert expand(f"{tmp_path}/*.tar") == [f"{tmp_path}/a.tar", f"{tmp_path}/b.tar"]
    assert expand("x-{9..11}.tar") == ["x-9.tar", "x-10.tar", "x-11.tar"]
    assert expand("{b,a}-{0..1}.tar") == ["b-0.tar", "b-1.tar", "a-0.tar", "a-1.tar"]
    odd = tmp_path / "odd{0..1}[x].tar"
    odd.touch()
    assert expand(str(odd)) == [str(odd)]
    assert base_of(str(odd)) == str(tmp_path)
    assert is_there(f"{tmp_path}/{{a,nix}}.tar")
    assert not is_there(f"{tmp_path}/nix-*.tar")
    with pytest.raises(ValueError, match="more than a million"):
        expand("{0..9999999}.tar")
    with pytest.raises(ValueError, match="more than a million"):
        expand("{0..9999}{0..9999}.tar")


@pytest.mark.parametrize(
    ("data", "name"),
    [
        ("photos.tar.gz", "photos"),
        ("photos.v1.csv", "photos.v1"),
        ("sh-{0000..0127}.tar", "sh"),
        ("imagenet/{000..127}.tar", "imagenet"),
        ("https://x.org/a/b.zip?raw=1", "b"),
        ("hf:me/birds:train", "birds"),
    ],
)
def test_titles(data, name):
    assert title(data) == name


def test_a_folder_keeps_its_whole_name(tmp_path, monkeypatch):
    (tmp_path / "photos.zip").mkdir()
    assert title(tmp_path / "photos.zip") == "photos.zip"
    monkeypatch.chdir(tmp_path / "photos.zip")
    assert title(".") == "photos.zip"
