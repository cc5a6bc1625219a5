"""From a study file and overrides to a valid study, or to one clear line about what is wrong."""

import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from adarelu_sweep.components import Component, shorten, unknown
from adarelu_sweep.errors import UserError
from adarelu_sweep.studies.overrides import apply_overrides
from adarelu_sweep.studies.schema import SAFE_NAME, Study

_LONGEST = 200  # characters of a word in a message


def read_study(path: Path, overrides: Iterable[str] = (), name: str | None = None) -> Study:
    """Read, override and validate a study file; raise UserError naming the file and the key."""
    document = _load(path)
    apply_overrides(document, overrides)
    if name is not None:
        document["name"] = name
    return _validated(path, document)


def study_of(document: dict[str, Any], where: str) -> Study:
    """Validate what a file might say; raise UserError naming the key and ``where`` it stands."""
    return _validated(where, document)


def restudy(study: Study, overrides: Iterable[str]) -> Study:
    """Override fields of a study and validate it anew; raise UserError naming the key."""
    document = _document(study)
    apply_overrides(document, overrides)
    return _validated(f"study {study.name!r}", document)


def _document(value: Any) -> Any:
    """Return settings as a study file has them: tables, lists, and values."""
    if isinstance(value, Component):
        return value.flattened()
    if isinstance(value, BaseModel):
        fields = {name: getattr(value, name) for name in type(value).model_fields}
        return {name: _document(field) for name, field in fields.items() if field is not None}
    if isinstance(value, dict):
        return {key: _document(inner) for key, inner in value.items()}
    return [_document(inner) for inner in value] if isinstance(value, list) else value


def _validated(where: Path | str, document: dict[str, Any]) -> Study:
    _refuse_huge_integers(where, document)
    try:
        return Study.model_validate(document)
    except ValidationError as error:
        raise _wrong(where, _first_problem(error)) from None


def _load(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_bytes().decode("utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such study file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a text file in UTF-8; a study file is TOML") from None
    except RecursionError:
        raise UserError(f"{path}: not valid TOML: nested too deeply") from None
    except (tomllib.TOMLDecodeError, ValueError) as error:  # ValueError: a date out of range
        raise UserError(f"{path}: not valid TOML: {error}") from None


def _refuse_huge_integers(where: Path | str, document: dict[str, Any]) -> None:
    """Raise UserError for integers of more than 64 bits, which TOML lacks but Python reads."""
    pending: list[tuple[str, Any]] = list(document.items())
    while pending:
        key, value = pending.pop()
        if isinstance(value, dict):
            pending += [(f"{key}.{name}", inner) for name, inner in value.items()]
        elif isinstance(value, list):
            pending += [(f"{key}.{index}", inner) for index, inner in enumerate(value)]
        elif isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise _wrong(where, f"{key}: an integer of more than 64 bits; give a smaller one")


def _wrong(where: Path | str, message: str) -> UserError:
    """Return an error of one line, whatever the message quotes: a key may be of any length."""
    words = (word if len(word) <= _LONGEST else f"{word[:_LONGEST]}..." for word in message.split())
    return UserError(f"{where}: {' '.join(words)}")


def _first_problem(error: ValidationError) -> str:
    """Return the first problem as ``KEY: MESSAGE (and 2 more)``.

    Unknown keys come first: a misspelt one is the reason why the right one is missing.
    """
    problems = sorted(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
    problem = problems[0]
    location = [part for part in problem["loc"][:-1] if not _is_internal(part)]
    if not problem["loc"]:  # of the study as a whole: it names its keys itself
        return problem["msg"].removeprefix("Value error, ")
    last = problem["loc"][-1]
    if problem["type"] == "extra_forbidden" or not _is_internal(last):
        location.append(last)
    key = ".".join(str(part) for part in location)
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        message = unknown("key", str(last), _fields_at(location[:-1]))
    elif problem["type"] == "missing":
        message = "is missing: add it to the study file"
    elif problem["type"] == "string_pattern_mismatch" and SAFE_NAME in str(problem.get("ctx")):
        message = (
            f"{shorten(problem['input'])} is not a usable name: letters, digits, '.', '_' and '-', "
            "100 at most, the first a letter or digit"
        )
    elif problem["type"] == "model_type":
        message = f"{shorten(problem['input'])} is not a table: give one, as in [{key}]"
    elif not problem["msg"].startswith("Value error"):
        message = f"{shorten(problem['input'])}: {message[0].lower()}{message[1:]}"
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"{key}: {message}{more}"


def _is_internal(part: int | str) -> bool:
    """Pydantic puts the branch of a union or function into a location; a user never wrote it."""
    return isinstance(part, str) and ("[" in part or "-" in part)


def _fields_at(location: Sequence[int | str]) -> list[str]:
    """Return the known keys of the table at a location of the study file."""
    model: type[BaseModel] = Study
    for part in location:
        if part not in model.model_fields:  # a key of a mapping
            continue
        annotation = model.model_fields[str(part)].annotation
        options = [annotation, *get_args(annotation)]
        model = next(o for o in options if isinstance(o, type) and issubclass(o, BaseModel))
    return list(model.model_fields)
