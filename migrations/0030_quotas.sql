-- Quotas that hold under concurrency: for accounts and tenants with a limit, one row that counts
-- what is in mailboxes and what open deliveries have reserved. Who has no limit costs nothing.
-- Phase: expand. Lock: brief ACCESS EXCLUSIVE on tenants, accounts, mailboxes and deliveries for
-- columns and triggers (no table is rewritten); accounts with a limit wait until they are counted.
--
-- Lock order, everywhere: mailboxes by (account_id, id), then quotas by (tenant_id, account_id).
-- Triggers do the counting, so that versions which know nothing of it keep it right (Invariant 9).

-- All at once, in the order in which statements of the version before lock them: taken one by one
-- on the way, they would stand across a delivery (deliveries, mailboxes) and one of both would fail.
lock table deliveries, accounts, tenants, mailboxes in access exclusive mode;

alter table tenants
    add column quota_bytes bigint not null default 0, -- of all accounts together; 0: no limit
    add column quota_messages bigint not null default 0;
alter table accounts add column quota_messages bigint not null default 0; -- 0: no limit
-- Whether `quotas` counts it: the triggers below look at nothing else.
alter table mailboxes add column limited boolean not null default false;
-- Bytes set aside in `quotas`; -1: accepted with others, but there is no room for this one.
alter table deliveries add column reserved integer not null default 0;

create table quotas (
    tenant_id bigint not null,
    account_id bigint not null, -- 0: the tenant's
    limit_bytes bigint not null, -- 0: no limit
    limit_messages bigint not null,
    bytes bigint not null,
    messages bigint not null,
    primary key (tenant_id, account_id)
) with (fillfactor = 50);
create unique index quotas_by_account on quotas (account_id) where account_id <> 0;

-- Locks the rows of an account and its tenant, in that order of the key which everybody keeps.
create function lock_quota(account bigint) returns void language plpgsql as $$
declare
    tenant bigint := (select q.tenant_id from quotas q where q.account_id = account);
begin
    perform from quotas q where q.tenant_id = tenant and q.account_id in (0, account)
    order by q.account_id for no key update;
end $$;

create function lock_quotas(accounts bigint[]) returns void language plpgsql as $$
begin
    perform from quotas q
    where q.account_id = any (accounts)
       or (q.account_id = 0 and q.tenant_id in (select o.tenant_id from quotas o where o.account_id = any (accounts)))
    order by q.tenant_id, q.account_id for no key update;
end $$;

create function count_quota(account bigint, more_bytes bigint, more_messages bigint) returns void language plpgsql as $$
declare
    tenant bigint := (select q.tenant_id from quotas q where q.account_id = account);
begin
    perform lock_quota(account);
    update quotas q set bytes = q.bytes + more_bytes, messages = q.messages + more_messages
    where q.tenant_id = tenant and q.account_id in (0, account);
end $$;

-- What is left under the lock, the lesser of account and tenant; null: no limit.
create function quota_room(account bigint, out room_bytes bigint, out room_messages bigint) language plpgsql as $$
declare
    tenant bigint := (select q.tenant_id from quotas q where q.account_id = account);
begin
    perform lock_quota(account);
    select min(q.limit_bytes - q.bytes) filter (where q.limit_bytes > 0),
           min(q.limit_messages - q.messages) filter (where q.limit_messages > 0)
    into room_bytes, room_messages
    from quotas q where q.tenant_id = tenant and q.account_id in (0, account);
end $$;

-- Sets a message's bytes aside, or answers false.
create function reserve_quota(account bigint, message_bytes bigint) returns boolean language plpgsql as $$
declare
    room record;
begin
    select * into room from quota_room(account);
    if room.room_bytes < message_bytes or room.room_messages < 1 then
        return false;
    end if;
    perform count_quota(account, message_bytes, 1);
    return true;
end $$;

-- Ends the statement and undoes it: none of these messages has room anywhere.
create function refuse_over_quota(messages uuid[]) returns void language plpgsql as $$
begin
    raise exception 'over quota' using errcode = 'PR552', detail = array_to_string(messages, ' ');
end $$;

create function count_mailbox() returns trigger language plpgsql as $$
begin
    if tg_op = 'DELETE' then
        perform count_quota(old.account_id, -old.size, -old.messages);
    else
        perform count_quota(new.account_id, new.size - old.size, new.messages - old.messages);
    end if;
    return null;
end $$;
create trigger count_changed after update of size, messages on mailboxes for each row
    when (new.limited and old.limited and (new.size, new.messages) is distinct from (old.size, old.messages))
    execute function count_mailbox();
create trigger count_deleted after delete on mailboxes for each row when (old.limited) execute function count_mailbox();

create function release_reserved() returns trigger language plpgsql as $$
begin
    perform count_quota(old.account_id, -old.reserved, -1);
    return null;
end $$;
create trigger release_ended after delete on deliveries for each row
    when (old.reserved > 0) execute function release_reserved();

-- Sent elsewhere by an operator: it needs no room here.
create function release_redirected() returns trigger language plpgsql as $$
begin
    if old.reserved > 0 then
        perform count_quota(old.account_id, -old.reserved, -1);
    end if;
    new.reserved := 0;
    return new;
end $$;
create trigger release_redirected before update of account_id on deliveries for each row
    when (old.reserved <> 0 and new.account_id is distinct from old.account_id) execute function release_redirected();

create function limit_mailbox() returns trigger language plpgsql as $$
begin
    new.limited := exists (select from quotas q where q.account_id = new.account_id);
    return new;
end $$;
create trigger limit_new before insert on mailboxes for each row execute function limit_mailbox();

-- Begins to count an account that has a limit or whose tenant has one, or tells it its new limit.
-- Once begun it goes on: a limit of 0 is none. Nobody changes a mailbox until this commits.
create function limit_account(account bigint) returns void language plpgsql as $$
declare
    a record;
begin
    select x.tenant_id, x.quota_bytes, x.quota_messages into a from accounts x where x.id = account;
    perform from mailboxes m where m.account_id = account order by m.id for no key update;
    if exists (select from quotas q where q.account_id = account) then
        perform lock_quota(account);
        update quotas q set limit_bytes = a.quota_bytes, limit_messages = a.quota_messages
        where q.account_id = account;
        return;
    end if;
    update mailboxes m set limited = true where m.account_id = account;
    insert into quotas (tenant_id, account_id, limit_bytes, limit_messages, bytes, messages)
    select a.tenant_id, account, a.quota_bytes, a.quota_messages, coalesce(sum(m.size), 0), coalesce(sum(m.messages), 0)
    from mailboxes m where m.account_id = account;
end $$;

create function limit_changed_account() returns trigger language plpgsql as $$
declare
    tenant_limit boolean;
begin
    -- Waits for whoever is changing the tenant's limit, and makes him wait.
    select t.quota_bytes > 0 or t.quota_messages > 0 into tenant_limit from tenants t where t.id = new.tenant_id for share;
    if tenant_limit or new.quota_bytes > 0 or new.quota_messages > 0
        or exists (select from quotas q where q.account_id = new.id) then
        perform limit_account(new.id);
    end if;
    return null;
end $$;
create trigger limit_account after insert or update of quota_bytes, quota_messages on accounts
    for each row execute function limit_changed_account();

create function limit_changed_tenant() returns trigger language plpgsql as $$
begin
    if new.quota_bytes = 0 and new.quota_messages = 0 and
        not exists (select from quotas q where q.tenant_id = new.id and q.account_id = 0) then
        return null;
    end if;
    perform limit_account(a.id) from (select id from accounts where tenant_id = new.id order by id) a;
    perform from quotas q where q.tenant_id = new.id order by q.account_id for no key update;
    insert into quotas (tenant_id, account_id, limit_bytes, limit_messages, bytes, messages)
    select new.id, 0, new.quota_bytes, new.quota_messages, coalesce(sum(q.bytes), 0), coalesce(sum(q.messages), 0)
    from quotas q where q.tenant_id = new.id and q.account_id <> 0
    on conflict (tenant_id, account_id) do update
    set limit_bytes = excluded.limit_bytes, limit_messages = excluded.limit_messages;
    return null;
end $$;
create trigger limit_tenant after insert or update of quota_bytes, quota_messages on tenants
    for each row execute function limit_changed_tenant();

-- Those that have a limit already.
select limit_account(a.id) from (select id from accounts where quota_bytes > 0 order by id) a;
