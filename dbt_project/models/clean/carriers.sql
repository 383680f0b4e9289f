with versions as (
    select carrier, name, known_at, created_at, is_retracted, _raw_id as _airlines_raw_id
    from {{ source('raw', 'airlines') }}
)

select * from ({{ new_versions('versions', ['carrier']) }})
