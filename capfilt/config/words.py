"""What the source says about a section's fields, for the generated page and for editors; knows no section by name."""

import ast
import inspect

from pydantic import BaseModel


def words_of(section: type[BaseModel]) -> dict[str, str]:
    """Field name -> what the source says about it: the text below the field, else the comment behind it.

    A `kind` needs none: it chooses among the sections that may stand in one place.
    """
    words: dict[str, str] = {}
    for owner in reversed(section.__mro__):
        if not issubclass(owner, BaseModel) or owner.__module__.startswith("pydantic"):
            continue
        source = inspect.getsource(owner)
        lines = source.splitlines()
        body = ast.parse(source).body[0]
        assert isinstance(body, ast.ClassDef)
        for node, following in zip(body.body, [*body.body[1:], None], strict=True):
            if not (isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)):
                continue
            text = ""
            if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
                text = str(following.value.value)
            elif node.end_lineno is not None and node.end_col_offset is not None:
                text = lines[node.end_lineno - 1].encode()[node.end_col_offset :].decode().partition("#")[2]
            words[node.target.id] = " ".join(text.split()) or ("chooses this section" if node.target.id == "kind" else "")
    return words
