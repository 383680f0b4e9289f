"""SQL reduced to what it means: comments and layout go, quoted text stays, what is not certain stays too."""

from __future__ import annotations

import pytest

from contrail.canonical_code import canonical_sql


@pytest.mark.parametrize(
    "text",
    [
        "SELECT 'it''s -- no  comment'   FROM  t",
        'SELECT "a  --  b"  FROM  t',
        "SELECT 1 /* a /* nested */ one */  FROM t -- end\n",
    ],
)
def test_quotes_are_kept_and_comments_go(text):
    found = canonical_sql(text)
    assert canonical_sql(found) == found
    for quoted in ("'it''s -- no  comment'", '"a  --  b"'):
        assert (quoted in found) == (quoted in text)
    assert "nested" not in found
    assert "-- end" not in found


@pytest.mark.parametrize(
    "text",
    [
        "two  spaces, no query",
        "SELECT 'opened here  and closed elsewhere",
        "SELECT $$a  b$$ FROM t",
        r"SELECT e'a\'  -- b' FROM t",
        "SELECT a /* never closed  FROM t",
        "comes  from somewhere",
        "SELECT a -- what is put behind it is swallowed",
    ],
)
def test_what_is_no_certain_sql_stays_as_it_is(text):
    assert canonical_sql(text) == text
