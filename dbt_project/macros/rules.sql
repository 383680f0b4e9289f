{# The rows that meet `condition` among those in question, or none while no more than 1 - mostly of them do. #}
{% macro broken(relation, condition, among, mostly) -%}
select * from {{ relation }}
where {{ among }} and {{ condition }}
{%- if mostly < 1 %} and (
    select count(*) filter (where {{ condition }}) > {{ 1 - mostly }} * count(*) from {{ relation }} where {{ among }}
) {%- endif %}
{%- endmacro %}

{# dbt's hook into generic tests: a test of a model with a day column looks at the days of this build only. #}
{% macro get_where_subquery(relation) -%}
    {%- set tested = graph.nodes.get(model.attached_node) if execute and model.attached_node is defined -%}
    {%- set day = tested.config.partition_by if tested -%}
    {%- set where = config.get('where') or (in_window(day) if day) -%}
    {%- if where -%} (select * from {{ relation }} where {{ where }}) {%- else -%} {{ relation }} {%- endif -%}
{%- endmacro %}
