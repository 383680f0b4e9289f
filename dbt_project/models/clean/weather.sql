{{ config(partition_by='feed_date') }}
with observations as (
    select * from {{ source('raw', 'weather') }}
    where {{ in_window('feed_date') }}
),

-- What each station said of the hour when this version became known. A neighbour's later correction does not reopen it.
readings as (
    select
        mine._raw_id,
        other.origin,
        arg_max(other.temperature_f, other.created_at) as temperature_f
    from observations as mine
    join observations as other
        on mine.observed_hour_at = other.observed_hour_at and other.created_at <= mine.created_at
    where not other.is_retracted and other.temperature_f is not null
    group by mine._raw_id, other.origin
),

medians as (
    select _raw_id, median(temperature_f) as temperature_f
    from readings
    group by _raw_id
    having count(*) >= 3
),

versions as (
    select
        raw.origin,
        raw.observed_hour_at,
        raw.feed_date,
        -- Rule 33: a thermometer more than 25 °F from the median of at least three stations is broken (a sea breeze
        -- makes true differences of 22).
        case
            when abs(raw.temperature_f - medians.temperature_f) > 25 then null
            else raw.temperature_f
        end as temperature_f,
        raw.dew_point_f,
        raw.humidity_percent,
        raw.wind_direction_degrees,
        -- Rule 32: winds that no anemometer at an airport has survived.
        case when raw.wind_speed_mph <= 100 then raw.wind_speed_mph end as wind_speed_mph,
        case when raw.wind_gust_mph <= 150 then raw.wind_gust_mph end as wind_gust_mph,
        raw.precipitation_inches,
        raw.pressure_millibars,
        raw.visibility_miles,
        raw.known_at,
        raw.created_at,
        raw.is_retracted,
        raw._raw_id as _weather_raw_id
    from observations as raw
    left join medians using (_raw_id)
)

select * from ({{ new_versions('versions', ['origin', 'observed_hour_at']) }})
order by feed_date, observed_hour_at, origin, created_at
