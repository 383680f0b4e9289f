-- The facts in UTC, and which of them break a rule that only several tables together can check (data.md rules 5, 6, 7,
-- 12). Every verdict on a fact rests on what was known when it came: the report that came first stands.
with zones as (
    select faa, time_zone from ({{ newest_rows(ref('airports'), ['faa']) }})
),

zoned as (
    select
        facts.*,
        {{ hhmm_to_minutes('scheduled_departure_hhmm_local') }} as scheduled_departure_minutes,
        {{ hhmm_to_minutes('scheduled_arrival_hhmm_local') }} as scheduled_arrival_minutes,
        facts.service_date::timestamp + to_minutes(scheduled_departure_minutes::bigint) as scheduled_departure_local,
        facts.service_date::timestamp + to_minutes(scheduled_arrival_minutes::bigint) as scheduled_arrival_local,
        origins.time_zone as origin_time_zone,
        -- A destination that the reference does not know is taken to keep the origin's time.
        coalesce(dests.time_zone, origins.time_zone) as dest_time_zone,
        dests.time_zone is null as is_dest_time_zone_assumed
    from {{ ref('departure_facts') }} as facts
    left join zones as origins on facts.origin = origins.faa
    left join zones as dests on facts.dest = dests.faa
),

-- Each hour of each zone is converted once: a conversion costs DuckDB microseconds, and there are millions of rows.
clocks as (
    select
        *,
        instants[2] - instants[1] <> instants[3] - instants[2]
        or instants[3] - instants[2] <> instants[4] - instants[3] as is_changing
    from (
        select
            dest_time_zone,
            arrival_hour_local,
            [timezone(dest_time_zone, arrival_hour_local + to_days(day)) for day in [-1, 0, 1, 2]] as instants
        from (select distinct dest_time_zone, date_trunc('hour', scheduled_arrival_local) as arrival_hour_local from zoned)
    )
),

-- A schedule says at which wall clock a flight arrives, and not on which day: it is the first day on which that is
-- later than the departure.
scheduled as (
    select
        zoned.*,
        clocks.is_changing,
        list_filter(
            coalesce(
                [instant + to_minutes(date_part('minute', scheduled_arrival_local)) for instant in clocks.instants],
                -- No zone is known: the offset is the one that the departure itself shows.
                [
                    scheduled_departure_at + (scheduled_arrival_local - scheduled_departure_local + to_days(day))
                    for day in [-1, 0, 1, 2]
                ]
            ),
            lambda instant: instant > scheduled_departure_at + interval 15 minute
        )[1] as scheduled_arrival_at
    from zoned
    left join clocks
        on zoned.dest_time_zone = clocks.dest_time_zone
        and date_trunc('hour', zoned.scheduled_arrival_local) = clocks.arrival_hour_local
),

actual as (
    select
        *,
        {{ plus_minutes('scheduled_departure_at', 'departed_delay_minutes') }} as departed_at,
        {{ plus_minutes('scheduled_arrival_at', 'arrived_delay_minutes') }} as arrived_at,
        least(departed_known_at, arrived_known_at, diverted_known_at) as flown_known_at,
        {{ hhmm_to_minutes('departed_hhmm_local') }} % 1440 as departed_minute,
        {{ hhmm_to_minutes('arrived_hhmm_local') }} % 1440 as arrived_minute
    from scheduled
),

-- Whether the reported wall clock is the scheduled one plus the delay, counted on the clock's face; and by the
-- instant, which is another thing only around a change of the clocks (and is not asked for elsewhere: it costs).
faces as (
    select
        *,
        departed_minute = (scheduled_departure_minutes + departed_delay_minutes + 1440) % 1440 as departed_by_face,
        arrived_minute = (scheduled_arrival_minutes + arrived_delay_minutes + 1440) % 1440 as arrived_by_face
    from actual
),

instants as (
    select
        *,
        case
            when departed_by_face then true
            else departed_minute = {{ local_minute('departed_at', 'origin_time_zone') }}
        end as departed_by_instant,
        case
            when is_changing then arrived_minute = {{ local_minute('arrived_at', 'dest_time_zone') }}
            else arrived_by_face
        end as arrived_by_instant
    from faces
),

walls as (
    select
        *,
        case
            when is_changing and not arrived_by_instant
                then date_trunc('day', timezone(dest_time_zone, arrived_at)) + to_minutes(arrived_minute::bigint)
        end as arrived_local
    from instants
)

select
    * exclude (
        scheduled_arrival_minutes, scheduled_departure_local, scheduled_arrival_local, is_changing, departed_minute,
        arrived_minute, departed_by_face, arrived_by_face, departed_by_instant, arrived_by_instant, arrived_local
    ),
    -- Rule 5: the reported time is the scheduled time plus the reported delay.
    coalesce(not departed_by_face and not departed_by_instant, false) as is_departure_inconsistent,
    coalesce(not arrived_by_face and not arrived_by_instant, false) as is_arrival_inconsistent,
    -- Rule 6: no clock shows a time of the hour that is skipped in spring.
    coalesce(
        case
            when arrived_local is not null
                then timezone(dest_time_zone, timezone(dest_time_zone, arrived_local)) <> arrived_local
        end,
        false
    ) as is_arrival_impossible,
    -- Rule 12: ground speed between 80 and 600 mph.
    coalesce(distance_miles * 60 not between 80 * air_time_minutes and 600 * air_time_minutes, false)
        as is_speed_implausible,
    -- Rule 7: a flight is cancelled or flown, and lands here or elsewhere.
    coalesce(flown_known_at <= cancelled_known_at, false) as is_cancellation_contradicted,
    coalesce(cancelled_known_at < flown_known_at, false) as is_flying_contradicted,
    coalesce(diverted_known_at < arrived_known_at, false) as is_arrival_contradicted,
    coalesce(arrived_known_at <= diverted_known_at, false) as is_diversion_contradicted
from walls
