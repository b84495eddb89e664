-- Makes messages from before findable by recipient and tenant.
-- Phase: expand. Lock: none that anybody waits for; reads journey and spool once.

with parties as (
    select distinct s.accepted_at, s.queue_id, lower(j.recipient) as recipient, lower(s.reverse_path) as sender,
           coalesce(d.tenant_id, 0) as tenant_id
    from journey j join spool s using (queue_id)
    left join domains d on d.name = lower(split_part(j.recipient, '@', -1))
    where j.recipient <> ''
    union
    select s.accepted_at, s.queue_id, '', lower(s.reverse_path), a.tenant_id
    from spool s join accounts a on a.id = s.account_id
), kept as (
    insert into journey_recipients (at, queue_id, recipient, sender, tenant_id)
    select accepted_at, queue_id, recipient, sender, tenant_id from parties
)
update spool s set tenants = t.tenants
from (select queue_id, array_agg(distinct tenant_id) as tenants from parties where tenant_id <> 0 group by 1) t
where s.queue_id = t.queue_id;
