-- Zones of destinations that the reference file is known to lack. They fill only what is missing there.
select faa, time_zone
from (
    values
    ('SJU', 'America/Puerto_Rico'),
    ('BQN', 'America/Puerto_Rico'),
    ('STT', 'America/Puerto_Rico'),
    ('PSE', 'America/Puerto_Rico')
) as patches (faa, time_zone)
