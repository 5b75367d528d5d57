"""The rooms of the package import in one direction, and none of them import each other in a circle."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / 'mmvit_ext'

FLOORS = (
    {'__main__'},
    {'cli', 'doctor'},
    {'reproduce'},
    {'engine', 'evaluation'},
    {'interpret', 'submission'},
    {'inference'},
    {'checks'},
    {'checkpoints'},
    {'models', 'datasets', 'config'},
    {'files'},
    {'errors'},
    {'machine', 'registry', 'version'},
)
"""Each floor imports only from the floors below it; rooms of one floor may import each other, but not in a circle."""

FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def arrows() -> set[tuple[str, str, str]]:
    """Importing file, its room and the room it imports, for every import statement at any depth of a file."""
    found = set()
    for path in PACKAGE.rglob('*.py'):
        parts = ('mmvit_ext', *path.relative_to(PACKAGE).with_suffix('').parts)
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            if isinstance(node, ast.ImportFrom):
                base = parts[: -node.level] if node.level else ()
                names = ['.'.join((*base, *((node.module or '').split('.') if node.module else ())))]
                names = [f'{names[0]}.{alias.name}' for alias in node.names]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            else:
                continue
            for name in names:
                target = name.split('.')
                if target[0] == 'mmvit_ext' and len(target) > 1 and len(parts) > 1 and target[1] in FLOOR:
                    found.add((str(path.relative_to(PACKAGE)), parts[1], target[1]))
    return found


def test_every_room_has_its_floor() -> None:
    rooms = {path.stem for path in PACKAGE.iterdir() if path.suffix == '.py' or (path / '__init__.py').exists()}
    assert rooms - {'__init__'} == set(FLOOR)


def test_no_arrow_runs_back() -> None:
    back = sorted(f'{file} -> {target}' for file, room, target in arrows() if FLOOR.get(room, -1) > FLOOR[target])
    assert not back


def test_no_two_rooms_import_each_other() -> None:
    pairs = {(room, target) for _, room, target in arrows() if room != target}
    assert not [pair for pair in pairs if pair[::-1] in pairs]


def test_only_the_entry_point_tools_and_tests_name_the_command_line() -> None:
    assert not [file for file, room, target in arrows() if target == 'cli' and room not in ('cli', '__main__')]


@pytest.mark.parametrize('limit', [450])
def test_no_file_is_longer_than_one_reads_at_once(limit: int) -> None:
    lengths = {str(path.relative_to(PACKAGE)): len(path.read_text().splitlines()) for path in PACKAGE.rglob('*.py')}
    assert not {name: length for name, length in lengths.items() if length > limit}
