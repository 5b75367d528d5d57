"""The error that every part of the package raises for bad input, and how names that a user gave are printed."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

__all__ = ['UserError', 'printable', 'same_on_every_process', 'say', 'worker_message']

_WORKER_ERROR = re.compile(r'^Caught \w+ in (?:DataLoader worker|pin memory thread)')
_FINAL_LINE = re.compile(r'^(?P<type>[A-Za-z_][\w.]*?(?:Error|Exception|Interrupt)): (?P<message>.*)$')


def printable(text: str, keep: str = '') -> str:
    """A text whose control characters, but for those to ``keep``, are spelled out.

    File names, parameter names and configs come from elsewhere: printed as they are, they could recolour a terminal,
    hide a line or forge one. Bytes of a name that are no text are spelled out, too.
    """
    shown = (part.isprintable() or part in keep for part in text)
    return ''.join(p if plain else p.encode('unicode_escape').decode() for p, plain in zip(text, shown, strict=True))


def say(text: object, stream: TextIO | None = None) -> None:
    """Print a line that may hold names from elsewhere, see :func:`printable`; to stdout unless told otherwise."""
    print(printable(str(text)), file=stream, flush=True)


class UserError(ValueError):
    """Bad input, told in one sentence that names the file or key, what came, what was expected and the remedy.

    A data loader worker sends its exceptions as a traceback text; the constructor finds the sentence in it again, so
    that the main process sees the same error whatever ``num_workers`` is. Line breaks become spaces, and other control
    characters are spelled out.
    """

    def __init__(self, message: str) -> None:
        _, message = worker_message(message) or ('', str(message))
        super().__init__(printable(' '.join(line.strip() for line in message.split('\n'))))
        self.same_on_every_process = False


def worker_message(text: str) -> tuple[str, str] | None:
    """Type name and message of the exception in the traceback text that a data loader worker sent."""
    text = str(text)
    if not _WORKER_ERROR.match(text):
        return None
    for line in reversed(text.splitlines()):
        if match := _FINAL_LINE.match(line):
            return match['type'].rsplit('.', 1)[-1], match['message']
    return 'Exception', text.strip().splitlines()[-1]


@contextmanager
def same_on_every_process() -> Iterator[None]:
    """Marks errors of a block that all processes of a machine run alike, so that one of them reports it for all."""
    try:
        yield
    except UserError as error:
        error.same_on_every_process = True
        raise
