"""Load images so that a file that cannot be read ends the run with its name.

Some versions of OpenCV decode a truncated JPEG to an image with a grey lower part and say nothing; Pillow raises.
"""

import io
import os
import re
from collections.abc import Mapping
from typing import Any

import mmcv
import numpy as np
from mmcv.image.io import _pillow2array
from mmcv.transforms import LoadImageFromFile as MMCVLoadImageFromFile
from mmengine import fileio

from mmvit_ext.errors.user_error import UserError
from mmvit_ext.files import is_remote, open_image, regular_file

from ..registry import TRANSFORMS

__all__ = ['LoadImageFromFile', 'image_loader', 'is_cut_off', 'read_bytes', 'refuse_cut_off', 'undecodable']

_JPEG_START, _JPEG_SCAN, _JPEG_END = b'\xff\xd8', 0xDA, b'\xff\xd9'
_PNG_START, _PNG_END = b'\x89PNG\r\n\x1a\n', b'IEND'

# Pillow turns these modes into 8 bit by clipping, which leaves a nearly white picture.
WIDE_MODES = ('I', 'I;16', 'I;16B', 'I;16L', 'I;16N', 'F')


def read_bytes(path: str, role: str, backend_args: dict[str, Any] | None = None) -> bytes:
    """Read a file through mmengine's file backends; ``role`` is what it is in messages ('image', 'label map')."""
    local = (backend_args or {}).get('backend', 'local') in ('local', 'disk') and not is_remote(path)
    if local and os.path.exists(path):
        regular_file(path, role)
    try:
        content = fileio.get(path, backend_args=backend_args)
    except FileNotFoundError as error:
        raise UserError(f'the {role} {path} does not exist: check the dataset folder and its file list') from error
    except OSError as error:
        raise UserError(f'the {role} {path} cannot be opened: {error.strerror or error}') from error
    if not content:
        raise UserError(f'the {role} {path} is empty: copy or download it again')
    return content


def undecodable(path: str, role: str, error: Exception, remedy: str) -> UserError:
    """The error for a file that a decoder refuses, with the decoder's reason."""
    text = re.sub(r' ?<_io\.BytesIO object at 0x[0-9a-f]+>', '', str(error)).replace(str(path), '')
    kind = type(error).__name__
    return UserError(f'the {role} {path} cannot be decoded ({kind}: {" ".join(text.split()) or kind}): {remedy}')


def refuse_cut_off(path: str, content: bytes) -> None:
    """Raise :class:`UserError` where :func:`is_cut_off` is true."""
    if is_cut_off(content):
        raise UserError(f'the image {path} is cut off ({len(content)} bytes): replace or remove it')


def is_cut_off(content: bytes) -> bool:
    """Whether a JPEG or PNG file lacks the mark at the end of its picture; ``False`` for other formats."""
    if content.startswith(_PNG_START):
        return content.rfind(_PNG_END) < 0
    if not content.startswith(_JPEG_START):
        return False
    # The segments before the picture may hold a thumbnail, which has an end mark of its own.
    position = len(_JPEG_START)
    while position + 4 <= len(content) and content[position] == 0xFF:
        if (marker := content[position + 1]) == _JPEG_SCAN:
            return content.find(_JPEG_END, position) < 0
        length = int.from_bytes(content[position + 2 : position + 4], 'big')
        position += 1 if marker == 0xFF else 2 + length  # a second 0xFF is padding
    return True


# The other names are those that the libraries' inference functions put in the place of the first.
@TRANSFORMS.register_module(name=['LoadImageFromFile', 'LoadImageFromNDArray', 'InferencerLoader'])
class LoadImageFromFile(MMCVLoadImageFromFile):
    """mmcv's ``LoadImageFromFile`` that refuses unreadable files by name.

    The libraries' inference functions look for this step by the name ``LoadImageFromFile`` without a scope: write
    ``dict(type='LoadImageFromFile', _scope_='mmvit_ext')``. An image that has been loaded already is taken as it is.

    Grey, palette, CMYK and transparent images become three 8-bit channels, transparency being dropped (grey ones with
    transparency are laid on a greyish brown, as by mmcv). With 'pillow' grey images of 16 bit are refused, because
    which range of values to keep is not for a loader to guess; of colours of 16 bit the higher 8 are kept. The image is
    turned as its EXIF orientation says. With ``color_type='unchanged'`` it is not turned, and channels and values stay
    as they are in the file, wider ones than 8 bit as float32.

    Args:
        to_float32: Whether the image becomes float32 instead of uint8.
        color_type: 'color', 'grayscale' or 'unchanged', see :func:`mmcv.imfrombytes`.
        imdecode_backend: 'pillow' finds damage anywhere in a file and reads :data:`mmvit_ext.files.IMAGE_FORMATS`;
            'cv2' and 'turbojpeg' find only a JPEG or PNG cut off.
        ignore_empty: Return ``None`` for unreadable files instead of raising. The dataset then draws another image, and
            nobody counts them; :class:`mmvit_ext.SkipBadSamples` does.
        backend_args: Arguments of the file backend.

    Raises:
        UserError: The file is missing, truncated, no image, or not of 8 bit.
    """

    def __init__(
        self,
        to_float32: bool = False,
        color_type: str = 'color',
        imdecode_backend: str = 'pillow',
        ignore_empty: bool = False,
        *,
        backend_args: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(to_float32, color_type, imdecode_backend, ignore_empty=ignore_empty, backend_args=backend_args)

    def transform(self, results: dict[str, Any] | str | np.ndarray) -> dict[str, Any] | None:
        """Load ``img_path``, a path or an array into ``img`` (H, W) or (H, W, C; of three channels BGR), and shapes."""
        if not isinstance(results, dict):
            results = {'img_path': results} if isinstance(results, str) else {'img': results}
        try:
            image = results['img'] if 'img' in results else self._decode(results['img_path'])
        except UserError:
            if self.ignore_empty:
                return None
            raise
        results.setdefault('img_path', None)
        results['img'] = image.astype(np.float32) if self.to_float32 else image
        results['img_shape'] = results['ori_shape'] = image.shape[:2]
        return results

    def _decode(self, path: str) -> np.ndarray:
        content = read_bytes(path, 'image', self.backend_args)
        if self.imdecode_backend != 'pillow':
            refuse_cut_off(path, content)
        try:
            if self.imdecode_backend == 'pillow':
                with open_image(io.BytesIO(content)) as opened:
                    if (mode := opened.mode) in WIDE_MODES and self.color_type != 'unchanged':
                        raise UserError(f'the image {path} has 16 or more bits per pixel (mode {mode}): convert it')
                    image = _pillow2array(opened, self.color_type)  # as mmcv.imfrombytes, which opens any format
            else:
                image = mmcv.imfrombytes(content, flag=self.color_type, backend=self.imdecode_backend)
        except UserError:
            raise
        except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError, struct.error ... by file format
            raise undecodable(path, 'image', error, 'replace or remove it') from error
        if image is None:
            raise UserError(f'the image {path} cannot be decoded: replace or remove it')
        if (found := (str(image.dtype), *image.shape[2:])) != ('uint8', 3) and self.color_type == 'color':
            raise UserError(f'the image {path} decodes to {found}: expected 8 bit and three channels')
        # Neither OpenCV's steps nor every version of torch take wider whole numbers.
        return np.ascontiguousarray(image if image.dtype == np.uint8 else image.astype(np.float32))


def image_loader(step: Mapping[str, Any]) -> LoadImageFromFile:
    """The loader for a pipeline's step ``LoadImageFromFile`` of any library: the same array from the same file."""
    kept = {key: value for key, value in step.items() if key not in ('type', '_scope_', 'file_client_args')}
    own = step.get('type') in ('mmvit_ext.LoadImageFromFile', LoadImageFromFile) or step.get('_scope_') == 'mmvit_ext'
    if kept.get('color_type') != 'unchanged':
        kept.pop('imdecode_backend', None)  # Pillow gives the same and finds damage anywhere in a file
    elif not own:
        kept.setdefault('imdecode_backend', 'cv2')  # mmcv's own: decoders differ in what they leave unchanged
    return LoadImageFromFile(**kept)
