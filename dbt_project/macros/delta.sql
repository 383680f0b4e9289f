{# The schema is the stage's name, without the target's schema in front of it. #}
{% macro generate_schema_name(custom_schema_name, node) -%}
    {{ return(custom_schema_name or target.schema) }}
{%- endmacro %}

{# The lake's tables that a model reads, directly or through models that are not stored (`stage/name`, repeats allowed). #}
{% macro lake_inputs(node) %}
    {%- set found = [] -%}
    {%- for id in node.depends_on.nodes -%}
        {%- if id in graph.sources -%}
            {%- do found.append(graph.sources[id].schema ~ '/' ~ graph.sources[id].identifier) -%}
        {%- elif graph.nodes[id].config.materialized == 'delta' -%}
            {%- do found.append(graph.nodes[id].schema ~ '/' ~ graph.nodes[id].alias) -%}
        {%- else -%}
            {%- do found.extend(lake_inputs(graph.nodes[id])) -%}
        {%- endif -%}
    {%- endfor -%}
    {{ return(found) }}
{% endmacro %}

{#
  A model stored as a Delta table of the lake. With the config `partition_by` (a DATE column) it holds the days
  first_day..last_day and replaces exactly those; without, it replaces the whole table.
#}
{% materialization delta, adapter="duckdb", supported_languages=['sql'] %}
    {%- set table = this.schema ~ '/' ~ this.identifier -%}
    {%- set staged = make_intermediate_relation(this.incorporate(type='table'), suffix='__staged') -%}
    {%- set personal = [] -%}
    {%- for column in model.columns.values() if column.meta.get('personal') -%}
        {%- do personal.append(column.name) -%}
    {%- endfor -%}
    {%- set target_config = {
        'partition_by': config.get('partition_by'), 'inputs': lake_inputs(model), 'personal': personal
    } -%}

    {{ run_hooks(pre_hooks, inside_transaction=True) }}
    {% call statement('main') -%}
        create or replace table {{ staged }} as ({{ compiled_code }})
    {%- endcall %}
    {# The plugin reads through a cursor of its own, which sees only what is committed. #}
    {% do adapter.commit() %}
    {% do store_relation('lake', staged, table, 'delta', target_config) %}
    {% call statement('drop_staged') -%} drop table {{ staged }} {%- endcall %}
    {{ run_hooks(post_hooks, inside_transaction=True) }}
    {% do adapter.commit() %}
    {{ return({'relations': [this.incorporate(type='view')]}) }}
{% endmaterialization %}
