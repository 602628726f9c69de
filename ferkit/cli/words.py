"""A parser that says what is wrong with the words of a command in one line, as every other error is said."""

from __future__ import annotations

import re
import textwrap
from typing import NoReturn

import jsonargparse

__all__ = ["ArgumentParser"]


class ArgumentParser(jsonargparse.ArgumentParser):
    """jsonargparse's, whose errors are a ValueError of one line in place of forty and an exit."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        parser = getattr(ex, "subcommand_parser", None) or self
        if type(ex) is KeyError:  # what jsonargparse makes of an unknown key of a file, whose name it drops
            message = "config: expected options of the command, got a file with others"
        command = parser.prog.replace(" [options]", "")
        raise ValueError(f"{_one_line(message)} (options: {command} --help)") from ex


def _one_line(message: str) -> str:
    """The argument, what was expected and what came, where the message has them; else its words.

    >>> _one_line('Parser key "epochs":\\n  Expected a <class \\'int\\'>. Got value: 1.5')
    "epochs: expected int, got '1.5'"
    """
    key = re.match(r'Parser key "([^"]+)":', message)
    wanted = re.findall(r"Expected an? (.+?)(?:\. Got value|\n|$)", message)
    got = re.search(r"(?:Got|Given) value: (.*)", message)
    if key is None or not wanted or got is None:
        return textwrap.shorten(re.sub(r'^Parser key "([^"]+)"', r"\1", message), 300, placeholder=" ...")
    kinds = [_plain(kind) for kind in wanted if "NoneType" not in kind]
    return f"{key[1]}: expected {' or '.join(kinds)}, got {got[1]!r}"


def _plain(kind: str) -> str:
    if choices := re.fullmatch(r"typing\.Literal\[(.*)\]", kind):
        return f"one of {choices[1]}"
    name = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", kind)
    return {"list": "a list such as [a, b]", "str": "text (numbers, yes and no in quotes: \"['0', 'no']\")"}.get(
        name, name
    )
