"""Signatures read from source files, so that names and options are checked without importing torch or Ray."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from inspect import Parameter, Signature
from pathlib import Path
from typing import Any

Find = Callable[[str], Path | None]
"""Returns the source file of a module; None where there is none."""


@dataclass(frozen=True)
class Described:
    """A class or function as its users see it.

    Attributes:
        signature: its parameters, without `self`.
        about: the first line of its docstring; empty without one.
    """

    signature: Signature
    about: str


def described(thing: Any) -> Described:
    """Describe a class or function.

    Raises:
        TypeError, ValueError: Python knows no signature of it.
    """
    return Described(inspect.signature(thing), _first_line(inspect.getdoc(thing)))


def read(module: str, attribute: str, find: Find) -> Described | None:
    """Describe a class or function of a module from the module's file, without running it.

    Returns:
        None where the source alone does not tell: no such definition, decorators, an inherited `__init__`, or a default
        that is neither a literal nor a constant.
    """
    tree = _parsed(find(module))
    definitions = [node for node in tree.body if getattr(node, "name", None) == attribute]
    node = definitions[0] if len(definitions) == 1 else None
    if not isinstance(node, (ast.ClassDef, ast.FunctionDef)) or node.decorator_list:
        return None
    if isinstance(node, ast.ClassDef) and not _makers(node) and not node.bases and not node.keywords:
        return Described(Signature(), _first_line(ast.get_docstring(node)))
    function = _maker(node) if isinstance(node, ast.ClassDef) else node
    if function is None:
        return None
    try:
        parameters = _parameters(function.args, tree, find)
    except ValueError:
        return None
    return Described(
        Signature(parameters[1:] if isinstance(node, ast.ClassDef) else parameters),
        _first_line(ast.get_docstring(node)),
    )


def _first_line(text: str | None) -> str:
    return (text or "").partition("\n")[0]


def _parsed(file: Path | None) -> ast.Module:
    """Parse the module in a file; an empty one if it cannot be read."""
    try:
        return ast.parse(file.read_bytes() if file else b"")
    except (OSError, SyntaxError, ValueError):
        return ast.Module([], [])


def _makers(node: ast.ClassDef) -> list[ast.stmt]:
    return [item for item in node.body if getattr(item, "name", None) in ("__init__", "__new__")]


def _maker(node: ast.ClassDef) -> ast.FunctionDef | None:
    """Return the `__init__` of a class, if it alone defines what the class takes."""
    makers = _makers(node)
    maker = makers[0] if len(makers) == 1 and not node.keywords else None
    return maker if isinstance(maker, ast.FunctionDef) and not maker.decorator_list else None


def _parameters(arguments: ast.arguments, tree: ast.Module, find: Find) -> list[Parameter]:
    """Return the parameters of a definition. Raises ValueError if a default cannot be read."""
    positional = [*arguments.posonlyargs, *arguments.args]
    defaults: list[ast.expr | None] = [None] * (len(positional) - len(arguments.defaults))
    parameters = [
        _parameter(
            argument,
            Parameter.POSITIONAL_ONLY if argument in arguments.posonlyargs else Parameter.POSITIONAL_OR_KEYWORD,
            default,
            tree,
            find,
        )
        for argument, default in zip(positional, [*defaults, *arguments.defaults], strict=True)
    ]
    if arguments.vararg is not None:
        parameters.append(Parameter(arguments.vararg.arg, Parameter.VAR_POSITIONAL))
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        parameters.append(_parameter(argument, Parameter.KEYWORD_ONLY, default, tree, find))
    if arguments.kwarg is not None:
        parameters.append(Parameter(arguments.kwarg.arg, Parameter.VAR_KEYWORD))
    return parameters


def _parameter(argument: ast.arg, kind: Any, default: ast.expr | None, tree: ast.Module, find: Find) -> Parameter:
    if default is None:
        return Parameter(argument.arg, kind)
    value = _constant(default.id, tree, find) if isinstance(default, ast.Name) else ast.literal_eval(default)
    return Parameter(argument.arg, kind, default=value)


def _constant(name: str, tree: ast.Module, find: Find) -> Any:
    """Return the literal that a module assigns to a name, or imports. Raises ValueError for anything else."""
    bound: list[ast.expr | None] = []
    for node in tree.body:
        if isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            bound += [node.value for target in targets if isinstance(target, ast.Name) and target.id == name]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return _constant(alias.name, _parsed(find(node.module)), find)
    if len(bound) != 1 or bound[0] is None:
        raise ValueError(name)
    return ast.literal_eval(bound[0])
