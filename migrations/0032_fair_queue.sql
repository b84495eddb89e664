-- A queue that is fair to tenants, and deliveries that are set aside because nobody can work on
-- them.
-- Phase: expand. The index on due_at goes at once: a second one would make every delivery dearer,
-- and the new one serves dispatchers of the version before, too. Lock: brief ACCESS EXCLUSIVE on
-- deliveries for the columns; SHARE while the indexes are built, over open deliveries only.

alter table deliveries
    -- Of whoever submitted it, else of the mailbox; 0: neither.
    add column tenant_id bigint not null default 0,
    -- Leases that ended without a word: attempts that took their relay along.
    add column lost smallint not null default 0,
    add column set_aside_at timestamptz;

create index deliveries_due_fairly on deliveries ((remote is not null), tenant_id, due_at) where not held;
drop index deliveries_due;
create index deliveries_set_aside on deliveries (set_aside_at) where set_aside_at is not null;
