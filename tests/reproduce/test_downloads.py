"""Downloads: whole, checked, and going on where they were cut off, whatever the server does."""

import hashlib
import random

import pytest

from mmvit_ext.checkpoints.downloads import ATTEMPTS, cache_folder, cached_path, direct_address, fetch
from mmvit_ext.errors.user_error import UserError
from tests.reproduce.file_server import serving

CONTENT = random.Random(0).randbytes(1_300_003)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def get(server, folder, name='model.pth', **options):
    return fetch(f'{server.address}/files/{name}', folder, progress=False, pause=0.001, **options)


def test_a_second_call_asks_the_server_for_nothing(tmp_path):
    with serving(CONTENT) as server:
        path = get(server, tmp_path, sha256=SHA256)
        assert path.read_bytes() == CONTENT
        assert get(server, tmp_path, sha256=SHA256) == path
        assert server.ranges == [None]
    assert [file.name for file in path.parent.iterdir()] == ['model.pth']


def test_a_dropped_connection_is_continued_and_not_started_again(tmp_path):
    with serving(CONTENT, drop_after=[400_000, 1, 300_007]) as server:
        assert get(server, tmp_path, sha256=SHA256).read_bytes() == CONTENT
        assert server.ranges == [None, 'bytes=400000-', 'bytes=400001-', 'bytes=700008-']


def test_an_interrupted_command_goes_on_from_what_it_left(tmp_path):
    with serving(CONTENT, drop_after=[500_000] + [0] * ATTEMPTS, etag='"one"') as server:
        with pytest.raises(UserError, match=r'closed early.*run the command again'):
            get(server, tmp_path)
        assert get(server, tmp_path).read_bytes() == CONTENT
        assert server.ranges[-1] == 'bytes=500000-'


@pytest.mark.parametrize('drops', [[700_001], [5, 17, 700_001]], ids=['once', 'often'])
def test_a_server_that_ignores_ranges_starts_again(tmp_path, drops):
    with serving(CONTENT, drop_after=drops, ranges_work=False) as server:
        assert get(server, tmp_path, sha256=SHA256).read_bytes() == CONTENT


def test_wrong_bytes_are_refused_and_not_kept(tmp_path):
    expected = pytest.raises(UserError, match=f'SHA-256 .*where {SHA256[:12]} is expected')
    with serving(CONTENT[::-1]) as server, expected:
        get(server, tmp_path, sha256=SHA256[:12])
    assert not [path for path in tmp_path.rglob('*') if path.is_file() and path.suffix != '.lock']


def test_wrong_bytes_are_noticed_by_the_hash_in_the_name(tmp_path):
    with serving(CONTENT) as server:
        get(server, tmp_path, f'model-{SHA256[:8]}.pth')
        with pytest.raises(UserError, match='SHA-256'):
            get(server, tmp_path, 'model-1a2b3c4d.pth')


def test_what_an_earlier_version_of_the_file_left_is_thrown_away(tmp_path):
    with serving(CONTENT[::-1], drop_after=[600_000] + [0] * ATTEMPTS) as server:
        with pytest.raises(UserError):
            get(server, tmp_path)
        server.content = CONTENT
        assert get(server, tmp_path, sha256=SHA256).read_bytes() == CONTENT


def test_without_a_hash_the_entity_tag_tells_versions_apart(tmp_path):
    with serving(CONTENT[::-1], drop_after=[600_000] + [0] * ATTEMPTS, etag='"one"') as server:
        with pytest.raises(UserError):
            get(server, tmp_path)
        server.content, server.etag = CONTENT, '"two"'
        assert get(server, tmp_path).read_bytes() == CONTENT


def test_a_rest_that_is_already_whole_needs_no_byte(tmp_path):
    with serving(CONTENT) as server:
        part = cached_path(f'{server.address}/files/model.pth', tmp_path)
        part.parent.mkdir()
        part.with_name('model.pth.part').write_bytes(CONTENT)
        assert get(server, tmp_path).read_bytes() == CONTENT
        part.unlink()
        part.with_name('model.pth.part').write_bytes(CONTENT + b'more')
        assert get(server, tmp_path).read_bytes() == CONTENT


def test_a_busy_server_is_asked_again_and_a_missing_file_is_not(tmp_path):
    with serving(CONTENT, statuses=[503, 429]) as server:
        assert get(server, tmp_path).read_bytes() == CONTENT
    with serving(CONTENT, statuses=[404]) as server:
        with pytest.raises(UserError, match='404'):
            get(server, tmp_path)
        assert len(server.ranges) == 1


def test_a_web_page_is_no_checkpoint(tmp_path):
    expected = pytest.raises(UserError, match=r'web page.*--checkpoint FILE')
    with serving(b'<html>log in</html>', kind='text/html; charset=utf-8') as server, expected:
        get(server, tmp_path)


def test_the_form_of_google_drive_is_sent_and_the_file_that_follows_continued(tmp_path):
    with serving(CONTENT, confirms=True, drop_after=[400_000]) as server:
        path = get(server, tmp_path, sha256=SHA256)
        assert path.read_bytes() == CONTENT
        assert server.asked[0] == '/files/model.pth'
        assert server.asked[1:] == ['/download?id=abc-D_1&export=download&confirm=t&uuid=1%262'] * 2
        assert server.ranges == [None, None, 'bytes=400000-']


def test_an_interrupted_download_from_google_drive_goes_on(tmp_path):
    with serving(CONTENT, confirms=True, drop_after=[500_000] + [0] * ATTEMPTS) as server:
        with pytest.raises(UserError, match='closed early'):
            get(server, tmp_path)
        assert get(server, tmp_path, sha256=SHA256).read_bytes() == CONTENT
        assert server.ranges[-1] == 'bytes=500000-'


def test_a_server_that_never_stops_asking_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr('tests.reproduce.file_server.CONFIRMATION', '<form id="download-form" action="/again"></form>')
    with serving(CONTENT, confirms=True) as server:
        with pytest.raises(UserError, match='keeps asking for a confirmation'):
            get(server, tmp_path)
        assert len(server.asked) == ATTEMPTS
    monkeypatch.setattr(
        'tests.reproduce.file_server.CONFIRMATION', '<form id="download-form" action="file:///a"></form>'
    )
    with serving(CONTENT, confirms=True) as server, pytest.raises(UserError, match='web page'):
        get(server, tmp_path)


@pytest.mark.parametrize(
    ('shown', 'direct'),
    [
        (
            'https://drive.google.com/file/d/1x9-E_w/view?usp=sharing',
            'https://drive.google.com/uc?export=download&id=1x9-E_w',
        ),
        ('https://drive.google.com/file/d/1x9-E_w', 'https://drive.google.com/uc?export=download&id=1x9-E_w'),
        ('https://drive.google.com/open?id=1x9-E_w', 'https://drive.google.com/uc?export=download&id=1x9-E_w'),
        ('https://drive.google.com/uc?export=download&id=ab', 'https://drive.google.com/uc?export=download&id=ab'),
        ('gs://bucket/folder/a file', 'https://storage.googleapis.com/bucket/folder/a%20file'),
        ('https://huggingface.co/a/b/blob/main/c.pth', 'https://huggingface.co/a/b/resolve/main/c.pth'),
        ('https://huggingface.co/a/b/resolve/main/c.pth', 'https://huggingface.co/a/b/resolve/main/c.pth'),
        ('https://example.org/blob/c.pth', 'https://example.org/blob/c.pth'),
    ],
)
def test_addresses_of_pages_become_those_of_the_bytes(shown, direct):
    assert direct_address(shown) == direct


def test_a_folder_of_google_drive_is_got_by_hand(tmp_path):
    with pytest.raises(UserError, match=r'folder of several files.*--checkpoint'):
        fetch('https://drive.google.com/drive/folders/1Osweqc1O', tmp_path)


def test_a_file_is_kept_under_the_name_that_its_address_does_not_tell(tmp_path):
    with serving(CONTENT) as server:
        path = fetch(f'{server.address}/file/d/1x9', tmp_path, name='p2t_tiny.pth', progress=False)
    assert path.name == 'p2t_tiny.pth'


def test_offline_takes_the_cache_or_says_where_the_file_belongs(tmp_path):
    with serving(CONTENT) as server:
        with pytest.raises(UserError, match='put the file at') as caught:
            get(server, tmp_path, offline=True)
        assert str(cached_path(f'{server.address}/files/model.pth', tmp_path)) in str(caught.value)
        assert not server.ranges
        path = get(server, tmp_path)
        assert get(server, tmp_path, offline=True) == path
        path.write_bytes(b'damaged')
        with pytest.raises(UserError, match='cached file'):
            get(server, tmp_path, offline=True, sha256=SHA256)
        assert get(server, tmp_path, sha256=SHA256).read_bytes() == CONTENT


def test_nobody_there_is_one_sentence(tmp_path):
    with serving(b'') as server:
        address = server.address
    with pytest.raises(UserError, match=r'refused.*without a further byte'):
        fetch(f'{address}/model.pth', tmp_path, progress=False, pause=0.0)


@pytest.mark.parametrize('url', ['ftp://host/model.pth', 'file:///etc/passwd', 'model.pth'])
def test_only_web_addresses_are_fetched(url, tmp_path):
    with pytest.raises(UserError, match='https://'):
        fetch(url, tmp_path)


def test_names_from_addresses_stay_inside_the_cache(tmp_path):
    for url in ('http://h/a/../../b.pth', 'http://h/%2e%2e%2fpasswd', 'http://h/', 'http://h/.hidden'):
        assert cached_path(url, tmp_path).resolve().parent.parent == tmp_path.resolve()
    assert cached_path('http://a/model.pth', tmp_path) != cached_path('http://b/model.pth', tmp_path)


def test_the_cache_is_below_the_users_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    assert cache_folder() == tmp_path / 'mmvit_ext' / 'checkpoints'
    monkeypatch.setenv('XDG_CACHE_HOME', 'relative')
    assert cache_folder().is_absolute()
