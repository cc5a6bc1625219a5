"""The report as one HTML page that needs nothing else: no network, no font, no script."""

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from adarelu_sweep._version import __version__
from adarelu_sweep.reporting.evidence import weigh
from adarelu_sweep.reporting.results import Results
from adarelu_sweep.reporting.sections import sections
from adarelu_sweep.reporting.sentences import findings, state_words


@dataclass(frozen=True)
class Picture:
    """A figure that has been drawn."""

    section: str
    """Key of the section under which it stands."""
    caption: str
    svg: Path


def as_html(results: Results, pictures: Sequence[Picture]) -> str:
    """Return the page; figures are embedded as SVG."""
    environment = Environment(
        loader=PackageLoader("adarelu_sweep.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    evidence = weigh(results)
    return environment.get_template("report.html.jinja").render(
        name=results.name,
        version=__version__,
        notices=state_words(results),
        findings=findings(evidence),
        sections=sections(evidence),
        pictures=pictures,
        embedded=_embedded,
    )


def _embedded(svg: Path) -> str:
    """Return an SVG as an address of itself: as an image it shares no ids with the others."""
    return f"data:image/svg+xml;base64,{b64encode(svg.read_bytes()).decode()}"
