{{ config(alias='departures', partition_by='service_date') }}
-- Facts that were good by their own contract and break a rule that joins tables; clean/departures does without them.
{%- set rejections = {
    'departed': {
        'actual_time_matches_delay': 'is_departure_inconsistent',
        'one_outcome': 'is_flying_contradicted',
    },
    'arrived': {
        'actual_time_matches_delay': 'is_arrival_inconsistent',
        'arrival_wall_time_exists': 'is_arrival_impossible',
        'plausible_ground_speed': 'is_speed_implausible',
        'one_outcome': 'is_flying_contradicted or is_arrival_contradicted',
    },
    'cancelled': {'one_outcome': 'is_cancellation_contradicted'},
    'diverted': {'one_outcome': 'is_flying_contradicted or is_diversion_contradicted'},
} %}
with rejected as (
    {%- for event, rules in rejections.items() %}
    select
        _{{ event }}_raw_id as _raw_id,
        [
            {%- for rule, condition in rules.items() %}
            case when {{ condition }} then '{{ rule }}' end{{ ',' if not loop.last }}
            {%- endfor %}
        ] as rules,
        version_at
    from {{ ref('departure_times') }}
    where _{{ event }}_raw_id is not null and ({{ rules.values() | join(' or ') }})
    {{ 'union all' if not loop.last }}
    {%- endfor %}
),

-- One row per rejected fact, by the first version of its departure that rejected it.
facts as (
    select _raw_id, list_filter(arg_min(rules, version_at), lambda rule: rule is not null) as rules
    from rejected
    group by _raw_id
),

events as (
    select * from {{ source('raw', 'flight_events') }}
    where {{ in_window('feed_date', before=1, after=2) }} and {{ in_window('service_date') }}
)

select
    events._source_file as source_file,
    events._source_sha256 as source_sha256,
    events._source_row as source_row,
    'row' as kind,
    facts.rules,
    to_json(struct_pack(
        service_date := events.service_date,
        carrier := events.carrier,
        flight_number := events.flight_number,
        origin := events.origin,
        event := events.event,
        actual_hhmm_local := events.actual_hhmm_local,
        delay_minutes := events.delay_minutes,
        air_time_minutes := events.air_time_minutes,
        known_at := events.known_at
    ))::varchar as "values",
    'the report "' || events.event || '" contradicts the schedule, the reference data or another report: '
    || array_to_string(facts.rules, ', ') as reason,
    1::bigint as rows,
    null::blob as file_bytes,
    -- Known where it did not come with its feed's regular file.
    case when events.created_at <> events.known_at then events.created_at end as delivered_at,
    events.service_date,
    events._raw_id as _flight_events_raw_id
from facts
join events using (_raw_id)
order by events.service_date, events._raw_id
