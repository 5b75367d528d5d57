"""Image files and label maps that nobody would want to be sent, made from a random generator."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

Rng = np.random.Generator
Maker = Callable[[Rng, Path], Path]

EDGES = (1, 2, 3, 7, 31, 64, 101, 997)
LONG_EDGE = 4000
#: Mode and a format that stores it.
MODES = (
    ('1', 'png'),
    ('L', 'jpg'),
    ('LA', 'png'),
    ('PA', 'png'),
    ('P', 'png'),
    ('P', 'bmp'),
    ('RGB', 'webp'),
    ('RGB', 'ppm'),
    ('RGBA', 'png'),
    ('RGBA', 'webp'),
    ('RGBX', 'tif'),
    ('CMYK', 'jpg'),
    ('CMYK', 'tif'),
    ('YCbCr', 'jpg'),
    ('LAB', 'tif'),
    ('I', 'png'),
    ('I', 'tif'),
    ('I;16', 'png'),
    ('I;16', 'tif'),
    ('I;16B', 'tif'),
    ('F', 'tif'),
)


def pixels(rng: Rng, height: int, width: int) -> Image.Image:
    """Random colours; of large images a small pattern over and over, which costs less."""
    tile = rng.integers(0, 256, (min(height, 64), min(width, 64), 3), dtype=np.uint8)
    repeats = (-(-height // tile.shape[0]), -(-width // tile.shape[1]), 1)
    return Image.fromarray(np.tile(tile, repeats)[:height, :width])


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    """The file of an image."""
    stream = io.BytesIO()
    image.save(stream, {'jpg': 'JPEG', 'tif': 'TIFF'}.get(kind, kind.upper()), **options)
    return stream.getvalue()


def of_mode(rng: Rng, folder: Path, mode: str, kind: str) -> Path:
    """An image of any of Pillow's modes."""
    edge = int(rng.choice(EDGES[:6]))
    image = pixels(rng, edge, int(rng.choice(EDGES[:6])))
    if mode.startswith('I;16'):
        image = Image.fromarray(rng.integers(0, 65536, image.size[::-1]).astype(np.uint16))
    elif mode == 'I':
        image = Image.fromarray(rng.integers(-(2**31), 2**31, image.size[::-1]).astype(np.int32))
    elif mode == 'LAB':
        image = Image.frombytes('LAB', image.size, image.tobytes())
    else:
        image = image.convert(mode)
    path = folder / f'{"".join(filter(str.isalnum, mode))}.{kind}'
    try:
        path.write_bytes(encoded(image, kind))
    except (OSError, KeyError, ValueError):  # not every release of Pillow writes every mode
        path.write_bytes(encoded(image.convert('I;16' if mode == 'I' else 'RGB'), 'png'))
    return path


def of_size(rng: Rng, folder: Path) -> Path:
    """Any size from a pixel on."""
    height, width = (int(edge) for edge in rng.choice(EDGES, 2))
    path = folder / f'size_{height}x{width}.png'
    path.write_bytes(encoded(pixels(rng, height, width), 'png'))
    return path


def long_and_thin(rng: Rng, folder: Path) -> Path:
    """As long as an image may be, and a pixel or two the other way."""
    size = (LONG_EDGE, int(rng.integers(1, 4)))
    height, width = size if rng.random() < 0.5 else size[::-1]
    path = folder / f'thin_{height}x{width}.jpg'
    path.write_bytes(encoded(pixels(rng, height, width), 'jpg'))
    return path


def large(rng: Rng, folder: Path) -> Path:
    """4000 pixels both ways."""
    path = folder / 'large.jpg'
    path.write_bytes(encoded(pixels(rng, LONG_EDGE, LONG_EDGE), 'jpg'))
    return path


def with_exif(rng: Rng, folder: Path) -> Path:
    """Turned by its EXIF orientation, also by values that do not exist and of other types."""
    exif = Image.Exif()
    value = int(rng.integers(0, 12))
    exif[274] = value if value < 11 else 'upside down'
    path = folder / f'turned_{value}.jpg'
    path.write_bytes(encoded(pixels(rng, 21, 34), 'jpg', exif=exif.tobytes()))
    return path


def with_broken_exif(rng: Rng, folder: Path) -> Path:
    """EXIF data that are none."""
    path = folder / 'exif.jpg'
    path.write_bytes(encoded(pixels(rng, 21, 34), 'jpg', exif=b'Exif\0\0' + rng.bytes(int(rng.integers(0, 200)))))
    return path


def with_transparent_colour(rng: Rng, folder: Path) -> Path:
    """A palette whose colours are partly transparent."""
    path = folder / 'palette.png'
    path.write_bytes(encoded(pixels(rng, 20, 30).convert('P'), 'png', transparency=rng.bytes(100)))
    return path


def of_many_frames(rng: Rng, folder: Path) -> Path:
    """An animation or a file of pages."""
    kind = str(rng.choice(['gif', 'tif', 'webp']))
    frames = [pixels(rng, 20, 30) for _ in range(3)]
    path = folder / f'frames.{kind}'
    path.write_bytes(encoded(frames[0], kind, save_all=True, append_images=frames[1:]))
    return path


def empty(rng: Rng, folder: Path) -> Path:
    """No byte at all."""
    path = folder / f'empty.{rng.choice(["png", "jpg", "tif", "webp"])}'
    path.touch()
    return path


def cut_off(rng: Rng, folder: Path) -> Path:
    """The beginning of a file."""
    kind = str(rng.choice(['png', 'jpg', 'tif', 'webp', 'bmp', 'gif', 'ppm']))
    content = encoded(pixels(rng, 40, 50), kind)
    path = folder / f'cut.{kind}'
    path.write_bytes(content[: int(rng.integers(1, len(content)))])
    return path


def with_wrong_bytes(rng: Rng, folder: Path) -> Path:
    """Some bytes of a file replaced, its header most of all."""
    kind = str(rng.choice(['png', 'jpg', 'tif', 'webp', 'bmp', 'gif', 'ppm']))
    content = bytearray(encoded(pixels(rng, 40, 50), kind))
    last = len(content) if rng.random() < 0.5 else 64
    for _ in range(int(rng.integers(1, 20))):
        content[int(rng.integers(0, min(last, len(content))))] = int(rng.integers(0, 256))
    path = folder / f'wrong.{kind}'
    path.write_bytes(content)
    return path


def of_noise(rng: Rng, folder: Path) -> Path:
    """Random bytes behind the first bytes of a format."""
    heads = (
        b'',
        b'\x89PNG\r\n\x1a\n',
        b'\xff\xd8\xff\xe0',
        b'RIFF\0\1\0\0WEBPVP8 ',
        b'II*\0',
        b'MM\0*',
        b'BM',
        b'P6\n',
    )
    path = folder / 'noise.png'
    path.write_bytes(heads[int(rng.integers(0, len(heads)))] + rng.bytes(int(rng.integers(1, 3000))))
    return path


def no_image(rng: Rng, folder: Path) -> Path:
    """Something else under an image's name."""
    texts = ('hello', '<html>404</html>', 'version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n', '\0')
    path = folder / 'page.jpg'
    path.write_text(str(rng.choice(texts)))
    return path


def of_absurd_size(rng: Rng, folder: Path) -> Path:
    """A header that promises more pixels than any memory holds, or none."""
    width, height = (int(edge) for edge in rng.choice([0, 1, 30_000, 2**31 - 1], 2))
    if width * height == 1 or {width, height} == {1, 30_000}:
        width = height = 60_000
    header = struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
    path = folder / 'absurd.png'
    path.write_bytes(b'\x89PNG\r\n\x1a\n' + b''.join(_chunk(*part) for part in ((b'IHDR', header), (b'IDAT', b''))))
    return path


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack('>I', len(content)) + kind + content + struct.pack('>I', zlib.crc32(kind + content))


def of_an_odd_name(rng: Rng, folder: Path) -> Path:
    """A good image under a name that pattern, shell or terminal would take apart."""
    names = ('a b.png', '[x].png', 'ä%s.png', '-o.png', '{0}.png', '図.png', 'dots.in.name.png', 'n' * 240 + '.png')
    path = folder / str(rng.choice(names))
    path.write_bytes(encoded(pixels(rng, 20, 30), 'png'))
    return path


def no_file(rng: Rng, folder: Path) -> Path:
    """A pipe that nobody writes to, a folder with an image's name, a link to nowhere."""
    path = folder / 'file.png'
    kind = int(rng.integers(0, 3))
    if kind == 0:
        os.mkfifo(path)
    elif kind == 1:
        path.mkdir()
    else:
        path.symlink_to(folder / 'nowhere')
    return path


IMAGES: dict[str, Maker] = {
    **{f'{mode} as {kind}': (lambda r, f, m=mode, k=kind: of_mode(r, f, m, k)) for mode, kind in MODES},
    'size': of_size,
    'thin': long_and_thin,
    'large': large,
    'EXIF': with_exif,
    'broken EXIF': with_broken_exif,
    'transparent palette': with_transparent_colour,
    'frames': of_many_frames,
    'empty': empty,
    'cut off': cut_off,
    'wrong bytes': with_wrong_bytes,
    'noise': of_noise,
    'no image': no_image,
    'absurd size': of_absurd_size,
    'odd name': of_an_odd_name,
    'no file': no_file,
}

# Label maps of an image of 48x40 pixels with three classes


def _labels(rng: Rng, path: Path, values: np.ndarray) -> Path:
    Image.fromarray(values).save(path)
    return path


def labels_of_type(rng: Rng, folder: Path) -> Path:
    """Labels of another depth, their values anywhere in it."""
    kind, lowest, highest = (
        (np.uint8, 0, 256),
        (np.uint16, 0, 2**16),
        (np.int32, -(2**31), 2**31),
        (np.int32, 2**31 - 4, 2**31),
        (np.float32, 0, 3),
    )[int(rng.integers(0, 5))]
    return _labels(rng, folder / 'label.tif', rng.integers(lowest, highest, (40, 48)).astype(kind))


def labels_of_size(rng: Rng, folder: Path) -> Path:
    """Labels of another size than their image."""
    height, width = (int(edge) for edge in rng.choice(EDGES, 2))
    return _labels(rng, folder / 'label.png', rng.integers(0, 3, (height, width), dtype=np.uint8))


def labels_with_values(rng: Rng, folder: Path) -> Path:
    """Masks of 0 and 255, classes from 1, nothing but ignored pixels, values without a class."""
    choices = ([0, 255], [1, 2, 3], [255], [0, 254], [0, 1, 2, 7])
    choice = choices[int(rng.integers(0, len(choices)))]
    return _labels(rng, folder / 'label.png', rng.choice(choice, (40, 48)).astype(np.uint8))


def labels_in_colour(rng: Rng, folder: Path) -> Path:
    """A picture where indices are expected."""
    mode = str(rng.choice(['RGB', 'RGBA', 'LA', '1', 'P', 'CMYK']))
    image = pixels(rng, 40, 48).convert(mode)
    path = folder / ('label.tif' if mode == 'CMYK' else 'label.png')
    image.save(path)
    return path


def labels_as_jpeg(rng: Rng, folder: Path) -> Path:
    """Labels that their format has changed."""
    path = folder / 'label.jpg'
    Image.fromarray(rng.integers(0, 3, (40, 48), dtype=np.uint8)).save(path)
    return path


LABELS: dict[str, Maker] = {
    'type': labels_of_type,
    'size': labels_of_size,
    'values': labels_with_values,
    'colour': labels_in_colour,
    'JPEG': labels_as_jpeg,
    'empty': empty,
    'cut off': cut_off,
    'wrong bytes': with_wrong_bytes,
    'noise': of_noise,
    'no image': no_image,
    'absurd size': of_absurd_size,
}
