-- What a dashboard asks: messages and events by queue id or Message-ID, as people write them.
-- Phase: expand. Lock: none.

-- Crockford's base32, as everywhere else.
create function queue_id_text(id uuid) returns text language sql immutable strict as $$
    select string_agg(substr('0123456789ABCDEFGHJKMNPQRSTVWXYZ', substring(bits from 5 * n + 1 for 5)::bit(5)::int + 1, 1),
                      '' order by n)
    from (select B'00' || ('x' || replace(id::text, '-', ''))::bit(128) as bits) b, generate_series(0, 25) n
$$;

-- Null for what is none.
create function queue_id_of(id text) returns uuid language sql immutable strict as $$
    select (select string_agg(to_hex(substring(bits from 4 * n + 3 for 4)::bit(4)::int), '' order by n)
            from generate_series(0, 31) n)::uuid
    from (select string_agg((strpos('0123456789ABCDEFGHJKMNPQRSTVWXYZ', substr(upper(id), n, 1)) - 1)::bit(5)::text, ''
                            order by n) as bits
          from generate_series(1, 26) n) b
    where id ~* '^[0-7][0-9A-HJKMNP-TV-Z]{25}$'
$$;

create function journey_messages(wanted text)
returns table (accepted_at timestamptz, queue_id text, message_id text, sender text, size int, refused boolean,
               open bigint, trace_id text)
language sql stable as $$
    select s.accepted_at, queue_id_text(s.queue_id), s.message_id, s.reverse_path, s.size, s.refused,
           (select count(*) from deliveries d where d.queue_id = s.queue_id), split_part(s.traceparent, '-', 2)
    from spool s
    where s.queue_id = queue_id_of(trim(wanted))
       or (s.message_id <> '' and s.message_id = trim(both ' <>' from wanted))
    order by s.accepted_at desc limit 100
$$;

create function journey_events(wanted text)
returns table (at timestamptz, queue_id text, service text, event text, recipient text, text text, detail text,
               dialogue text, trace_id text)
language sql stable as $$
    select j.at, m.queue_id, j.service, j.name, j.recipient, j.text, j.detail,
           (select d.lines from journey_dialogues d where d.queue_id = j.queue_id and d.event = j.id),
           coalesce(nullif(split_part(j.traceparent, '-', 2), ''), m.trace_id)
    from journey_messages(wanted) m join journey j on j.queue_id = queue_id_of(m.queue_id)
    order by j.id
$$;
