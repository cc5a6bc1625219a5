"""The report's folder: written aside and swapped in whole."""

import re
import shutil
import time
from contextlib import suppress
from errno import EEXIST, ENOTEMPTY
from pathlib import Path
from uuid import uuid4

from adarelu_sweep.errors import UserError
from adarelu_sweep.reporting import render
from adarelu_sweep.reporting.document import as_json
from adarelu_sweep.reporting.evidence import weigh
from adarelu_sweep.reporting.formats import as_csv, as_markdown
from adarelu_sweep.reporting.page import Picture, as_html
from adarelu_sweep.reporting.results import Results
from adarelu_sweep.reporting.sections import sections

_STALE = 3600.0  # seconds
_CONTENTS = {"report.html", "report.md", "report.json", "report.csv", "tables", "figures"}


def refuse_other_content(folder: Path) -> None:
    """Raise UserError where a folder holds anything but an earlier report, or is a file."""
    if not folder.exists():
        return
    held = {path.name for path in folder.iterdir()} if folder.is_dir() else {folder.name}
    if held and not (held <= _CONTENTS and "report.json" in held):
        raise UserError(
            f"{folder} holds something that is not an earlier report: give another --output, "
            "or move it away"
        )


def write_report(results: Results, folder: Path, figures: bool = True) -> None:
    """Write the report into a folder of its own, in place of an earlier one.

    ``report.html``, ``report.md``, ``report.json``, ``report.csv``, ``tables/``, and ``figures/``
    unless only text is wanted. After a kill the old or the new report stands there, or none.
    Raises UserError where the folder holds something else or cannot be written.
    """
    folder = folder.resolve()
    if not folder.name:
        raise UserError(f"{folder}: a report needs a folder of its own; give another --output")
    aside = folder.with_name(f".{folder.name}.{uuid4().hex}")
    try:
        refuse_other_content(folder)
        aside.mkdir(parents=True)
        _write(results, aside, figures)
        _swap(aside, folder)
    except OSError as error:
        raise UserError(
            f"{folder}: the report cannot be written ({error.strerror}); give another --output"
        ) from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    _clear_stale(folder)


def _clear_stale(folder: Path) -> None:
    """Remove what killed writers of the same report left beside it; no writer takes an hour."""
    left = re.compile(re.escape(f".{folder.name}.") + r"[0-9a-f]{32}(\.old)?")
    with suppress(OSError):  # what another writer clears at the same time
        for path in folder.parent.iterdir():
            if left.fullmatch(path.name) and path.stat().st_mtime < time.time() - _STALE:
                shutil.rmtree(path, ignore_errors=True)


def _write(results: Results, folder: Path, figures: bool) -> None:
    tables = folder / "tables"
    tables.mkdir()
    for section in sections(weigh(results)):
        for table in section.tables:
            for ending, text in [
                ("md", render.as_markdown(table)),
                ("tex", render.as_latex(table)),
                ("csv", render.as_csv(table)),
            ]:
                (tables / f"{table.key}.{ending}").write_text(text, encoding="utf-8")
    pictures = _draw(results, folder / "figures") if figures else []
    links: dict[str, list[tuple[str, str]]] = {}
    for picture in pictures:
        path = f"figures/{picture.svg.with_suffix('.png').name}"
        links.setdefault(picture.section, []).append((picture.caption, path))
    for name, text in [
        ("report.html", as_html(results, pictures)),
        ("report.md", as_markdown(results, links)),
        ("report.csv", as_csv(results)),
        ("report.json", as_json(results)),
    ]:
        (folder / name).write_text(text, encoding="utf-8")


def _draw(results: Results, folder: Path) -> list[Picture]:
    # matplotlib takes its time; a report of text alone does without.
    from adarelu_sweep.drawing import DRAWING
    from adarelu_sweep.reporting.drawing import save
    from adarelu_sweep.reporting.illustrations import illustrations

    folder.mkdir()
    pictures = []
    for illustration in illustrations(weigh(results)):
        with DRAWING:
            save(illustration.draw(), folder, illustration.name)
        svg = folder / f"{illustration.name}.svg"
        pictures.append(Picture(illustration.section, illustration.caption, svg))
    return pictures


def _swap(aside: Path, folder: Path) -> None:
    """Put the new report in the place of the old one, though another process may do the same."""
    old = aside.with_name(f"{aside.name}.old")
    try:
        while True:
            with suppress(FileNotFoundError):
                folder.rename(old)
            try:
                aside.rename(folder)
                return
            except OSError as error:
                if error.errno not in {EEXIST, ENOTEMPTY}:
                    raise
                shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(old, ignore_errors=True)
