"""Pictures as people have them: the same pixels as Pillow reads, or a refusal that says why."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from stages.common.core.cli import InputError
from stages.common.sources.photos import read_photo


def gradient() -> np.ndarray:
    """(30, 45, 3) uint8 RGB: smooth, so that JPEG keeps it, and different in all its corners."""
    rows, columns = np.mgrid[:30, :45]
    planes = [columns * 255 // 44, rows * 255 // 29, (rows + columns) * 255 // 73]
    return np.stack(planes, axis=-1).astype(np.uint8)


PHOTO = Image.fromarray(gradient())


def by_pillow(path: Path) -> np.ndarray:
    """RGB (H, W, 3), turned as EXIF says, what is transparent on white."""
    image = ImageOps.exif_transpose(Image.open(path))
    if image.mode in ("RGBA", "LA") or "transparency" in image.info:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return np.asarray(image.convert("RGB"))


def assert_read_as_by_pillow(path: Path) -> None:
    found, expected = read_photo(path), by_pillow(path)
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).mean() < 1.5


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_a_photo_is_turned_as_exif_says(tmp_path, orientation, suffix):
    exif = Image.Exif()
    exif[0x0112] = orientation
    PHOTO.save(tmp_path / f"photo.{suffix}", exif=exif, quality=95)
    assert_read_as_by_pillow(tmp_path / f"photo.{suffix}")


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("cmyk.jpg", "CMYK"),
        ("cmyk.tif", "CMYK"),
        ("grey.jpg", "L"),
        ("grey.png", "L"),
        ("grey_and_alpha.png", "LA"),
        ("alpha.webp", "RGBA"),
        ("alpha.tif", "RGBA"),
        ("black_and_white.png", "1"),
        ("windows.bmp", "RGB"),
    ],
)
def test_every_kind_of_colours_becomes_rgb(tmp_path, name, mode):
    photo = PHOTO.convert(mode)
    if "A" in mode:
        photo.putalpha(Image.fromarray(gradient()[..., 0]))
    photo.save(tmp_path / name, **({"lossless": True} if name.endswith("webp") else {}))
    assert_read_as_by_pillow(tmp_path / name)


@pytest.mark.parametrize("options", [{}, {"transparency": 3}], ids=["opaque", "transparent"])
def test_a_palette_becomes_its_colours(tmp_path, options):
    PHOTO.quantize(16).save(tmp_path / "palette.png", **options)
    assert_read_as_by_pillow(tmp_path / "palette.png")


@pytest.mark.parametrize("shape", [(30, 45), (30, 45, 3)], ids=["grey", "colours"])
def test_16_bits_become_8(tmp_path, shape):
    pixels = gradient()[..., ::-1] if len(shape) == 3 else gradient()[..., 0]
    assert cv2.imwrite(str(tmp_path / "deep.png"), pixels.astype(np.uint16) * 257)
    expected = gradient() if len(shape) == 3 else np.repeat(pixels[..., None], 3, axis=2)
    np.testing.assert_array_equal(read_photo(tmp_path / "deep.png"), expected)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"GIF89a", "is a GIF"),
        (b"\0\0\0\x18ftypheic", "is HEIC, which OpenCV does not decode; convert it to JPEG"),
        (b"P7\nWIDTH 1\n", "is a PAM, of which OpenCV mixes up the colours"),
        (b"\xff\xd8\xff\xe0 and then nothing", "is a JPEG that is cut short"),
        (b"<html>404 not found</html>", "is damaged or no image"),
        (b"", "is damaged or no image"),
    ],
)
def test_a_file_that_is_no_photo_is_refused_with_what_it_is(tmp_path, content, said):
    (tmp_path / "photo.jpg").write_bytes(content)
    with pytest.raises(InputError, match=said):
        read_photo(tmp_path / "photo.jpg")
