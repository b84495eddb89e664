-- The journey by day: a day that is over its retention is dropped as a whole, dialogues before the
-- rest. What a search looks at: senders, recipients, tenants.
-- Phase: expand. Lock: ACCESS EXCLUSIVE on journey while its index is built anew (it reads all of
-- it once); SHARE on spool for its index; brief ACCESS EXCLUSIVE on spool and messages.

create sequence journey_ids;
select setval('journey_ids', coalesce((select max(id) from journey), 0) + 1);

alter table journey rename to journey_before;
alter table journey_before alter id drop identity;
alter table journey_before drop constraint journey_pkey;
drop index journey_by_time;
alter table journey_before
    alter id set default nextval('journey_ids'),
    add column traceparent text not null default '';

-- N-1 writes into it and reads it as it did the table.
create table journey (
    id bigint not null default nextval('journey_ids'),
    queue_id uuid not null,
    at timestamptz not null default clock_timestamp(),
    name text not null,
    service text not null,
    recipient text not null,
    text text not null,
    detail text not null, -- a JSON object, or ''
    traceparent text not null default '' -- '': the message's own
) partition by range (at);
create index journey_of_message on journey (queue_id, id);
create table journey_default partition of journey default;

-- "C: …" and "S: …" lines, without bodies and credentials.
create table journey_dialogues (
    queue_id uuid not null,
    at timestamptz not null,
    event bigint not null, -- journey.id
    lines text not null -- one a line
) partition by range (at);
create index journey_dialogues_of_event on journey_dialogues (queue_id, event);
create table journey_dialogues_default partition of journey_dialogues default;

-- Under which addresses, and for whom, a message is found.
create table journey_recipients (
    at timestamptz not null, -- spool.accepted_at
    queue_id uuid not null,
    recipient text not null, -- lower case; '' when the row only says whose account sent it
    sender text not null, -- lower case
    tenant_id bigint not null -- 0: nobody's here
) partition by range (at);
create index journey_recipients_by_recipient on journey_recipients (recipient, at);
create index journey_recipients_by_tenant on journey_recipients (tenant_id, at) where tenant_id <> 0;
create table journey_recipients_default partition of journey_recipients default;

-- The head of what was refused is kept, too.
alter table spool
    add column refused boolean not null default false,
    add column tenants bigint[] not null default '{}'; -- of its sender and recipients
create index spool_by_sender on spool (lower(reverse_path), accepted_at);

-- Whoever had a message before this is not asked again whether he read it.
alter table messages add column fetched boolean not null default true;
alter table messages alter column fetched set default false;

-- A partition for a day (UTC), with what went into the default one meanwhile. Nothing happens when
-- there is one, or when somebody writes to the default one just now: it is asked for again.
create function journey_day(parent text, day date) returns void language plpgsql as $$
declare
    part text := parent || '_p' || to_char(day, 'YYYYMMDD');
    since timestamptz := day::timestamp at time zone 'utc';
    until timestamptz := (day + 1)::timestamp at time zone 'utc';
begin
    perform pg_advisory_xact_lock(hashtext('postroad ' || parent));
    if to_regclass(part) is not null then
        return;
    end if;
    execute format('create table %I (like %I including defaults)', part, parent);
    execute format('with moved as (delete from %I where at >= %L and at < %L returning *) insert into %I select * from moved',
                   parent || '_default', since, until, part);
    execute format('alter table %I attach partition %I for values from (%L) to (%L)', parent, part, since, until);
exception
    -- A partition that covers several days; a row that came meanwhile.
    when invalid_object_definition or check_violation then
        return;
end $$;

-- Drops the days before one.
create function journey_forget(parent text, day date) returns int language plpgsql as $$
declare
    part text;
    gone int := 0;
begin
    for part in
        select c.relname from pg_inherits i join pg_class c on c.oid = i.inhrelid
        where i.inhparent = parent::regclass and c.relname ~ ('^' || parent || '_p\d{8}$')
          and right(c.relname, 8) < to_char(day, 'YYYYMMDD')
    loop
        execute format('drop table %I', part);
        gone := gone + 1;
    end loop;
    execute format('delete from %I where at < %L', parent || '_default', day::timestamp at time zone 'utc');
    return gone;
end $$;

-- What is there becomes one partition, called by its last day.
do $$
declare
    until timestamp;
begin
    if not exists (select from journey_before) then
        drop table journey_before;
    else
        select date_trunc('day', greatest(max(at), now()) at time zone 'utc') + interval '1 day'
        into until from journey_before;
        execute format('alter table journey_before rename to %I',
                       'journey_p' || to_char(until - interval '1 day', 'YYYYMMDD'));
        execute format('alter table journey attach partition %I for values from (minvalue) to (%L)',
                       'journey_p' || to_char(until - interval '1 day', 'YYYYMMDD'), until at time zone 'utc');
    end if;
end $$;
select journey_day(parent, (now() at time zone 'utc')::date + ahead)
from unnest(array['journey', 'journey_dialogues', 'journey_recipients']) parent, generate_series(0, 3) ahead;
