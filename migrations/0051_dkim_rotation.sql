-- DKIM keys come and go with an overlap: first published, then signing, then only published.
-- Phase: expand. Lock: brief ACCESS EXCLUSIVE on dkim_keys (a handful of rows).

alter table dkim_keys
    add column created_at timestamptz not null default now(),
    add column active_from timestamptz not null default now(), -- signs from then on
    add column retired_from timestamptz, -- no longer signs; null: no end
    add column removed_from timestamptz; -- its record may go; the row goes too
