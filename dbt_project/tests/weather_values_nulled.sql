{{ config(severity='warn', meta={'dagster': {'ref': {'name': 'weather'}}}) }}
-- Rules 32 and 33: values of these days that cannot be true and were made null.
select clean.origin, clean.observed_hour_at
from {{ ref('weather') }} as clean
join {{ source('raw', 'weather') }} as raw on clean._weather_raw_id = raw._raw_id
where {{ in_window('clean.feed_date') }} and {{ in_window('raw.feed_date') }}
    and (
        (raw.temperature_f is not null and clean.temperature_f is null)
        or (raw.wind_speed_mph is not null and clean.wind_speed_mph is null)
        or (raw.wind_gust_mph is not null and clean.wind_gust_mph is null)
    )
