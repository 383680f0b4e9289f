{{ config(severity='warn', meta={'dagster': {'ref': {'name': 'departures'}}}) }}
-- Rules that look across departures and days. They only warn: a verdict on a day must not hang on what comes later.
-- Looked at from the day before the window on.
with flown as (
    select * from {{ ref('departures') }}
    where {{ in_window('service_date', before=1) }} and not is_retracted
),

legs as (
    select
        *,
        lag(departed_at) over aircraft as previous_departed_at,
        lag(arrived_at) over aircraft as previous_arrived_at,
        lag(scheduled_departure_at) over aircraft as previous_scheduled_at,
        lag(scheduled_block_minutes) over aircraft as previous_block_minutes
    from flown
    where tail_number is not null and not is_cancelled
    window aircraft as (partition by tail_number order by scheduled_departure_at, departure_id)
)

select 'rule_24_in_the_air_twice' as rule, departure_id as what from legs
where departed_at < previous_arrived_at and departed_at >= previous_departed_at
union all
select 'rule_25_could_not_be_back', departure_id from legs
where departed_at < previous_arrived_at + to_minutes(previous_block_minutes::bigint)
    and departed_at >= previous_arrived_at
union all
select 'rule_26_scheduled_twice_at_once', departure_id from legs
where scheduled_departure_at = previous_scheduled_at
union all
select 'rule_27_one_carrier_per_aircraft', tail_number from legs
group by tail_number having count(distinct carrier) > 1
union all
select 'rule_16_one_distance_per_route', origin || '-' || dest from flown
group by origin, dest having count(distinct distance_miles) > 1
