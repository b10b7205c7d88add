-- Messages of each account and day, with the share that customers wrote.
select
    account,
    date,
    count(*) as messages,
    avg((direction = 'inbound')::int) as share_inbound
from {{ source('inbox', 'messages') }}
group by all
