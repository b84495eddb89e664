-- What one wrote to another is found at once, however much each of them has with others.
-- Phase: expand. Lock: SHARE on journey_recipients and its empty partitions for an instant, none of those that
-- have rows: days before this do without the index until they are forgotten, days to come get it as they
-- are made. Until then the parent's index is invalid, which only says that not every day has it.

create index journey_recipients_by_parties on only journey_recipients (sender, recipient, at);

do $$
declare
    part regclass;
    is_empty boolean;
begin
    for part in select inhrelid from pg_inherits where inhparent = 'journey_recipients'::regclass
    loop
        execute format('select not exists (select from %s)', part) into is_empty;
        if is_empty then
            execute format('create index %I on %s (sender, recipient, at)', part || '_by_parties', part);
            execute format('alter index journey_recipients_by_parties attach partition %I', part || '_by_parties');
        end if;
    end loop;
end $$;
