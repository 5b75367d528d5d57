"""Hooks of mkdocs: the repository's files that the pages link to become part of the site, and docstrings Markdown."""

import posixpath
import re
from pathlib import Path

import griffe
from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
LINK = re.compile(r'\]\(((?:\.\./)+[^)#\s]+)')
ZOO = re.compile(r'configs/(\w+)/README\.md')


def on_config(config):
    """List the pages of ``configs/`` behind those of the model zoo."""
    (pages,) = (section['Model zoo'] for section in config['nav'] if 'Model zoo' in section)
    pages += [f'zoo/{readme.parent.name}.md' for readme in sorted((ROOT / 'configs').glob('*/README.md'))]


def on_files(files, config):
    """Add the READMEs of ``configs/`` as pages, and every file outside of ``docs/`` that a page links to."""
    for readme in sorted((ROOT / 'configs').glob('*/README.md')):
        text = _links_from(readme.read_text(), f'configs/{readme.parent.name}')
        files.append(File.generated(config, f'zoo/{readme.parent.name}.md', content=text))
    for page in list(files.documentation_pages()):
        for link in LINK.findall(page.content_string):
            target = _target(page.src_uri, link)
            if target and not ZOO.fullmatch(target) and files.get_file_from_path(f'files/{target}') is None:
                content = (ROOT / target).read_bytes()
                files.append(File.generated(config, f'files/{target}', content=content))
    return files


def on_page_markdown(markdown, page, **_):
    """Point links that leave ``docs/`` to the copies in the site."""

    def replaced(match):
        target = _target(page.file.src_uri, match[1])
        if target is None:
            return match[0]
        zoo = ZOO.fullmatch(target)
        here = posixpath.dirname(page.file.src_uri)
        return '](' + posixpath.relpath(f'zoo/{zoo[1]}.md' if zoo else f'files/{target}', here or '.')

    return LINK.sub(replaced, markdown)


def _links_from(text, folder):
    """The text of a page of ``folder`` with its relative links as a page of ``docs/zoo/`` writes them."""

    def replaced(match):
        target = posixpath.normpath(posixpath.join(folder, match[1]))
        return '](' + (f'../{target[5:]}' if target.startswith('docs/') else f'../../{target}')

    return re.sub(r'\]\((?!\w+:|#)([^)#\s]+)', replaced, text)


def _target(src_uri, link):
    """Path of a link below the repository's root, None if it stays in ``docs/`` or names no file."""
    path = posixpath.normpath(posixpath.join('docs', posixpath.dirname(src_uri), link))
    return None if path.startswith(('docs/', '..')) or not (ROOT / path).is_file() else path


class PlainMarkup(griffe.Extension):
    """Turns what docstrings write in reStructuredText into Markdown: roles, and display formulas as code blocks."""

    def on_object(self, *, obj, **_):
        """Rewrite the docstring of a module, class or function."""
        if obj.docstring is None:
            return
        text = re.sub(r':\w+:`~?([^`]+)`', lambda match: f'`{match[1].rpartition(".")[2]}`', obj.docstring.value)
        lines, block = [], None
        for line in text.split('\n'):
            indent = len(line) - len(line.lstrip())
            start = re.fullmatch(r'(\s*)\.\. math::\s*(.*)', line)
            if start:
                block = indent
                lines += [line[:indent] + '```tex', *([line[:indent] + start[2]] if start[2] else [])]
            elif block is not None and line.strip() and indent <= block:
                while not lines[-1].strip():
                    lines.pop()
                lines += [' ' * block + '```', '', line]
                block = None
            else:
                lines.append(line[4:] if block is not None and line.strip() else line)
        if block is not None:
            lines.append(' ' * block + '```')
        obj.docstring.value = '\n'.join(
            line for n, line in enumerate(lines) if line.strip() or lines[n - 1] != '```tex'
        )
