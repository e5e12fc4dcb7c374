"""Image files that Pillow does not read: TIFFs of many bands, DICOM and HEIC."""

import io
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from featurepipe import backbones, images
from featurepipe.errors import BackboneError, ImageError
from featurepipe.images import ImageTransform, View, described, size_of
from featurepipe.stages import extract

SQUARE = ImageTransform((3, 8, 8), "bilinear", (0.5,) * 3, (0.5,) * 3, 1.0, "squash", "pillow")
GREY = replace(SQUARE, input_size=(1, 8, 8), mean=(0.5,), std=(0.5,))


def noise(*shape, top=4000, dtype=np.uint16):
    return np.random.default_rng(0).integers(0, top, shape).astype(dtype)


def as_tiff(array, **how):
    tifffile = pytest.importorskip("tifffile")
    file = io.BytesIO()
    tifffile.imwrite(file, array, photometric="minisblack", **how)
    return file.getvalue()


def as_png(array):
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


def shown(array, low, high):
    return np.floor(np.clip((array.astype(float) - low) / (high - low), 0, 1) * 255 + 0.5).astype(np.uint8)


@pytest.mark.parametrize("decoder", ["pillow", "torchvision"])
@pytest.mark.parametrize("planar", [False, True])
def test_bands_of_a_tiff_become_the_channels_of_a_picture(decoder, planar):
    array = noise(8, 8, 5)
    data = (
        as_tiff(array.transpose(2, 0, 1), planarconfig="separate") if planar else as_tiff(array, planarconfig="contig")
    )
    made = images.decode(data, replace(SQUARE, bands=(4, 3, 2), levels=(0, 3000), decoder=decoder))
    picture = shown(array[:, :, [3, 2, 1]], 0, 3000)
    assert np.array_equal(made, images.decode(as_png(picture), replace(SQUARE, decoder=decoder)))
    assert np.array_equal(made, picture.transpose(2, 0, 1))  # of its own size, so that nothing is resized
    box = images.decode(data, replace(SQUARE, bands=(4, 3, 2), levels=(0, 3000), decoder=decoder), "0,0,4,8")
    assert np.array_equal(box, images.decode(as_png(picture), replace(SQUARE, decoder=decoder), "0,0,4,8"))
    assert size_of(as_png(picture)) == (8, 8)


@pytest.mark.parametrize("decoder", ["pillow", "torchvision"])
def test_all_bands_go_into_a_network_that_takes_them(decoder):
    many = replace(
        SQUARE, input_size=(5, 8, 8), mean=(0.5,) * 5, std=(0.5,) * 5, bands=(1, 2, 3, 4, 5), decoder=decoder
    )
    array = noise(16, 12, 5)
    made = images.decode(as_tiff(array, planarconfig="contig"), replace(many, levels=(0, 4000)))
    assert (made.shape, made.dtype) == ((5, 8, 8), np.uint8)
    one = images.decode(as_png(shown(array[:, :, 4], 0, 4000)), replace(GREY, decoder=decoder))
    assert np.array_equal(made[4:], one)  # each band as a picture of its own
    with pytest.raises(ImageError, match="takes 5 bands, and only a TIFF has them"):
        images.decode(as_png(noise(8, 8, 3, top=255, dtype=np.uint8)), many)
    with pytest.raises(BackboneError, match="not of 5 bands; do without tuning"):
        View.of(many, "crop", 0, 0)


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.float32, np.float64, np.uint32])
def test_samples_of_any_depth_are_scaled_as_it_is_said(dtype):
    array = noise(8, 8, top=2000).astype(dtype) - (1000 if dtype is np.int16 else 0)
    if np.dtype(dtype).kind == "f":
        array[0, 0] = np.nan
    made = images.decode(as_tiff(array), replace(GREY, levels=(100, 900)))
    expected = shown(np.nan_to_num(array.astype(float), nan=100), 100, 900)
    assert np.array_equal(made[0], expected)


@pytest.mark.parametrize(
    ("array", "change", "message"),
    [
        (noise(8, 8, 5), {"levels": (0, 9)}, "it has 5 bands; choose with --bands"),
        (noise(8, 8, 5), {"bands": (1, 2, 6)}, "it has 5 bands, and no band 6; correct --bands"),
        (noise(8, 8, 5), {"bands": (1, 2, 3)}, "its uint16 samples have no defined black and white; say them with"),
        (
            noise(2, 3, 8, 8),
            {"bands": (1, 2, 3)},
            "has more than bands; save one picture to a file|has no black|no band",
        ),
    ],
)
def test_tiffs_that_are_not_clear_are_refused(array, change, message):
    how = {"planarconfig": "contig"} if array.shape[-1] == 5 else {}
    with pytest.raises(ImageError, match=message):
        images.decode(as_tiff(array, **how), replace(SQUARE, **change))
    with pytest.raises(ImageError, match=r"broken TIFF|Pillow cannot read"):
        images.decode(as_tiff(noise(8, 8))[:40], replace(SQUARE, bands=(1, 2, 3)))


def as_other_tiff(image, **how):
    """A TIFF by Pillow, of an image or an array."""
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, "TIFF", **how)
    return file.getvalue()


def with_palette():
    image = Image.fromarray(noise(8, 8, top=256, dtype=np.uint8)).convert("P")
    image.putpalette([value for n in range(256) for value in (255 - n, n, 7)])
    return image


SHALLOW = {
    "grey": lambda: as_tiff(noise(8, 8, top=256, dtype=np.uint8)),
    "0 is white": lambda: as_other_tiff(noise(8, 8, top=256, dtype=np.uint8), tiffinfo={262: 0}),
    "one bit": lambda: as_other_tiff(Image.fromarray(np.eye(8, dtype=np.uint8) * 255).convert("1")),
    "palette": lambda: as_other_tiff(with_palette()),
    "colours on their side": lambda: as_other_tiff(noise(8, 8, 3, top=256, dtype=np.uint8), tiffinfo={274: 6}),
    "alpha": lambda: as_other_tiff(noise(8, 8, 4, top=256, dtype=np.uint8)),
    "CMYK": lambda: as_other_tiff(Image.fromarray(noise(8, 8, 3, top=256, dtype=np.uint8)).convert("CMYK")),
}


@pytest.mark.parametrize("what", SHALLOW)
def test_levels_change_nothing_of_up_to_8_bits(what):
    data = SHALLOW[what]()
    with Image.open(io.BytesIO(data)) as image:
        image.load()  # which turns it
        shown_by_pillow = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
    for decoder in ("pillow", "torchvision"):
        made = images.decode(data, replace(SQUARE, levels=(0, 3000), decoder=decoder))
        assert np.array_equal(made, shown_by_pillow)


def test_white_that_is_zero_in_a_tiff_is_turned_round():
    tifffile = pytest.importorskip("tifffile")
    array = noise(8, 8, top=3001)
    file = io.BytesIO()
    tifffile.imwrite(file, array, photometric="miniswhite")
    made = images.decode(file.getvalue(), replace(GREY, levels=(0, 3000)))
    assert np.array_equal(made[0], shown(3000 - array.astype(int), 0, 3000))
    file = io.BytesIO()
    tifffile.imwrite(file, array.astype(np.uint8), photometric="miniswhite")
    assert np.array_equal(images.decode(file.getvalue(), replace(GREY, bands=(1,)))[0], 255 - array.astype(np.uint8))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("bands", [None, (3, 1, 2)])
def test_tiffs_of_many_bits_are_turned_upright(orientation, bands):
    array = noise(6, 8, 3)
    data = as_tiff(array, planarconfig="contig", extratags=[(274, "H", 1, orientation, True)])
    stored = Image.fromarray(shown(array, 0, 4000)[:, :, [2, 0, 1] if bands else [0, 1, 2]])
    exif = stored.getexif()
    exif[274] = orientation
    file = io.BytesIO()
    stored.save(file, "PNG", exif=exif)
    size = {"input_size": (3, 8, 6) if orientation > 4 else (3, 6, 8)}
    made = images.decode(data, replace(SQUARE, bands=bands, levels=(0, 4000), **size))
    assert np.array_equal(made, images.decode(file.getvalue(), replace(SQUARE, **size)))


def test_alpha_of_many_bits_is_dropped_and_palettes_and_lab_have_no_bands():
    tifffile = pytest.importorskip("tifffile")
    array = noise(8, 8, 4)
    file = io.BytesIO()
    tifffile.imwrite(file, array, photometric="rgb", extrasamples=["unassalpha"])
    made = images.decode(file.getvalue(), replace(SQUARE, levels=(0, 4000)))
    assert np.array_equal(made, shown(array[:, :, :3], 0, 4000).transpose(2, 0, 1))
    with pytest.raises(ImageError, match="are indexes of a palette has no bands; leave out --bands, or save it as RGB"):
        images.decode(as_other_tiff(with_palette()), replace(SQUARE, bands=(1, 1, 1)))
    file = io.BytesIO()
    tifffile.imwrite(file, array[:, :, :3], photometric="cielab")
    with pytest.raises(ImageError, match="whose colours are Lab; save it as RGB"):
        images.decode(file.getvalue(), replace(SQUARE, levels=(0, 4000)))


def test_webp_in_a_tiff_is_left_to_tifffile():
    pytest.importorskip("imagecodecs")
    array = noise(8, 8, 3, top=256, dtype=np.uint8)
    file = io.BytesIO()
    pytest.importorskip("tifffile").imwrite(file, array, photometric="rgb", compression="webp")
    assert np.array_equal(images.decode(file.getvalue(), replace(SQUARE, levels=(0, 9))), array.transpose(2, 0, 1))


def test_one_bit_fills_a_band():
    one = as_other_tiff(Image.fromarray(np.eye(8, dtype=np.uint8) * 255).convert("1"))
    assert np.array_equal(images.decode(one, replace(SQUARE, bands=(1, 1, 1)))[1], np.eye(8) * 255)


def test_only_the_pages_that_are_asked_for_are_read(monkeypatch):
    tifffile = pytest.importorskip("tifffile")
    array = noise(5, 8, 8)
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        for page in array:
            writer.write(page, photometric="minisblack", compression="zlib", metadata=None)
    data = bytearray(file.getvalue())
    with tifffile.TiffFile(io.BytesIO(data)) as opened:
        (offset,), (length,) = opened.pages[1].dataoffsets, opened.pages[1].databytecounts
    data[offset : offset + length] = b"\xff" * length  # broken
    made = images.decode(bytes(data), replace(SQUARE, bands=(4, 1, 3), levels=(0, 4000)))
    assert np.array_equal(made, shown(array[[3, 0, 2]], 0, 4000))
    with pytest.raises(ImageError, match="broken TIFF"):
        images.decode(bytes(data), replace(SQUARE, bands=(4, 2, 3), levels=(0, 4000)))
    monkeypatch.setattr("featurepipe.images.samples.MAX_PIXELS", 3 * 64)
    assert np.array_equal(made, images.decode(bytes(data), replace(SQUARE, bands=(4, 1, 3), levels=(0, 4000))))
    with pytest.raises(ImageError, match=r"too large: 8×8×5 samples, of more than 192"):
        images.decode(as_tiff(noise(8, 8, 5), planarconfig="contig"), replace(SQUARE, bands=(1, 2, 3), levels=(0, 9)))


def test_large_tiffs_take_turns_and_are_scaled_in_blocks(monkeypatch):
    taken = []

    @contextmanager
    def turn(size):
        taken.append(size)
        yield

    monkeypatch.setattr("featurepipe.images.formats.turn", turn)
    monkeypatch.setattr("featurepipe.images.samples.BLOCK", 24)  # not even rows: 3 of 8
    array = noise(8, 8)
    made = images.decode(as_tiff(array), replace(GREY, levels=(100, 3000)))
    assert np.array_equal(made[0], shown(array, 100, 3000))
    assert taken == [(64, 1)]


def test_old_fingerprints_do_not_know_of_bands_and_levels():
    assert "bands" not in described(SQUARE)
    assert "levels" not in described(SQUARE)
    assert described(replace(SQUARE, levels=(0.0, 9.0)))["levels"] == (0.0, 9.0)
    for change, message in [
        ({"bands": (1, 2)}, "bands are 3 numbers from 1"),
        ({"levels": (5, 5)}, "the second greater"),
        ({"input_size": (5, 8, 8), "mean": [0.5] * 5, "std": [0.5] * 5}, "name as many bands"),
    ]:
        with pytest.raises(BackboneError, match=message):
            ImageTransform.from_mapping({**described(SQUARE), **change})


@pytest.mark.slow
def test_a_network_of_five_bands_embeds_them(tmp_path):
    for number in range(3):
        (tmp_path / "tiles").mkdir(exist_ok=True)
        tile = as_tiff(noise(32, 32, 5) // (number + 1), planarconfig="contig")
        (tmp_path / "tiles" / f"{number}.tif").write_bytes(tile)
    made = backbones.create(
        "resnet10t",
        random_weights=True,
        arguments={"in_chans": 5},
        transform={"bands": (1, 2, 3, 4, 5), "levels": (0, 4000), "input_size": (5, 32, 32)},
    )
    result = extract(tmp_path / "tiles", tmp_path / "st", backbone=made)
    assert (result["computed"], result["rejected"]) == (3, 0)
    assert extract(tmp_path / "tiles", tmp_path / "st", backbone=made)["computed"] == 0
    again = backbones.recreate(made.spec, made.source)
    assert again.fingerprint == made.fingerprint
    assert again.transform == made.transform


# DICOM: pydicom's own test files


def dicom(name):
    data = pytest.importorskip("pydicom.data")
    with open(data.get_testdata_file(name, download=False), "rb") as file:
        return file.read()


def whole(data, *, channels=3, part=None, **change):
    """The picture of a file in its own size."""
    width, height = size_of(data) if not change else change.pop("size")
    base = SQUARE if channels == 3 else GREY
    return images.decode(data, replace(base, input_size=(channels, height, width), **change), part)


def test_a_window_of_the_file_is_what_a_screen_shows():
    pydicom = pytest.importorskip("pydicom")
    found = pydicom.dcmread(io.BytesIO(dicom("MR_small.dcm")))
    made = whole(dicom("MR_small.dcm"), channels=1)[0]
    windowed = pydicom.pixels.apply_voi_lut(found.pixel_array, found).astype(float)  # over the range of its 16 bits
    low, high = -(2**15), 2**15 - 1
    assert np.abs(made - (windowed - low) / (high - low) * 255).max() <= 0.51


def test_samples_without_a_window_need_levels_which_are_in_its_own_units():
    pydicom = pytest.importorskip("pydicom")
    data = dicom("CT_small.dcm")
    with pytest.raises(ImageError, match="a DICOM of 16 bits without a window; say what is black and white with"):
        whole(data, size=(128, 128), channels=1)
    found = pydicom.dcmread(io.BytesIO(data))
    units = found.pixel_array * float(found.RescaleSlope) + float(found.RescaleIntercept)
    assert np.array_equal(whole(data, size=(128, 128), channels=1, levels=(-200, 1000))[0], shown(units, -200, 1000))


def test_colours_palettes_and_frames():
    pydicom = pytest.importorskip("pydicom")
    data = dicom("SC_rgb_rle_2frame.dcm")
    frames = pydicom.dcmread(io.BytesIO(data)).pixel_array
    assert np.array_equal(whole(data), frames[0].transpose(2, 0, 1))
    assert np.array_equal(whole(data, part="2"), frames[1].transpose(2, 0, 1))
    with pytest.raises(ImageError, match="it has 2 frames, and no frame 3; correct the part"):
        whole(data, part="3")
    box = images.decode(data, SQUARE, "0,0,8,8")
    assert np.array_equal(box, frames[0][:8, :8].transpose(2, 0, 1))
    deep = pydicom.dcmread(io.BytesIO(dicom("SC_rgb_rle_16bit.dcm"))).pixel_array
    assert np.abs(whole(dicom("SC_rgb_rle_16bit.dcm")).transpose(1, 2, 0) - deep / 65535 * 255).max() <= 0.51
    with pytest.raises(ImageError, match="broken DICOM"):
        whole(dicom("MR_truncated.dcm"), size=(64, 64))


def test_white_that_is_zero_is_turned_round():
    pydicom = pytest.importorskip("pydicom")
    found = pydicom.dcmread(io.BytesIO(dicom("MR_small.dcm")))
    found.PhotometricInterpretation = "MONOCHROME1"
    file = io.BytesIO()
    found.save_as(file)
    assert np.array_equal(whole(file.getvalue()), 255 - whole(dicom("MR_small.dcm")))


def made_dicom(array, *, stored=16, photometric="MONOCHROME2", **said):
    """A file of the samples (h, w), (frames, h, w) or (h, w, 3), which says so of them."""
    pydicom = pytest.importorskip("pydicom")
    found = pydicom.Dataset()
    found.file_meta = pydicom.dataset.FileMetaDataset()
    found.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    found.SOPClassUID = found.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2.1"
    found.SOPInstanceUID = found.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    colours = photometric == "RGB"
    *frames, found.Rows, found.Columns = array.shape[:-1] if colours else array.shape
    found.SamplesPerPixel, found.PhotometricInterpretation = 3 if colours else 1, photometric
    found.BitsAllocated, found.BitsStored, found.HighBit = array.itemsize * 8, stored, stored - 1
    found.PixelRepresentation = int(array.dtype.kind == "i")
    said |= {"PlanarConfiguration": 0} if colours else {}
    said |= {"NumberOfFrames": frames[0]} if frames else {}
    for name, value in said.items():
        setattr(found, name, value)
    found.PixelData = array.tobytes()
    file = io.BytesIO()
    found.save_as(file, enforce_file_format=True)
    return file.getvalue()


def item(**said):
    """A data set within another."""
    made = pytest.importorskip("pydicom").Dataset()
    for name, value in said.items():
        setattr(made, name, value)
    return made


def group(slope=None, intercept=0, center=None, width=None):
    """What an enhanced file says of a frame, or of all of them."""
    said = {}
    if slope is not None:
        said["PixelValueTransformationSequence"] = [item(RescaleSlope=slope, RescaleIntercept=intercept)]
    if width is not None:
        said["FrameVOILUTSequence"] = [item(WindowCenter=center, WindowWidth=width)]
    return item(**said)


def shade(data, part=None, **change):
    """The one shade of a picture of 8×8 equal pixels."""
    found = np.unique(images.decode(data, replace(GREY, **change), part))
    assert len(found) == 1
    return int(found[0])


def same(value, *shape, dtype=np.uint16):
    return np.full(shape or (8, 8), value, dtype)


def test_what_an_enhanced_file_says_of_its_frames_counts():
    levels = {"levels": (-200, 300)}
    classic = made_dicom(same(1024), RescaleIntercept=-1024, RescaleSlope=1)
    assert shade(classic, **levels) == 102  # 0 of -200 to 300
    two = same(1024, 2, 8, 8)
    shared = made_dicom(
        two, SharedFunctionalGroupsSequence=[group(1, -1024)], PerFrameFunctionalGroupsSequence=[item(), item()]
    )
    assert [shade(shared, part, **levels) for part in ("1", "2")] == [102, 102]
    slopes = made_dicom(
        two,
        SharedFunctionalGroupsSequence=[group(1, 9999)],
        PerFrameFunctionalGroupsSequence=[group(1, -1024), group(1.125, -1024)],
        RescaleIntercept=5555,
        RescaleSlope=1,
    )
    assert [shade(slopes, part, **levels) for part in ("1", "2")] == [102, 167]  # 0 and 128
    rest = made_dicom(
        two, PerFrameFunctionalGroupsSequence=[group(1, -924), item()], RescaleIntercept=-1024, RescaleSlope=1
    )
    assert [shade(rest, part, **levels) for part in ("1", "2")] == [153, 102]  # the second as the data set says


def test_windows_of_frames_and_of_all_frames():
    two = same(100, 2, 8, 8)
    frames = made_dicom(
        two,
        SharedFunctionalGroupsSequence=[group(2, 0, 200.5, 101)],
        PerFrameFunctionalGroupsSequence=[group(center=150.5, width=101), group(center="", width="")],
        WindowCenter=1,
        WindowWidth=2,
    )
    assert [shade(frames, part) for part in ("1", "2")] == [255, 128]  # 200, of 100 to 200 and of 150 to 250
    assert shade(made_dicom(two, WindowCenter=100.5, WindowWidth=101), "2") == 128


@pytest.mark.parametrize("empty", [None, ""])
def test_empty_values_count_as_none(empty):
    window = {"WindowCenter": empty, "WindowWidth": empty}
    assert shade(made_dicom(same(100, dtype=np.uint8), stored=8, **window)) == 100
    with pytest.raises(ImageError, match="a DICOM of 12 bits without a window; say what is black and white with"):
        shade(made_dicom(same(100), stored=12, **window))
    assert shade(made_dicom(same(100), stored=12, RescaleSlope=empty, RescaleIntercept=empty), levels=(0, 200)) == 128


def test_eight_bits_without_a_window_stay_as_they_are_unless_a_slope_changes_them():
    eight = same(100, dtype=np.uint8)
    assert shade(made_dicom(eight, stored=8, RescaleSlope=1, RescaleIntercept=0)) == 100
    changed = made_dicom(eight, stored=8, RescaleSlope=2, RescaleIntercept=-300)
    with pytest.raises(ImageError, match="a DICOM of 8 bits without a window; say what is black and white with"):
        shade(changed)
    assert shade(changed, levels=(-200, 0)) == 128
    assert shade(made_dicom(eight, stored=8), levels=(0, 3000)) == 100


def table(bits, entries, first=0):
    return [item(LUTDescriptor=[len(entries), first, bits], LUTData=np.array(entries, "<u2").tobytes())]


def with_table(data, name, sequence):
    """A file with a table of words, whose kind of value pydicom cannot guess."""
    pydicom = pytest.importorskip("pydicom")
    found = pydicom.dcmread(io.BytesIO(data))
    sequence[0]["LUTDescriptor"].VR, sequence[0]["LUTData"].VR = "US", "OW"
    setattr(found, name, sequence)
    file = io.BytesIO()
    found.save_as(file)
    return file.getvalue()


def test_tables_of_what_samples_measure_and_of_what_is_shown():
    twelve = list(range(4096))
    ninth = with_table(made_dicom(same(1600), stored=12), "VOILUTSequence", table(8, [n // 16 for n in twelve]))
    assert shade(ninth) == 100  # of more entries than 8 bits count
    rescaled = made_dicom(same(1600), stored=12, RescaleSlope=1, RescaleIntercept=-1024)
    from_100 = table(12, twelve[::-1], first=100)
    assert shade(with_table(rescaled, "VOILUTSequence", from_100)) == 225  # (4095 - 476) / 4095 * 255
    from_900 = table(12, [2048, *twelve], first=900)
    assert shade(with_table(rescaled, "VOILUTSequence", from_900)) == 128  # 576 is below the first
    measured = with_table(made_dicom(same(1600), stored=12), "ModalityLUTSequence", table(12, twelve[::-1]))
    assert shade(measured, levels=(0, 4990)) == 128  # 2495
    shallow = with_table(made_dicom(same(1600), stored=12), "ModalityLUTSequence", table(8, [n // 16 for n in twelve]))
    assert shade(shallow) == 100
    with pytest.raises(ImageError, match="a table of 8 bits whose entries reach 4095"):
        shade(with_table(made_dicom(same(1600), stored=12), "VOILUTSequence", table(8, twelve)))


def test_levels_hold_for_deep_colours_and_windows_are_known():
    deep = made_dicom(same(1500, 8, 8, 3), photometric="RGB")
    assert np.unique(images.decode(deep, replace(SQUARE, levels=(0, 3000)))) == [128]
    assert np.unique(images.decode(deep, SQUARE)) == [6]  # of 65535
    with pytest.raises(ImageError, match="a window of the unknown function CUBIC"):
        shade(made_dicom(same(9), WindowCenter=1, WindowWidth=2, VOILUTFunction="CUBIC"))


def test_networks_of_many_bands_take_tiffs_alone():
    many = replace(SQUARE, input_size=(5, 8, 8), mean=(0.5,) * 5, std=(0.5,) * 5, bands=(1, 2, 3, 4, 5))
    with pytest.raises(ImageError, match="takes 5 bands, and only a TIFF has them"):
        images.decode(made_dicom(same(9, dtype=np.uint8), stored=8), many)


def test_every_test_file_of_pydicom_gives_a_picture_or_a_reason():
    data = pytest.importorskip("pydicom.data")
    reasons = []
    paths = sorted((Path(data.__file__).parent / "test_files").glob("*.dcm"))
    for path in paths:
        try:
            assert images.decode(path.read_bytes(), SQUARE).shape == (3, 8, 8)
        except ImageError as error:
            reasons.append(str(error))
    assert len(paths) - len(reasons) > 20
    assert all(reasons)


@pytest.mark.parametrize("orientation", [1, 6])
def test_photos_of_phones(orientation):
    heif = pytest.importorskip("pillow_heif")
    ramp = np.linspace(0, 255, 64)[:, None, None] * np.ones((1, 48, 3))
    image, exif = Image.fromarray(ramp.astype(np.uint8)), Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    heif.from_pillow(image).save(file, quality=95, exif=exif.tobytes())
    data = file.getvalue()
    assert size_of(data) == ((48, 64) if orientation == 1 else (64, 48))
    made = images.decode(data, SQUARE).astype(int)
    downwards = made[0, -1, 4] - made[0, 0, 4]
    across = made[0, 4, -1] - made[0, 4, 0]
    assert downwards > 150 if orientation == 1 else across < -150
    with pytest.raises(ImageError, match="broken HEIC"):
        images.decode(data[:200], SQUARE)


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
def test_avif_under_a_generic_brand_is_not_taken_for_heic():
    file = io.BytesIO()
    Image.fromarray(noise(16, 16, 3, top=256, dtype=np.uint8)).save(file, "AVIF")
    data = file.getvalue()
    assert data[8:12] == b"avif"
    assert b"avif" in data[16 : int.from_bytes(data[:4], "big")]
    assert np.array_equal(images.decode(data[:8] + b"mif1" + data[12:], SQUARE), images.decode(data, SQUARE))


def test_weights_of_colours_are_adapted_to_other_bands_as_timm_does(tmp_path):
    from safetensors.torch import save_file
    from timm.models import adapt_input_conv, create_model

    state = create_model("resnet10t").state_dict()
    save_file({key: value.contiguous() for key, value in state.items()}, tmp_path / "w.safetensors")
    made = backbones.create(
        "resnet10t",
        weights=tmp_path / "w.safetensors",
        arguments={"in_chans": 5},
        transform={"bands": (1, 2, 3, 4, 5), "levels": (0, 4000)},
    )
    assert made.transform.input_size[0] == 5
    own = made.module.state_dict()
    assert np.allclose(own["conv1.0.weight"], adapt_input_conv(5, state["conv1.0.weight"]))
    with pytest.raises(BackboneError, match="name as many bands"):
        backbones.create("resnet10t", weights=tmp_path / "w.safetensors", arguments={"in_chans": 5})
