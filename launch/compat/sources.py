"""A tree of Python sources that is read and never run: an installed package, or a wheel."""

from __future__ import annotations

import ast
import zipfile
from pathlib import Path

Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


class Sources:
    """Modules by dotted name. `root` is a directory that holds the package, or a wheel."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._wheel = zipfile.ZipFile(root) if root.is_file() else None
        self._names = set(self._wheel.namelist()) if self._wheel else set()
        self._modules: dict[str, ast.Module | None] = {}

    def close(self) -> None:
        if self._wheel is not None:
            self._wheel.close()

    def find(self, module: str, name: str) -> tuple[str, ast.stmt] | None:
        """Where `name` of `module` is defined, through re-exports: its module and statement."""
        return self._find(module, name, set())

    def _find(self, module: str, name: str, seen: set[str]) -> tuple[str, ast.stmt] | None:
        tree = self._module(module)
        if tree is None or module in seen:
            return None
        seen.add(module)
        for statement in _top_level(tree.body):
            if name in _defines(statement):
                return module, statement
        # Also those under TYPE_CHECKING and inside functions: a module may import lazily.
        for node in ast.walk(tree):
            if not isinstance(node, ast.ImportFrom):
                continue
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    target = self._target(module, node)
                    if found := self._find(target, alias.name, seen):
                        return found
        return None

    def _target(self, module: str, statement: ast.ImportFrom) -> str:
        """The absolute name of the module that `statement` in `module` imports from."""
        if not statement.level:
            return statement.module or ""
        parts = module.split(".")
        drop = statement.level - (1 if self._is_package(module) else 0)
        base = parts[: len(parts) - drop] if drop else parts
        return ".".join([*base, *([statement.module] if statement.module else [])])

    def _is_package(self, module: str) -> bool:
        return self._has(f"{module.replace('.', '/')}/__init__.py")

    def _module(self, module: str) -> ast.Module | None:
        if module not in self._modules:
            base = module.replace(".", "/")
            path = next((p for p in (f"{base}.py", f"{base}/__init__.py") if self._has(p)), None)
            self._modules[module] = None if path is None else ast.parse(self._read(path))
        return self._modules[module]

    def _has(self, path: str) -> bool:
        return path in self._names if self._wheel else (self._root / path).is_file()

    def _read(self, path: str) -> bytes:
        return self._wheel.read(path) if self._wheel else (self._root / path).read_bytes()


def _top_level(body: list[ast.stmt]) -> list[ast.stmt]:
    """The statements of a module, those under `if` and `try` included."""
    found: list[ast.stmt] = []
    for statement in body:
        found.append(statement)
        if isinstance(statement, ast.If):
            found += _top_level(statement.body) + _top_level(statement.orelse)
        elif isinstance(statement, ast.Try):
            found += _top_level(statement.body)
    return found


def _defines(statement: ast.stmt) -> set[str]:
    if isinstance(statement, Definition):
        return {statement.name}
    if isinstance(statement, ast.Assign):
        return {target.id for target in statement.targets if isinstance(target, ast.Name)}
    if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
        return {statement.target.id}
    return set()


def members(sources: Sources, module: str, class_: ast.ClassDef) -> dict[str, ast.stmt]:
    """Fields, methods, properties and `self.x = …` of a class, those of its bases included."""
    found: dict[str, ast.stmt] = {}
    for base in class_.bases:
        if isinstance(base, ast.Name) and (definition := sources.find(module, base.id)):
            where, statement = definition
            if isinstance(statement, ast.ClassDef) and statement is not class_:
                found |= members(sources, where, statement)
    for statement in class_.body:
        found |= dict.fromkeys(_defines(statement), statement)
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
            for node in ast.walk(statement):
                if isinstance(node, ast.Assign | ast.AnnAssign):
                    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                    for target in targets:
                        if (
                            isinstance(target, ast.Attribute)
                            and isinstance(target.value, ast.Name)
                            and target.value.id == "self"
                        ):
                            found.setdefault(target.attr, node)
    return found


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> set[str]:
    arguments = function.args
    named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    return {argument.arg for argument in named}
