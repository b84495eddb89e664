-- Grafana reads heads and events, no content and no account; as soon as migrations have made them.
create role grafana login password 'grafana';
create function public.grant_journey() returns event_trigger language plpgsql security definer as $$
begin
    if to_regclass('public.journey_dialogues') is not null then
        grant select on public.spool, public.deliveries, public.journey, public.journey_dialogues to grafana;
    end if;
end $$;
create event trigger grant_journey on ddl_command_end when tag in ('CREATE FUNCTION') execute function public.grant_journey();
