-- What went is remembered for a time only: when it went, and up to which mod-sequence it is forgotten
-- (RFC 7162 §3.2.5.2). What is there already counts as gone now.
-- Phase: expand. Lock: brief ACCESS EXCLUSIVE on expunged and mailboxes, no table is rewritten; the
-- index reads expunged once while nothing can be expunged.

alter table expunged add column at timestamptz not null default now();
create index expunged_by_time on expunged (at);

-- Of messages that went at this mod-sequence or before, nothing is known any more.
alter table mailboxes add column forgotten_modseq bigint not null default 0;
