from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.deletion import blocks_of, main, orders, painted, painted_one_by_one


def test_blocks_are_painted_one_after_the_other_until_nothing_is_left():
    image = torch.ones(1, 3, 8, 12)
    blocks = blocks_of((8, 12), (4, 4))
    steps = painted_one_by_one(image, blocks)
    assert [int(step.sum()) // 3 for step in steps] == [96, 80, 64, 48, 32, 16, 0]
    without, alone = painted(image, blocks[4])[1:]
    assert without[:, 4:, 4:8].eq(0).all()
    assert without.sum() == 3 * 80
    torch.testing.assert_close(without + alone, image[0])


def test_orders_begin_with_the_highest_or_the_lowest_block_and_name_each_once():
    means = np.array([0.1, 0.9, -0.3, 0.4])
    found = orders(means, np.random.default_rng(0))
    assert found['highest of CAM first'].tolist() == [1, 3, 0, 2]
    assert found['lowest of CAM first'].tolist() == [2, 0, 3, 1]
    assert sorted(found['at random']) == [0, 1, 2, 3]


@pytest.mark.parametrize('out', ['taken.png', 'curves.txt', 'absent/curves.png'])
def test_a_picture_that_cannot_be_written_is_refused_before_anything_is_read(
    out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path('taken.png').write_text('mine')
    monkeypatch.setattr('sys.argv', ['deletion', 'no.py', 'no.pth', '--data-root', 'no', '--out', out])
    with pytest.raises(SystemExit):
        main()
    assert f'--out {out}: name a new file' in capsys.readouterr().err
    assert Path('taken.png').read_text() == 'mine'
