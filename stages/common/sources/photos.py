"""Pictures as people have them, decoded and resized as ``deploy/classify.py`` does on a device.

So a network sees the same pixels in training and in use: turned as EXIF says, grey as three equal
channels, 16 bits cut to 8, what is transparent white.
"""

import hashlib
from pathlib import Path

import cv2
import numpy as np

from deploy.classify import PAM, decoded, fitted, read_bytes
from deploy.classify import InputError as UnreadableImage
from stages.common.core.cli import InputError

JPEG, GIF, END_OF_JPEG, START_OF_SCAN = b"\xff\xd8", b"GIF8", b"\xff\xd9", b"\xff\xda"


def read_photo(path: Path) -> np.ndarray:
    """(H, W, 3) uint8 RGB. Raises ``InputError`` saying what the file is instead of a photo."""
    try:
        content = read_bytes(path)
    except UnreadableImage as error:
        raise InputError(str(error)) from None
    if content.startswith(GIF):
        raise InputError("is a GIF: a drawing, an animation or a placeholder, rarely a photo")
    if content.startswith(JPEG) and content.rfind(END_OF_JPEG) <= content.rfind(START_OF_SCAN):
        raise InputError("is a JPEG that is cut short")
    if content.startswith(PAM):
        raise InputError("is a PAM, of which OpenCV mixes up the colours; convert it to PNG")
    if content[4:12] in (b"ftypheic", b"ftypheix", b"ftypmif1"):
        raise InputError("is HEIC, which OpenCV does not decode; convert it to JPEG")
    try:
        return cv2.cvtColor(decoded(content), cv2.COLOR_BGR2RGB)
    except cv2.error as error:
        raise InputError(f"cannot be decoded ({' '.join(str(error.err).split())})") from None
    except ValueError as error:
        raise InputError(str(error)) from None


def resized(photo: np.ndarray, size: tuple[int, int], resize: str) -> np.ndarray:
    """(3, H, W) uint8 of a photo (H', W', 3): 'crop' takes the centre of the right shape first,
    'stretch' takes all of it.
    """
    image = fitted(photo, size, stretch=resize == "stretch")
    return np.ascontiguousarray(image.transpose(2, 0, 1))


def digest_of(photo: np.ndarray) -> bytes:
    """Identifies the decoded picture, whatever its file."""
    digest = hashlib.sha256(repr(photo.shape).encode())
    digest.update(np.ascontiguousarray(photo).data)
    return digest.digest()
