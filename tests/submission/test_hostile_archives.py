"""Archives that were made to break their reader: each ends with a fault in one line, in little memory."""

import io
import json
import struct
import time
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmvit_ext.cli.main import run_verb
from mmvit_ext.submission import check as archive_check
from mmvit_ext.submission.check import check_archive

COCO = 'detections_val2017_net_results'
MAP = 'ADE_val_00000007.png'
OBJECT = {'image_id': 139, 'category_id': 17, 'score': 0.25, 'bbox': [2, 3, 5, 7]}


def png(values: np.ndarray | None = None, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((5, 7), 3, np.uint8) if values is None else values).save(stream, 'PNG', **options)
    return stream.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack('>I', len(content)) + kind + content + struct.pack('>I', zlib.crc32(kind + content))


def raw_png(width: int, height: int, data: bytes, depth: int = 8, colour: int = 0, extra: bytes = b'') -> bytes:
    header = chunk(b'IHDR', struct.pack('>IIBBBBB', width, height, depth, colour, 0, 0, 0))
    return b'\x89PNG\r\n\x1a\n' + header + extra + chunk(b'IDAT', data) + chunk(b'IEND', b'')


@contextmanager
def little_memory(limit: int) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < limit
    finally:
        tracemalloc.stop()


Edit = Callable[[bytearray, int, int], None]


def pack(folder: Path, name: str, content: bytes | str, edit: Edit | None = None, **options: int) -> Path:
    """An archive with a member; ``edit`` is given its bytes, and where its local header and its list begin."""
    path = folder / (f'{COCO}.zip' if name.endswith('.json') else 'maps.zip')
    with zipfile.ZipFile(path, 'w', **{'compression': zipfile.ZIP_DEFLATED, **options}) as archive:
        archive.writestr(name, content)
    if edit:
        data = bytearray(path.read_bytes())
        edit(data, data.find(b'PK\x03\x04'), data.rfind(b'PK\x01\x02'))
        path.write_bytes(data)
    return path


def refused(path: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What the command prints for an archive with faults."""
    capsys.readouterr()
    code = run_verb('submit', ['check', str(path), *arguments])
    output = ''.join(capsys.readouterr())
    assert code == 2, output
    assert 'Traceback' not in output
    assert all(line.isprintable() for line in output.splitlines()), output
    assert max(map(len, output.splitlines())) < 1000
    return output


def put(place: int, form: str, value: int, local: bool = False) -> Edit:
    """Overwrite a field of the member's entry in the list, or in its local header."""

    def edit(data: bytearray, start: int, listed: int) -> None:
        struct.pack_into(form, data, (start if local else listed) + place, value)

    return edit


def both(*edits: Edit) -> Edit:
    def edit(data: bytearray, start: int, listed: int) -> None:
        for one in edits:
            one(data, start, listed)

    return edit


def damage(data: bytearray, start: int, listed: int) -> None:
    data[start + 30 + 20 + 9 : start + 30 + 20 + 15] = b'\xff' * 6


def overlap_list(data: bytearray, start: int, listed: int) -> None:
    data[data.rfind(b'PK\x05\x06') + 16] ^= 0x20


HEADERS: dict[str, tuple[Edit, str]] = {
    'encrypted': (both(put(6, '<H', 1, local=True), put(8, '<H', 1)), 'it is encrypted'),
    'strong encryption': (put(8, '<H', 0x41), 'it is encrypted'),
    'patch data': (put(8, '<H', 0x20), 'patched data'),
    'deflate64': (both(put(8, '<H', 9, local=True), put(10, '<H', 9)), 'pack it with deflate'),
    'bzip2 by name': (put(10, '<H', 12), 'pack it with deflate'),
    'unknown method': (put(10, '<H', 4711), 'pack it with deflate'),
    'newer version': (put(6, '<H', 250), 'cannot be opened: zip file version'),
    'damaged bytes': (damage, ''),
    'other checksum': (put(16, '<I', 1234), 'CRC'),
    'more bytes than it has': (put(24, '<I', 5000), ''),
    'fewer bytes than it has': (put(24, '<I', 3), 'CRC'),
    '3 GiB': (put(24, '<I', 3 * 2**30), 'it unpacks to'),
    'packed size beyond the file': (put(20, '<I', 2**31), 'overlap, or their sizes are wrong'),
    'begins beyond the file': (put(42, '<I', 2**30), ''),
    'begins elsewhere': (put(42, '<I', 7), ''),
    'another name in its header': (put(30, '<B', 90, local=True), ''),
    'link': (put(38, '<I', (0o120777 << 16)), 'it is a link or a device'),
    'pipe': (put(38, '<I', (0o010644 << 16)), 'it is a link or a device'),
    'list elsewhere': (overlap_list, 'cannot be'),
    'other signature': (put(0, '<I', 0), 'cannot be opened'),
}


@pytest.mark.parametrize('member', [MAP, f'{COCO}.json'], ids=['ade20k', 'coco'])
@pytest.mark.parametrize('case', HEADERS)
def test_headers_that_lie_are_faults(
    case: str, member: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit, reason = HEADERS[case]
    content = png() if member == MAP else json.dumps([OBJECT] * 40)
    assert reason in refused(pack(tmp_path, member, content, edit), capsys)


@pytest.mark.parametrize('method', [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_methods_that_unpack_without_a_limit_are_not_tried(
    method: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = pack(tmp_path, f'{COCO}.json', b' ' * 2**24 + b'[]', compression=method)
    with little_memory(2**22):
        assert 'pack it with deflate' in refused(path, capsys)


def test_zip64_sizes_that_lie_are_faults(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / f'{COCO}.zip'
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr(f'{COCO}.json', json.dumps([OBJECT]))
        archive.filelist[0].file_size = 2**62
    assert f'it unpacks to {2**62} bytes' in refused(path, capsys)


def test_a_list_of_members_that_is_huge_is_not_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive_check, 'MAX_LIST', 50_000)
    path = tmp_path / 'maps.zip'
    with zipfile.ZipFile(path, 'w') as archive:
        for index in range(3):
            info = zipfile.ZipInfo(f'ADE_val_0000000{index}.png')
            info.comment = b'#' * 60_000
            archive.writestr(info, png())
    assert 'its list of members has 180' in refused(path, capsys)


Write = Callable[[zipfile.ZipFile], None]
NAMES: dict[str, tuple[list[str], str]] = {
    'nested': ([f'a/b/c/d/{MAP}'], 'folder: a/b/c/d/'),
    'absolute': ([f'/etc/{MAP}'], 'folder: /etc/'),
    'upwards': ([f'../../{MAP}'], 'folder: ../../'),
    'backslashes': ([f'..\\{MAP}'], 'folder: ..\\'),
    'folder': ([MAP, 'maps/'], 'folder: maps/'),
    'twice': ([MAP, MAP], f'duplicate file: {MAP}'),
    'escapes': ([MAP, '\x1b[2J\x1b]0;owned\x07.png'], '\\x1b[2J'),
    'right to left': ([MAP, 'ADE\u202egnp.png'], '\\u202e'),
    'line break': ([MAP, 'a\nno faults.png'], 'a\\nno faults.png'),
    'long': ([MAP, 'x' * 60_000], 'xxx...: expected PNG'),
    'only folders': (['maps/', 'others/'], 'neither JSON nor PNG'),
}


@pytest.mark.parametrize('case', NAMES)
@pytest.mark.filterwarnings('ignore:Duplicate name')
def test_names_that_mislead_are_faults(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names, reason = NAMES[case]
    path = tmp_path / 'maps.zip'
    with zipfile.ZipFile(path, 'w') as archive:
        for name in names:
            archive.writestr(name, png())
    assert reason in refused(path, capsys)


def test_a_name_with_a_zero_byte_is_a_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def edit(data: bytearray, start: int, listed: int) -> None:
        for place in (start + 30, listed + 46):
            data[place + len(MAP)] = 0

    output = refused(pack(tmp_path, f'{MAP}!.txt', png(), edit), capsys)
    assert f'folder: {MAP}\\x00.txt' in output


def test_a_member_without_a_name_is_a_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / 'maps.zip'
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('unnamed', png())
        archive.writestr(MAP, png())
    path.write_bytes(path.read_bytes().replace(b'unnamed', b'\0' * 7))
    assert 'extra file: : expected PNG' in refused(path, capsys)


@pytest.mark.parametrize('seed', range(2))
def test_bytes_that_are_changed_at_random_end_in_a_report(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    contents = ((MAP, png()), (f'{COCO}.json', json.dumps([OBJECT] * 3)))
    for name, content in (*contents, *contents):
        original = pack(tmp_path, name, content, compression=int(rng.choice([0, 8]))).read_bytes()
        for _ in range(75):
            data = np.frombuffer(original, np.uint8).copy()
            places = rng.integers(0, len(data), rng.integers(1, 6))
            data[places] = rng.choice([0, 1, 47, 255, *rng.integers(0, 256, 4)], len(places))
            path = tmp_path / ('maps.zip' if name == MAP else f'{COCO}.zip')
            path.write_bytes(data.tobytes()[: None if rng.random() < 0.9 else int(rng.integers(len(data)))])
            assert all(line.isprintable() for line in check_archive(path).lines(complete=True))


def test_overlapping_members_are_faults(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A second entry of the list leads to the first one's bytes, as in archives that unpack to petabytes."""
    path = tmp_path / 'maps.zip'
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr(MAP, png())
        archive.writestr('ADE_val_00000008.png', png())
        archive.filelist[1].header_offset = 0
    assert 'ADE_val_00000008.png' in refused(path, capsys)


MAPS: dict[str, tuple[bytes, str]] = {
    '400 million pixels': (raw_png(20_000, 20_000, b''), 'unreadable label map'),
    '144 million pixels': (raw_png(12_000, 12_000, zlib.compress(b'')), 'expected 1 to 33554432 in all'),
    'a row of all pixels': (raw_png(2**31 - 1, 1, b''), 'unreadable label map'),
    'no pixel': (raw_png(0, 5, zlib.compress(b'')), ': ADE_val_00000007.png: it'),
    'no data': (raw_png(5, 5, b''), 'unreadable label map'),
    'too few rows': (raw_png(5, 5, zlib.compress(b'\0\1\1\1\1\1')), 'the label 0'),
    'cut in its last mark': (png()[:-6], 'unreadable label map'),
    'without its last mark': (png()[:-12], 'unreadable label map'),
    'header alone': (png()[:33], 'unreadable label map'),
    'another last mark': (png().replace(b'IEND', b'IENE'), 'unreadable label map'),
    'another checksum of its pixels': (png()[:-16] + b'sum!' + png()[-12:], 'unreadable label map'),
    'text that unpacks to much': (
        raw_png(1, 1, zlib.compress(b'\0\1'), extra=chunk(b'zTXt', b'a\0\0' + zlib.compress(bytes(2**24)))),
        'unreadable label map',
    ),
    'two bits': (raw_png(4, 1, zlib.compress(b'\0\x55'), depth=2), 'the mode L;2'),
    '16 bits': (png(np.full((3, 4), 7, np.uint16)), 'expected L'),
    'transparent grey': (png(np.full((3, 4, 2), 7, np.uint8)), 'the mode LA'),
    'bits': (png(np.ones((3, 4), bool)), 'the mode 1'),
    'gif': (b'GIF89a' + bytes(20), 'no PNG file'),
    'eps': (b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n', 'no PNG file'),
    'nothing': (b'', 'no PNG file'),
}


@pytest.mark.parametrize('case', MAPS)
def test_pictures_that_are_no_label_maps_are_faults(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content, reason = MAPS[case]
    with little_memory(2**26):
        assert reason in refused(pack(tmp_path, MAP, content), capsys)


def test_a_file_that_is_larger_than_any_label_map_is_not_unpacked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = pack(tmp_path, MAP, bytes(2**25 + 1))
    assert f'it has {2**25 + 1} bytes' in refused(path, capsys)


def test_only_so_many_pixels_are_decoded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive_check, 'MAX_ALL_PIXELS', 3 * 35)
    with zipfile.ZipFile(tmp_path / 'maps.zip', 'w') as archive:
        for index in range(9):
            archive.writestr(f'ADE_val_0000000{index}.png', png())
    opened = []
    monkeypatch.setattr(Image.Image, 'load', lambda self, load=Image.Image.load: opened.append(self) or load(self))
    assert 'they have more than 105 pixels, the rest was not opened' in refused(tmp_path / 'maps.zip', capsys)
    assert len({id(image) for image in opened}) <= 4


def changed(**values: object) -> str:
    return json.dumps([{**OBJECT, **values}])


LISTS: dict[str, tuple[str | bytes, str]] = {
    'utf-16': (json.dumps([OBJECT]).encode('utf-16'), "can't decode byte"),
    'utf-16 without a mark': (json.dumps([OBJECT]).encode('utf-16-le'), 'cannot be read'),
    'utf-32': (json.dumps([OBJECT]).encode('utf-32'), 'cannot be read'),
    'latin-1': (changed(name='é').replace('\\u00e9', 'é').encode('latin-1'), "can't decode byte"),
    'byte order mark': (b'\xef\xbb\xbf' + json.dumps([OBJECT]).encode(), 'byte order mark'),
    'zero bytes': (bytes(1000), 'expected a list'),
    'nothing': ('', 'expected a list'),
    'blanks': (' \n' * 1000, 'expected a list'),
    'a number': ('7', 'expected a list'),
    'one object': (json.dumps(OBJECT), 'expected a list'),
    'an open list': ('[', 'cannot be read'),
    'comma at the end': (json.dumps([OBJECT])[:-1] + ',]', 'cannot be read'),
    'no comma': (json.dumps([OBJECT])[:-1] + json.dumps(OBJECT) + ']', "Expecting ',' or ']'"),
    'two lists': (json.dumps([OBJECT]) * 2, 'more text behind the list'),
    'a list a line': ('[]\n[]\n', 'more text behind the list'),
    'deep lists': ('[' * 200_000, 'recursion'),
    'deep objects': ('[' + '{"a":' * 200_000, 'recursion'),
    'the same key twice': (json.dumps([OBJECT])[:-2] + ', "score": 0.75}]', "the key 'score' twice"),
    'the same key twice inside': (changed(a={'b': 1}).replace('"b": 1', '"b": 1, "b": 2'), "the key 'b' twice"),
    'score of 400 digits': (changed(score=10**400), 'score is 1000'),
    'score of 5000 digits': (changed().replace('0.25', '9' * 5000), 'digits'),
    'score of 1e400': (changed().replace('0.25', '1e400'), 'score is inf'),
    'score that is true': (changed(score=True), 'score is True'),
    'box of 400 digits': (changed(bbox=[-(10**400), 0, 1, 1]), 'no numbers'),
    'box of 1e308': (changed(bbox=[1e308] * 4), 'no numbers'),
    'box of no numbers': (changed(bbox=[float('nan'), 0, 1, float('-inf')]), 'no numbers'),
    'infinity elsewhere': (changed(area=float('inf')), 'a server may refuse it'),
    'image of 400 digits': (changed(image_id=10**400), 'image_id is 1000'),
    'image that is true': (changed(image_id=True), 'image_id is True'),
    'image that is a list': (changed(image_id=[[[[]]]]), 'image_id is [[['),
    'category of 400 digits': (changed(category_id=10**400), 'category_id is 1000'),
    'half a character': ('[{"image_id": "\\ud800", "category_id": 1, "score": 0.5, "bbox": [1, 1, 2, 2]}]', '\\ud800'),
    'half a character in a key': (changed().replace('score', '\\udfff'), 'score is None'),
    'escapes': (changed(image_id='\x1b[2J'), "'\\x1b[2J'"),
    'long text': (changed(image_id='x' * 100_000), 'xxx'),
    'masks later': (json.dumps([OBJECT, {**OBJECT, 'segmentation': []}]), 'which the first object'),
    'mask of another world': (
        json.dumps([{**OBJECT, 'segmentation': {'size': [10**400, 1], 'counts': '1'}}]),
        'the size of the mask',
    ),
    'mask of too long runs': (
        json.dumps([{**OBJECT, 'segmentation': {'size': [3, 5], 'counts': 'ooooooO' * 10_000}}]),
        'cannot be decoded',
    ),
}


@pytest.mark.parametrize('case', LISTS)
def test_lists_that_a_server_cannot_read_are_faults(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content, reason = LISTS[case]
    assert reason in refused(pack(tmp_path, f'{COCO}.json', content), capsys)


BOMBS = {
    'blanks': ('[', ' ', ']'),
    'blanks behind': (json.dumps([OBJECT]), ' ', '!'),
    'one text': ('["', 'x' * 64, '"]'),
    'empty lists in one': ('[[', '[],' * 64, '[]]]'),
    'empty objects': ('[', '{},' * 64, '{}]'),
}


@pytest.mark.parametrize('case', BOMBS)
def test_a_small_archive_of_much_text_takes_little_memory(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive_check, 'WINDOW', 2**16)
    monkeypatch.setattr(archive_check.run, 'TEST_DEV_IMAGES', 20)
    start, filling, end = BOMBS[case]
    path = pack(tmp_path, f'{COCO}.json', start + filling * (2**25 // len(filling)) + end)
    with little_memory(2**24):
        refused(path, capsys)


def test_entries_are_read_across_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At every length of the window the same objects are found, blanks between all of their parts included."""
    entries = [{**OBJECT, 'image_id': index, 'score': index / 64} for index in range(23)]
    text = json.dumps(entries, indent=3, separators=(' ,\t', ' : '))
    longest = max(len(json.dumps(entry, indent=3, separators=(' ,\t', ' : '))) for entry in entries) + 60
    for window in range(longest, longest + 40):
        monkeypatch.setattr(archive_check, 'WINDOW', window)
        assert list(archive_check.json_entries(io.StringIO(text))) == entries
    assert list(archive_check.json_entries(io.StringIO(' [ \n ] '))) == []


def test_what_has_no_faults_is_what_pycocotools_loads(tmp_path: Path) -> None:
    coco = pytest.importorskip('pycocotools.coco')
    entries = [{**OBJECT, 'image_id': index % 7, 'score': index / 500} for index in range(300)]
    path = pack(tmp_path, f'{COCO}.json', json.dumps(entries))
    assert check_archive(path).faults == []
    with zipfile.ZipFile(path) as archive:
        archive.extractall(tmp_path)
    truth = coco.COCO()
    truth.dataset = {'images': [{'id': index} for index in range(7)], 'categories': [{'id': 17}], 'annotations': []}
    truth.createIndex()
    assert len(truth.loadRes(str(tmp_path / f'{COCO}.json')).anns) == 300


@pytest.mark.parametrize('suffix', ['png', 'json', 'txt'])
def test_the_time_grows_no_faster_than_the_members(suffix: str, tmp_path: Path) -> None:
    seconds = []
    for count in (1000, 8000):
        path = tmp_path / f'{COCO if suffix == "json" else "maps"}.zip'
        with zipfile.ZipFile(path, 'w') as archive:
            archive.writestr(f'{COCO}.json' if suffix == 'json' else MAP, b'')
            for index in range(count):
                archive.writestr(f'ADE_test_{index:08d}.{suffix}', b'')
        start = time.process_time()
        assert check_archive(path).counts.total() >= count if suffix != 'json' else 1
        seconds.append(time.process_time() - start)
    # Eight times as many; the square would be 64 times as long.
    assert seconds[1] < 24 * seconds[0], seconds


def test_only_so_many_faults_of_a_kind_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = check_archive(pack(tmp_path, f'{COCO}.json', json.dumps([7] * 5000)))
    assert len(report.faults) == 1000
    assert report.lines()[0].endswith('5000 faults')
    assert report.lines(complete=True)[-2] == '  entry: 4000 more'
    monkeypatch.setattr(archive_check, 'MAX_FAULTS', 70)
    report = check_archive(pack(tmp_path, f'{COCO}.json', json.dumps([7] * 5000)))
    assert report.counts == {'entry': 71, 'JSON file': 1}
    assert 'from 71 on' in report.faults[-1].reason


@pytest.mark.parametrize(
    'content',
    [
        '[' * 100_000,
        '{"images": [{"id": 1e999, "file_name": "1.jpg", "height": 3, "width": 5}]}',
        '{"images": [7]}',
        '{"images": {"id": 1}}',
        '{"images": [{"id": 1, "file_name": "1.jpg", "height": 3, "width": 5}], "categories": [7]}',
        '{"images": [{"id": 1, "file_name": "1.jpg", "height": 3, "width": 5},'
        ' {"id": 1, "file_name": "2.jpg", "height": 3, "width": 5}]}',
        '\ufeff{"images": []}',
    ],
)
def test_image_lists_that_are_none_are_told(content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    annotations = tmp_path / 'list.json'
    annotations.write_text(content, encoding='utf-8')
    path = pack(tmp_path, f'{COCO}.json', json.dumps([OBJECT]))
    output = refused(path, capsys, '--annotations', str(annotations))
    assert f'error: --annotations {annotations} ' in output
