"""A dbt model as one SELECT, without dbt: for sessions that apply a model's rules to rows that are in memory only.

There is one source of what a clean row is, the model's own text. Rendering it takes the part of dbt's language that
plain Jinja understands: the project's macros, `ref`, `source`, `config`. Anything else in a model is an error that
names it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_MACRO = re.compile(r"\{%-?\s*macro\b.*?\{%-?\s*endmacro\s*-?%\}", re.DOTALL)


class DbtSqlError(ValueError):
    """A model cannot be rendered; the message names the model and what is in the way."""


def model_sql(project: Path, model: str, tables: Mapping[str, str]) -> str:
    """The SELECT of a model.

    Args:
        project: the dbt project's folder, with ``models/`` and ``macros/``.
        model: the model's name, which is that of its file.
        tables: what stands for what it reads: a source as ``source/table``, a model by its name, to a FROM item. A
            model that is not named here stands there as its own SELECT.

    Returns:
        SQL that reads nothing but `tables`; variables of the session that the project's macros read are left in it.

    Raises:
        DbtSqlError: there is no such model, a source is not in `tables`, or it uses what only dbt knows.
    """
    from jinja2 import Environment, StrictUndefined, TemplateError  # only who renders pays for it

    texts = [path.read_text(encoding="utf-8") for path in sorted((project / "macros").rglob("*.sql"))]
    macros = "".join(macro for text in texts for macro in _MACRO.findall(text))
    # SQL, not HTML: there is nothing to escape.
    environment = Environment(undefined=StrictUndefined, extensions=["jinja2.ext.do"], autoescape=False)  # nosec B701

    def source(name: str, table: str) -> str:
        if f"{name}/{table}" not in tables:
            raise DbtSqlError(f"model {model}: nothing stands for the source {name}/{table}")
        return tables[f"{name}/{table}"]

    def ref(name: str) -> str:
        return tables.get(name) or f"(\n{render(name)}\n)"

    def config(**_settings: Any) -> str:
        return ""

    def render(name: str) -> str:
        paths = sorted((project / "models").rglob(f"{name}.sql"))
        if len(paths) != 1:
            raise DbtSqlError(f"there are {len(paths)} files {name}.sql in {project / 'models'}, not one")
        try:
            template = environment.from_string(macros + paths[0].read_text(encoding="utf-8"))
            return template.render(ref=ref, source=source, config=config).strip()
        except TemplateError as error:
            raise DbtSqlError(f"model {name} uses what only dbt itself can render: {error}") from error

    return render(model)
