-- One row per scheduled departure and version, with the newest version of each fact that then counts.
-- Service date D: its schedule, assignments of the feed days D-1..D+1, events of the feed days D-1..D+2.
{%- set key = ['service_date', 'carrier', 'flight_number', 'origin'] %}
{%- set key_columns = key | join(', ') %}
with schedules as (
    select *, {{ is_regular() }} as is_regular
    from {{ source('raw', 'flight_schedules') }}
    where {{ in_window('service_date') }}
),

assignments as (
    select *, {{ is_regular() }} as is_regular
    from {{ source('raw', 'aircraft_assignments') }}
    where {{ in_window('feed_date', before=1, after=1) }} and {{ in_window('service_date') }}
),

events as (
    select *, {{ is_regular() }} as is_regular
    from {{ source('raw', 'flight_events') }}
    where {{ in_window('feed_date', before=1, after=2) }} and {{ in_window('service_date') }}
),

versions as (
    select {{ key_columns }}, timestamptz '-infinity' as version_at from schedules where is_regular
    union
    select {{ key_columns }}, created_at from schedules where not is_regular
    union
    select {{ key_columns }}, created_at from assignments where not is_regular
    union
    select {{ key_columns }}, created_at from events where not is_regular
),

newest_schedules as ({{ newest_facts('schedules', 'versions', key) }}),

newest_assignments as (
    select * from ({{ newest_facts('assignments', 'versions', key) }}) where not is_retracted
),

newest_events as (
    select * from ({{ newest_facts('events', 'versions', key, ['event']) }}) where not is_retracted
)

select
    {% for column in key -%} schedules.{{ column }}, {% endfor %}
    schedules.version_at,
    schedules.dest,
    schedules.distance_miles,
    schedules.scheduled_departure_hhmm_local,
    schedules.scheduled_arrival_hhmm_local,
    schedules.scheduled_departure_at,
    schedules.known_at as schedule_known_at,
    schedules.is_retracted,
    schedules._raw_id as _flight_schedules_raw_id,
    assignments.tail_number,
    assignments.known_at as tail_known_at,
    assignments._raw_id as _aircraft_assignments_raw_id,
    {%- for event in ['departed', 'arrived', 'cancelled', 'diverted'] %}
    {{ event }}.actual_hhmm_local as {{ event }}_hhmm_local,
    {{ event }}.delay_minutes as {{ event }}_delay_minutes,
    {{ event }}.known_at as {{ event }}_known_at,
    {{ event }}._raw_id as _{{ event }}_raw_id,
    {%- endfor %}
    arrived.air_time_minutes
from newest_schedules as schedules
left join newest_assignments as assignments using ({{ key_columns }}, version_at)
{%- for event in ['departed', 'arrived', 'cancelled', 'diverted'] %}
left join (select * from newest_events where event = '{{ event }}') as {{ event }} using ({{ key_columns }}, version_at)
{%- endfor %}
