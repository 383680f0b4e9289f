-- A zone name that this system's zone database does not know would fail every conversion: it counts as missing.
with known_zones as (select name as time_zone from pg_timezone_names()),

patches as (select * from {{ ref('time_zone_patches') }}),

reported as (
    select
        raw.faa,
        raw.name,
        raw.latitude_degrees,
        raw.longitude_degrees,
        raw.altitude_feet,
        coalesce(known_zones.time_zone, patches.time_zone) as time_zone,
        known_zones.time_zone is null and patches.time_zone is not null as is_patched,
        raw.known_at,
        raw.created_at,
        raw.is_retracted,
        raw._raw_id as _airports_raw_id
    from {{ source('raw', 'airports') }} as raw
    left join known_zones on raw.time_zone = known_zones.time_zone
    left join patches on raw.faa = patches.faa
),

-- Known since the first reference file came, like all that it does hold.
missing as (
    select
        faa,
        null::varchar as name,
        null::double as latitude_degrees,
        null::double as longitude_degrees,
        null::integer as altitude_feet,
        time_zone,
        true as is_patched,
        (select min(known_at) from reported) as known_at,
        (select min(created_at) from reported) as created_at,
        false as is_retracted,
        null::varchar as _airports_raw_id
    from patches
    where faa not in (select faa from reported)
),

versions as (select * from reported union all select * from missing)

select * from ({{ new_versions('versions', ['faa']) }})
