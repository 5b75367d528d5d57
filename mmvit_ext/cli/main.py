"""The command ``mmvit VERB``, and the scripts of ``tools/``, each of which is one of its verbs."""

import argparse
import importlib
import shlex
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from typing import NoReturn

from mmvit_ext.cli.command import Parser, end_process, run_command
from mmvit_ext.errors import EXIT_BAD_INPUT, UserError, say
from mmvit_ext.version import __version__

__all__ = ['VERBS', 'main', 'run', 'run_tool', 'run_verb']

VERBS = {
    'train': 'train a model on a folder of images, or as a config says',
    'test': 'evaluate a checkpoint on the test data of its config',
    'predict': 'predict images and draw the results',
    'explain': 'show what a trained model looks at',
    'check': "read every image and annotation of a config's datasets and list the faults",
    'convert': 'convert a released checkpoint to the parameter names of this package',
    'export': 'export a trained segmentor to ONNX or torch.export',
    'generate': 'generate images with a trained generator',
    'reproduce': 'evaluate or train a published row and compare it with its figures',
    'submit': 'predict a test set into the archive of its test server, or check such an archive',
    'robustness': 'measure a model on turned or partly covered images',
    'superpixels': 'measure how well superpixels follow label maps',
    'bench': 'measure the networks on a GPU',
    'models': 'list the models that have a name',
    'doctor': 'check the installed libraries and name what to do about faults',
}

SCRIPTS = {'check': 'check_dataset', 'convert': 'convert_checkpoint', 'superpixels': 'superpixel_quality'}
SCRIPTS['mini_dataset'] = 'make_mini_dataset'  # has no verb
"""Verbs whose script in ``tools/`` has another name."""

AFTER_INTERRUPT = {
    'mini_dataset': 'nothing has been written',
    'train': '--resume continues from the last checkpoint, of a folder with the config in WORK_DIR/setup',
    'reproduce': 'downloads and trainings continue where they were when it is repeated',
    'submit': 'finished images are kept, run the same command again to continue',
}


def main() -> NoReturn:
    """Run ``mmvit`` with the process's arguments and end the process."""
    end_process(lambda: run(sys.argv[1:]))


def run(argv: Sequence[str]) -> int:
    """Run ``mmvit`` with these arguments; returns its exit code."""
    verb = argv[0] if argv else ''
    if verb in ('-h', '--help'):
        print('usage: mmvit VERB [ARGUMENTS]\n\nVision transformers for dense prediction. The verbs:\n')
        print('\n'.join(f'  {name:<12} {text}' for name, text in VERBS.items()))
        print('\n`mmvit VERB --help` explains the arguments of a verb, `mmvit --version` prints the version.')
        return 0
    if verb == '--version':
        print(f'mmvit_ext {__version__}')
        return 0
    if verb not in VERBS:
        similar = get_close_matches(verb, VERBS, n=1)
        remedy = f'did you mean {similar[0]}?' if similar else f'expected one of {", ".join(VERBS)}'
        say(f'mmvit: error: {f"there is no verb {verb}" if argv else "no verb is given"}: {remedy}', sys.stderr)
        return EXIT_BAD_INPUT
    return run_verb(verb, argv[1:], f'mmvit {verb}')


def run_tool(verb: str) -> NoReturn:
    """Run a verb as its script in ``tools/`` and end the process."""
    end_process(lambda: run_verb(verb, sys.argv[1:]))


def run_verb(verb: str, argv: Sequence[str], name: str | None = None) -> int:
    """Run a verb of :data:`VERBS` with the arguments behind it; returns the exit code.

    The module of this name has ``add_arguments(parser)`` and ``run(args)``, and its docstring is the help; it is
    imported here and not before. ``name`` is how the command was called, by default as the script in ``tools/``.
    """
    script = SCRIPTS.get(verb, verb)

    def command(words: Sequence[str]) -> int | None:
        try:
            module = importlib.import_module(f'mmvit_ext.cli.{verb}')
        except ModuleNotFoundError as error:
            library = (error.name or '').partition('.')[0]
            if library == 'mmvit_ext':
                raise
            remedy = '`mmvit doctor` says what is missing and how it is installed'
            raise UserError(f'{library} is not installed: {remedy}') from error
        description, _, details = (module.__doc__ or '').partition('\n\n')
        kind = argparse.RawDescriptionHelpFormatter
        parser = Parser(name or f'{script}.py', description=description, epilog=details, formatter_class=kind)
        module.add_arguments(parser)
        args = parser.parse_args(words)
        args.typed = f'{name or f"python tools/{script}.py"} {shlex.join(words)}'
        return module.run(args)

    return run_command(command, argv, name=name or script, after_interrupt=AFTER_INTERRUPT.get(verb, ''))
