-- Rises with every change of the rights in a mailbox, in the row that every change of the mailbox
-- locks: whoever looked rights up before sees under the lock whether they still hold.
-- Phase: expand. Lock: brief ACCESS EXCLUSIVE on mailboxes and mailbox_rights, no table is rewritten.
-- A trigger counts, so that versions which know nothing of it keep it right (Invariant 9).

alter table mailboxes add column rights_version bigint not null default 0;

create function count_rights() returns trigger language plpgsql as $$
begin
    if tg_op = 'DELETE' then
        update mailboxes set rights_version = rights_version + 1
        where account_id = old.account_id and id = old.mailbox_id;
    else
        update mailboxes set rights_version = rights_version + 1
        where account_id = new.account_id and id = new.mailbox_id;
    end if;
    return null;
end $$;
create trigger count_rights after insert or update or delete on mailbox_rights
    for each row execute function count_rights();
