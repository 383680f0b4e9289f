{{ config(partition_by='service_date') }}
-- A fact that breaks a rule is left out and lies in quarantine/departures; its departure stays.
with kept as (
    select
        *,
        departed_known_at is not null and not (is_departure_inconsistent or is_flying_contradicted) as has_departed,
        arrived_known_at is not null and not (
            is_arrival_inconsistent or is_arrival_impossible or is_speed_implausible
            or is_arrival_contradicted or is_flying_contradicted
        ) as has_arrived,
        cancelled_known_at is not null and not is_cancellation_contradicted as is_cancelled,
        diverted_known_at is not null and not (is_diversion_contradicted or is_flying_contradicted) as is_diverted,
        -- From here on a flight that has not been heard of is late.
        scheduled_arrival_at + interval 15 minute as late_from
    from {{ ref('departure_times') }}
),

outcomes as (
    select
        *,
        least(
            case when has_arrived then arrived_known_at end,
            case when is_cancelled then cancelled_known_at end,
            case when is_diverted then diverted_known_at end
        ) as final_known_at,
        -- Rejected reports too: who has reported something wrong has been heard of.
        least(arrived_known_at, cancelled_known_at, diverted_known_at) as heard_at
    from kept
),

labelled as (
    select
        *,
        case
            when final_known_at <= late_from then has_arrived and arrived_delay_minutes >= 15
            when heard_at <= late_from then null
            -- Known by absence, once nothing that happened until then can still come.
            when {{ complete_until() }} > late_from or final_known_at > late_from then true
        end as is_late
    from outcomes
),

versions as (
    select
        strftime(service_date, '%Y%m%d') || '-' || carrier || '-' || flight_number || '-' || origin as departure_id,
        service_date,
        carrier,
        flight_number,
        origin,
        dest,
        tail_number,
        tail_known_at,
        distance_miles,
        scheduled_departure_at,
        scheduled_arrival_at,
        (scheduled_departure_minutes % 1440)::integer as scheduled_departure_minute_local,
        date_diff('minute', scheduled_departure_at, scheduled_arrival_at)::integer as scheduled_block_minutes,
        origin_time_zone,
        dest_time_zone,
        is_dest_time_zone_assumed,
        schedule_known_at,
        case when has_departed then departed_at end as departed_at,
        case when has_departed then departed_known_at end as departed_known_at,
        case when has_departed then departed_delay_minutes end as departure_delay_minutes,
        case when has_arrived then arrived_at end as arrived_at,
        case when has_arrived then arrived_known_at end as arrived_known_at,
        case when has_arrived then arrived_delay_minutes end as arrival_delay_minutes,
        case when has_arrived then air_time_minutes end as air_time_minutes,
        is_cancelled,
        case when is_cancelled then cancelled_known_at end as cancelled_known_at,
        is_diverted,
        case when is_diverted then diverted_known_at end as diverted_known_at,
        is_late,
        case when is_late is not null then is_late or is_cancelled or is_diverted end as is_disrupted,
        case when is_late is not null then least(final_known_at, late_from) end as outcome_known_at,
        schedule_known_at as known_at,
        case when isfinite(version_at) then version_at else schedule_known_at end as created_at,
        is_retracted,
        _flight_schedules_raw_id,
        _aircraft_assignments_raw_id,
        case when has_departed then _departed_raw_id end as _departed_raw_id,
        case when has_arrived then _arrived_raw_id end as _arrived_raw_id,
        case when is_cancelled then _cancelled_raw_id end as _cancelled_raw_id,
        case when is_diverted then _diverted_raw_id end as _diverted_raw_id
    from labelled
)

select * from ({{ new_versions('versions', ['departure_id']) }})
order by service_date, scheduled_departure_at, departure_id, created_at
