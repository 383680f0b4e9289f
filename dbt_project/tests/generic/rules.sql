{# Every row keeps a rule; with `mostly`, at least that share of them. `among` names the rows in question (dbt keeps the word where to itself). #}
{% test holds(model, rule, among='true', mostly=1.0) %}
{{ broken(model, 'not coalesce(' ~ rule ~ ', false)', '(' ~ among ~ ') and not is_retracted', mostly) }}
{% endtest %}

{# A column's values are found among those of another table that are not retracted. #}
{% test known_in(model, column, to, field, among='true', mostly=1.0) %}
{%- set unknown -%}
    {{ column }} not in (select {{ field }} from {{ to }} where {{ field }} is not null and not is_retracted and {{ among }})
{%- endset -%}
{{ broken(model, unknown, column ~ ' is not null', mostly) }}
{% endtest %}

{% test never_null(model, columns) %}
select * from {{ model }} where {{ columns | join(' is null or ') }} is null
{% endtest %}

{% test unique_rows(model, key) %}
select {{ key | join(', ') }}, count(*) from {{ model }} group by {{ key | join(', ') }} having count(*) > 1
{% endtest %}

{# One row per key and version. #}
{% test unique_versions(model, key) %}
{%- set columns = (key + ['created_at']) | join(', ') -%}
select {{ columns }}, count(*) from {{ model }} group by {{ columns }} having count(*) > 1
{% endtest %}

{# Nothing was put aside: each row is one violation. #}
{% test not_quarantined(model) %}
select * from {{ model }}
{% endtest %}

{% test distance_matches_position(model, airports, miles) %}
{#- Haversine on a sphere of the earth's mean radius, 3958.8 miles. -#}
with positions as (
    select
        departures.departure_id,
        departures.distance_miles,
        radians(origins.latitude_degrees) as lat1,
        radians(dests.latitude_degrees) as lat2,
        radians(dests.longitude_degrees - origins.longitude_degrees) as dlon
    from {{ model }} as departures
    join {{ airports }} as origins on departures.origin = origins.faa and not origins.is_retracted
    join {{ airports }} as dests on departures.dest = dests.faa and not dests.is_retracted
)
select * from positions
where abs(
    distance_miles
    - 2 * 3958.8 * asin(sqrt(pow(sin((lat2 - lat1) / 2), 2) + cos(lat1) * cos(lat2) * pow(sin(dlon / 2), 2)))
) > {{ miles }}
{% endtest %}
