"""Finding images and naming their results."""

from pathlib import Path

from mmvit_ext.inference.images import collect_images, output_names


def test_names_of_results_are_unique_and_stay_short_where_they_can() -> None:
    paths = [Path(name) for name in ('x/a.jpg', 'y/a.jpg', 'x/A.png', 'x/b.jpg', 'x/a_jpg.bmp')]
    names = output_names(paths)
    assert len({name.lower() for name in names}) == len(paths)
    assert names[3] == 'b'
    assert names[4] == 'a_jpg'


def test_an_image_named_twice_is_predicted_once(tmp_path: Path) -> None:
    for name in ('b.jpg', 'a.PNG', '.hidden.jpg', 'c.txt'):
        (tmp_path / name).write_bytes(b'')
    assert [path.name for path in collect_images([tmp_path, tmp_path / 'b.jpg', f'{tmp_path}/*.jpg'])] == [
        'a.PNG',
        'b.jpg',
    ]


def test_a_name_with_brackets_is_a_file_before_it_is_a_pattern(tmp_path: Path) -> None:
    (tmp_path / 'a[1].jpg').write_bytes(b'')
    assert [path.name for path in collect_images([tmp_path / 'a[1].jpg'])] == ['a[1].jpg']
