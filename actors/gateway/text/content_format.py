"""Whether a chat template wants a message's content as a string or as a list of parts.

Templates do not say it. As in vLLM, one that loops over a message's content wants parts.
"""

from __future__ import annotations

from collections.abc import Iterator

from jinja2 import nodes


def wants_parts(template: nodes.Template) -> bool:
    """True if the template has a loop over the content of one of the `messages`.

    Scopes are ignored: a name that means a message somewhere means it everywhere.
    """
    bindings = list(_bindings(template))
    lists, messages, contents = {"messages"}, set[str](), set[str]()
    size = 0
    while size != (size := len(lists) + len(messages) + len(contents)):
        for name, value in bindings:
            if _names_one_of(value, lists):
                lists.add(name)
            if _names_one_of(value, messages):
                messages.add(name)
            if _is_content(value, messages, contents):
                contents.add(name)
        for loop in template.find_all(nodes.For):
            if isinstance(loop.target, nodes.Name) and _names_one_of(loop.iter, lists):
                messages.add(loop.target.name)
    return any(_is_content(loop.iter, messages, contents) for loop in template.find_all(nodes.For))


def _bindings(template: nodes.Template) -> Iterator[tuple[str, nodes.Node]]:
    """Every (name, value) that a `set` or a call of one of the template's macros makes."""
    for assignment in template.find_all(nodes.Assign):
        if isinstance(assignment.target, nodes.Name):
            yield assignment.target.name, assignment.node
    macros = {macro.name: macro for macro in template.find_all(nodes.Macro)}
    for call in template.find_all(nodes.Call):
        if isinstance(call.node, nodes.Name) and call.node.name in macros:
            parameters = [parameter.name for parameter in macros[call.node.name].args]
            yield from zip(parameters, call.args, strict=False)
            yield from ((keyword.key, keyword.value) for keyword in call.kwargs)


def _is_content(node: nodes.Node, messages: set[str], contents: set[str]) -> bool:
    """`message.content`, `message["content"]`, or a name for it."""
    node = _unwrapped(node)
    if isinstance(node, nodes.CondExpr):
        branches = [node.expr1] if node.expr2 is None else [node.expr1, node.expr2]
        return any(_is_content(branch, messages, contents) for branch in branches)
    if isinstance(node, nodes.Getattr):
        return node.attr == "content" and _names_one_of(node.node, messages)
    if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Const):
        return node.arg.value == "content" and _names_one_of(node.node, messages)
    return _names_one_of(node, contents)


def _names_one_of(node: nodes.Node, names: set[str]) -> bool:
    node = _unwrapped(node)
    return isinstance(node, nodes.Name) and node.name in names


def _unwrapped(node: nodes.Node) -> nodes.Node:
    """Without filters, tests and slices: what they are applied to."""
    while True:
        match node:
            case nodes.Filter(node=nodes.Expr() as inner) | nodes.Test(node=inner):
                node = inner
            case nodes.Getitem(node=inner, arg=nodes.Slice()):
                node = inner
            case _:
                return node
