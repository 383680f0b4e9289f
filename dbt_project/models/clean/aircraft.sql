with versions as (
    select
        tail_number,
        manufacture_year,
        -- One maker under several spellings of the registry.
        case
            when manufacturer = 'AIRBUS INDUSTRIE' then 'AIRBUS'
            when manufacturer like 'MCDONNELL DOUGLAS%' then 'MCDONNELL DOUGLAS'
            else manufacturer
        end as manufacturer,
        model,
        type,
        engines,
        seats,
        engine_type,
        known_at,
        created_at,
        is_retracted,
        _raw_id as _planes_raw_id
    from {{ source('raw', 'planes') }}
)

select * from ({{ new_versions('versions', ['tail_number']) }})
