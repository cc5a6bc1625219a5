"""Spoiling files: text by bytes, tokens and values, binary files by bytes and lengths."""

import random
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
STUDIES = [*sorted((ROOT / "studies").glob("*.toml"))]

_TOKEN = re.compile(rb'"[^"\n]*"|[\w.+-]+|[\[\]{}=,#]|\n')
_VALUES = [
    *("0", "-1", "1", "1e308", "1e999", "-0.0", "nan", "inf", "-inf", "true", "false"),
    *("9223372036854775807", "9223372036854775808", "-9223372036854775809", "9" * 400, "9" * 5000),
    *("0x7f", "1_000_000", "1000001", "0.1e-400", "[]", "{}", "[[]]", "[{}]", '""', '"relu"'),
    *("1979-05-27", "1979-05-27T07:32:00Z", "9999-99-99", '"../../etc/passwd"', '"a/b"', '"."'),
    *('"\\u0000"', '"\\uD800"', '"é"', '"' + "x" * 300 + '"', '"os:system"', '"torch.nn:ReLU"'),
    *('"no_such_package:Name"', '":"', '"a:"', '"adarelu_sweep.cli:main.x"', "'''\n'''"),
    *('"%s%n{0}{}"', '"\u202e\u0301"', '"😀"', '"\\n\\r\\t"', '{name="relu"}', '{name=1}'),
    *("{name={name={}}}", "[1, 2, 2]", '["relu", 1, []]', "[" * 60 + "]" * 60),
    "{a=" * 40 + "1" + "}" * 40,
]  # fmt: skip
_KEYS = [
    *("name", "matrix", "dataset", "network", "activation", "seeds", "training", "epochs"),
    *("optimizer", "schedule", "lr", "search", "space", "trials", "sampler", "pruner", "report"),
    *("data", "train_limit", "test_limit", "baseline", "execution", "keep", "stall_timeout"),
    *("__class__", "__init__", "model_config", '""', '"a.b"', '"é"', "a.b.c.d", "x" * 200),
    *("augmentation", "precision", "deterministic", "batch_size", "confirm_seeds", "label"),
]


def spoiled_text(draw: random.Random, content: bytes) -> bytes:
    """Change a TOML file in one to six places."""
    for _ in range(draw.randint(1, 6)):
        content = draw.choice(_TEXT)(draw, content)
    return content


def _bytes(draw: random.Random, content: bytes) -> bytes:
    at = draw.randrange(len(content) + 1)
    length = draw.choice([0, 0, 1, 1, 2, 20])
    return content[:at] + draw.randbytes(draw.choice([0, 1, 1, 3])) + content[at + length :]


def _value(draw: random.Random, content: bytes) -> bytes:
    """Put another value in the place of one."""
    lines = content.split(b"\n")
    places = [index for index, line in enumerate(lines) if b"=" in line]
    if not places:
        return content
    index = draw.choice(places)
    key = lines[index].partition(b"=")[0]
    lines[index] = key + b"= " + draw.choice(_VALUES).encode("utf-8", "surrogatepass")
    return b"\n".join(lines)


def _token(draw: random.Random, content: bytes) -> bytes:
    found = list(_TOKEN.finditer(content))
    if not found:
        return content
    token, other = draw.choice(found), draw.choice(found)
    words = [b"", other[0], other[0] + token[0], draw.choice(_KEYS).encode()]
    words.append(draw.choice(_VALUES).encode("utf-8", "surrogatepass"))
    return content[: token.start()] + draw.choice(words) + content[token.end() :]


def _line(draw: random.Random, content: bytes) -> bytes:
    lines = content.split(b"\n")
    index = draw.randrange(len(lines))
    added = f"{draw.choice(_KEYS)} = {draw.choice(_VALUES)}".encode("utf-8", "surrogatepass")
    table = f"[{draw.choice(_KEYS)}.{draw.choice(_KEYS)}]".encode()
    lines[index : index + draw.choice([0, 0, 1, 3])] = draw.choice(
        [[added], [table], [lines[index]] * 2, [], [table, added], [draw.choice(lines)]]
    )
    return b"\n".join(lines)


def _deep(draw: random.Random, content: bytes) -> bytes:
    depth = draw.choice([10, 100, 1000, 5000])
    inner = draw.choice([("[", "]"), ("{a=", "}"), ("[{a=", "}]")])
    return content + f"\n[deep]\nx = {inner[0] * depth}1{inner[1] * depth}\n".encode()


_GOOD = [
    *("training.epochs=3", "matrix.seeds=2", "training.optimizer.lr=0.1", "matrix.activation=relu"),
    *("matrix.network.0=resnet18", "matrix.seeds=[5, 6]", "data.train_limit=100", "name=other"),
    *('matrix.activation={name="elu", alpha=0.5}', "training.batch_size=1", "report.threshold=50"),
    *("matrix.dataset=digits", "execution.keep=best", "training.schedule=cosine"),
]
_TEXT = [_bytes, _value, _value, _value, _token, _token, _line, _line, _deep]


def override(draw: random.Random) -> str:
    """Return something for ``--set``: a dotted key, or what looks a little like one."""
    if draw.random() < 0.5:
        good = draw.choice(_GOOD)
        return good if draw.random() < 0.5 else good.partition("=")[0] + "=" + draw.choice(_VALUES)
    sections = ("matrix", "training", "search", "data", "report", "execution", "training.optimizer")
    parts = [draw.choice(sections), draw.choice(_KEYS), draw.choice([*_KEYS, "0", "-1", "1" * 12])]
    key = ".".join(parts[: draw.randint(1, 3)])
    text = f"{key}{draw.choice(['=', '=', '=', '==', '', ' = '])}{draw.choice(_VALUES)}"
    if draw.random() < 0.3:
        at = draw.randrange(len(text) + 1)
        text = text[:at] + draw.choice(["\0", "\n", "é", "\udcff", ".", "=", "[", '"']) + text[at:]
    return text


def spoiled_bytes(draw: random.Random, content: bytes) -> bytes:
    """Change a binary file in one to four places, or cut it."""
    data = bytearray(content)
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(data)) if data else 0
        # Headers and directories, at both ends, are where most depends on a byte.
        if data and draw.random() < 0.5:
            at = min(len(data) - 1, draw.choice([at % 64, len(data) - 1 - at % 400]) % len(data))
        match draw.randrange(6):
            case 0:
                data[at : at + 1] = draw.randbytes(1)
            case 1:
                data[at : at + 4] = draw.choice([b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff"])
            case 2:
                del data[at : at + draw.choice([1, 2, 8, 1000])]
            case 3:
                data[at:at] = draw.randbytes(draw.choice([1, 4, 64]))
            case 4:
                del data[at:]
            case _:
                digits = [i for i, byte in enumerate(data[:2000]) if 48 <= byte < 58]
                if digits:
                    data[draw.choice(digits)] = draw.choice(b"0123456789-e,")
    return bytes(data)
