-- Bodies of large messages in an object store, named by their row.
-- Phase: expand; a version before this one does not read such bodies, so the store is configured once all
-- pods have this version. Lock: brief ACCESS EXCLUSIVE on contents (a nullable column, a trigger).

-- Null: the body is in the row. Else `body` is empty, and this names its object below the store's prefix:
-- FOLDER/ATTEMPT.CONTENT, where ATTEMPT is a UUID of version 7, FOLDER its first six digits and CONTENT the
-- row's id. So names are in the order of their time, and the row of an object is found by its key.
alter table contents add column object text;

-- The sweep deletes objects without a row once they are older than hours. So no row may come later.
create function object_is_new() returns trigger language plpgsql as $$
declare
    written timestamptz := to_timestamp(
        ('x' || lpad(replace(substr(new.object, 8, 13), '-', ''), 16, '0'))::bit(64)::bigint / 1000.0);
begin
    if written < clock_timestamp() - interval '1 hour' then
        raise exception 'object % was written too long ago to be referred to', new.object using errcode = '40001';
    end if;
    return new;
end $$;

create trigger object_is_new before insert on contents
    for each row when (new.object is not null) execute function object_is_new();

create table object_store (
    only_one boolean primary key default true check (only_one),
    -- Written beside the objects, so that no other installation uses (and sweeps) the same place.
    installation uuid not null default gen_random_uuid(),
    -- Objects up to this one have been looked at.
    swept text not null default ''
);
insert into object_store default values;

-- Objects that no row names any more. They stay for a while: a reader may be at them, and a restored
-- backup may name them again.
create table dead_objects (
    name text primary key,
    died_at timestamptz not null default now(),
    was_orphan boolean not null default false
);
create index dead_objects_by_time on dead_objects (died_at);
