"""What a function may write and name, read from its bytecode."""

import functools
import opcode
import sys
import sysconfig
from types import CodeType
from typing import Any

# Names in a code that writes more than its own variables.
_WRITING = {"append", "appendleft", "extend", "insert", "pop", "popleft", "popitem", "remove"}
_WRITING |= {"clear", "update", "setdefault", "add", "discard", "rotate", "sort", "reverse"}
_WRITING |= {"set", "reset", "send", "next", "setattr", "delattr", "exec", "eval", "vars"}
_WRITING |= {"globals", "__dict__", "data", "out", "fill", "put", "place", "copyto", "step"}
_WRITING |= {"backward", "train", "set_default_dtype", "shuffle", "partial_fit", "heappush"}
_WRITING |= {"heappop", "put_nowait", "get_nowait", "random", "generator", "write"}

_STORES = {
    opcode.opmap[name]
    for name in ("STORE_ATTR", "STORE_GLOBAL", "STORE_DEREF", "STORE_SUBSCR", "STORE_SLICE")
    if name in opcode.opmap
} | {opcode.opmap[name] for name in ("DELETE_ATTR", "DELETE_GLOBAL", "DELETE_SUBSCR")}
_OPERATION = opcode.opmap["BINARY_OP"]
# Arguments of BINARY_OP from here on are updates in place, such as `x += y`.
_IN_PLACE = 13

_STANDARD = sysconfig.get_path("stdlib")


@functools.lru_cache(maxsize=4096)
def writes(code: CodeType) -> bool:
    """True if a code may write more than its own variables. An update in place, as of `x += y`, may
    be of a tensor that others hold."""
    named = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType) and writes(constant):
            return True
        if isinstance(constant, tuple):  # names of keyword arguments
            named.update(one for one in constant if isinstance(one, str))
    if any(name in _WRITING or (name[-1:] == "_" and name[:1] != "_") for name in named):
        return True
    instructions = code.co_code
    return any(
        instructions[place] in _STORES
        or (instructions[place] == _OPERATION and _IN_PLACE <= instructions[place + 1] < 26)
        for place in range(0, len(instructions), 2)
    )


@functools.lru_cache(maxsize=4096)
def names_in(code: CodeType) -> frozenset[str]:
    """Globals and attributes that a code names, and the functions that are defined inside of it."""
    inner = (part for part in code.co_consts if isinstance(part, CodeType))
    return frozenset(code.co_names).union(*map(names_in, inner))


def is_of_user(one: Any) -> bool:
    """True for a function or a class of a person: neither installed, nor of Python, nor ours."""
    module = getattr(one, "__module__", None)
    return is_user_module(module if isinstance(module, str) else "builtins")


@functools.cache
def is_user_module(name: str) -> bool:
    """True for the name of a module that a person wrote."""
    top = name.partition(".")[0]
    if top in {"gradiometer", "gradiometer_lab"} or top in sys.builtin_module_names:
        return False
    file = getattr(sys.modules.get(name), "__file__", None) or ""
    installed = "site-packages" in file or "dist-packages" in file
    return not installed and not file.startswith(_STANDARD)
