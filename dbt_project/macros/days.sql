{#
  The days to build, as the invocation was told them. DuckDB folds getvariable() before it plans the scan, so only the
  partitions in question are read; that holds for DATE arithmetic only (a cast of the column would read them all).
#}
{% macro in_window(column, before=0, after=0) -%}
    {{ column }} between getvariable('first_day') - {{ before }} and getvariable('last_day') + {{ after }}
{%- endmacro %}

{# Up to this instant (exclusive) the feeds are complete: what has not been reported by then has not happened. #}
{% macro complete_until() -%} getvariable('complete_until') {%- endmacro %}

{# HHMM of a wall clock as the minute of its day; 2400 is midnight at the end of the day: minute 1440. #}
{% macro hhmm_to_minutes(column) -%} ({{ column }} // 100 * 60 + {{ column }} % 100) {%- endmacro %}

{# The minute of the day that a wall clock in `zone` shows at an instant. #}
{% macro local_minute(instant, zone) -%}
    date_part('hour', timezone({{ zone }}, {{ instant }})) * 60 + date_part('minute', timezone({{ zone }}, {{ instant }}))
{%- endmacro %}

{% macro plus_minutes(instant, minutes) -%} {{ instant }} + to_minutes({{ minutes }}::bigint) {%- endmacro %}
