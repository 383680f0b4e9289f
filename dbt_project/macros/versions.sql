{#
  Raw rows come in versions: created_at is when a version became known. A row that came on its feed's regular time
  has created_at = known_at; a late file, a replacement or a correction comes later.
#}
{% macro is_regular() -%} (created_at = known_at and not is_retracted) {%- endmacro %}

{#
  For each version of an entity the newest version of each of its facts: what came regularly counts for every version,
  anything else from its created_at on. Newest is by created_at; of two at once the one that retracts gives way.

  facts: relation with the key, is_regular, created_at, is_retracted, _raw_id
  versions: relation with the key and version_at ('-infinity' is the version of the regular facts alone)
  more_keys: what tells several facts of one entity apart
#}
{% macro newest_facts(facts, versions, key, more_keys=[]) -%}
    select versions.version_at, facts.*
    from {{ versions }} as versions
    join {{ facts }} as facts using ({{ key | join(', ') }})
    where facts.is_regular or facts.created_at <= versions.version_at
    qualify row_number() over (
        partition by {{ (key + more_keys) | join(', ') }}, version_at
        order by facts.created_at desc, facts.is_retracted, facts._raw_id desc
    ) = 1
{%- endmacro %}

{#
  Of the versions of each key, in the order of created_at, those that say something new: a version equal to the one
  before it in all but created_at and provenance (columns that begin with _) is left out, and so is the retraction of
  what was never there. Nearly all keys have one version, and are let through without being ordered.
#}
{% macro new_versions(relation, key) -%}
    {%- set key_columns = key | join(', ') -%}
    with repeated as (
        select {{ key_columns }} from {{ relation }} group by {{ key_columns }} having count(*) > 1
    ),
    ordered as (
        select *, row(*columns(c -> c[1] <> '_' and c <> 'created_at')) as _content
        from {{ relation }} semi join repeated using ({{ key_columns }})
        qualify row_number() over (partition by {{ key_columns }}, created_at order by is_retracted, _content desc) = 1
    )
    select * from {{ relation }} anti join repeated using ({{ key_columns }})
    where not is_retracted
    union all
    select * exclude (_content)
    from ordered
    window versions as (partition by {{ key_columns }} order by created_at)
    qualify not (is_retracted and coalesce(lag(is_retracted) over versions, true))
        and _content is distinct from lag(_content) over versions
{%- endmacro %}

{# The newest version of each key, without those that were retracted. #}
{% macro newest_rows(relation, key) -%}
    select * from (
        select * from {{ relation }}
        qualify row_number() over (partition by {{ key | join(', ') }} order by created_at desc) = 1
    ) where not is_retracted
{%- endmacro %}
