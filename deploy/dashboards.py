#!/usr/bin/env python3
"""Writes the dashboards deploy/dashboards/*.json anew: `deploy/dashboards.py`.

They are made from this list so that all look alike: a panel is a title, a unit, and for each line
its legend and its expression. Data sources are "prometheus", "tempo" and "journey" by uid.
"""
import json
import pathlib

HERE = pathlib.Path(__file__).resolve().parent / "dashboards"
SITE = 'site=~"$site"'


def rate(metric, by="", where="", window="$__rate_interval"):
    labels = ",".join(part for part in (where, SITE) if part)
    inner = f"rate({metric}{{{labels}}}[{window}])"
    return f"sum by ({by}) ({inner})" if by else f"sum({inner})"


def quantile(metric, q=0.95, by="", where=""):
    labels = ",".join(part for part in (where, SITE) if part)
    group = f"le, {by}" if by else "le"
    return f"histogram_quantile({q}, sum by ({group}) (rate({metric}_bucket{{{labels}}}[$__rate_interval])))"


def gauge(metric, how="sum", by="", where=""):
    labels = ",".join(part for part in (where, SITE) if part)
    return f"{how} by ({by}) ({metric}{{{labels}}})" if by else f"{how}({metric}{{{labels}}})"


def panel(title, unit, lines, kind="timeseries", about="", width=12, stacked=False):
    prometheus = {"type": "prometheus", "uid": "prometheus"}
    targets = [
        {"refId": chr(65 + n), "datasource": prometheus, "expr": expr, "legendFormat": legend,
         **({"instant": True} if kind == "stat" else {})}
        for n, (legend, expr) in enumerate(lines)
    ]
    custom = {"custom": {"fillOpacity": 25, "stacking": {"mode": "normal"}}} if stacked else {}
    return {"type": kind, "title": title, "description": about, "datasource": prometheus, "targets": targets,
            "width": width, "fieldConfig": {"defaults": {"unit": unit, "min": 0, **custom}, "overrides": []}}


def dashboard(name, title, about, panels, variables=None, links=True):
    x = y = 0
    for number, p in enumerate(panels, 1):
        width, height = p.pop("width"), p.pop("height", 4 if p["type"] == "stat" else 8)
        if x + width > 24:
            x, y = 0, y + last
        p.update(id=number, gridPos={"x": x, "y": y, "w": width, "h": height})
        x, last = x + width, height
    site = {"name": "site", "label": "Site", "type": "query", "datasource": {"type": "prometheus", "uid": "prometheus"},
            "query": "label_values(up, site)", "refresh": 2, "includeAll": True, "allValue": ".*", "multi": True,
            "current": {"text": "All", "value": "$__all"}}
    document = {
        "uid": f"postroad-{name}", "title": f"Postroad / {title}", "description": about, "tags": ["postroad"],
        "timezone": "browser", "schemaVersion": 39, "version": 1, "editable": True, "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"}, "templating": {"list": [site] if variables is None else variables},
        "links": [{"type": "dashboards", "title": "Postroad", "tags": ["postroad"], "asDropdown": True, "keepTime": True}],
        "panels": panels,
    }
    (HERE / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n")


def mail_flow():
    dashboard("mail-flow", "Mail flow", "From the door to the mailbox and to other sites.", [
        panel("Accepted", "short", [("messages/s", rate("smtp_accepted_total"))], "stat", width=6),
        panel("Oldest due delivery", "s", [("{{stream}}", gauge("mda_oldest_due_seconds", "max", "stream"))], "stat", width=6,
              about="What waits for a worker of ours. Above some seconds, workers are too few or stand still."),
        panel("Open deliveries", "short", [("{{stream}}", gauge("mda_open_deliveries", "max", "stream, state") .replace("max by (stream, state)", "sum by (stream) (max by (stream, state)") + ")")], "stat", width=6),
        panel("Targets that answer", "percentunit", [("up", f"avg(up{{{SITE}}})")], "stat", width=6),
        panel("Messages accepted", "cps", [("{{port}}", rate("smtp_accepted_total", "port"))], stacked=True),
        panel("Deliveries", "cps", [
            ("into mailboxes", rate("mda_local_delivered_total")),
            ("{{outcome}} elsewhere", rate("relay_deliveries_total", "outcome")),
            ("no mailbox", rate("mda_local_bounced_total")),
        ]),
        panel("Queue by state", "short", [("{{stream}} {{state}}", gauge("mda_open_deliveries", "max", "stream, state"))], stacked=True,
              about="due: for a worker. leased: being attempted. deferred: until its next attempt. resting: its destination is down or paused. held: by an operator."),
        panel("Age of the oldest due delivery", "s", [("{{stream}}", gauge("mda_oldest_due_seconds", "max", "stream"))]),
        panel("Streams in Redis", "short", [("{{stream}}", gauge("mda_stream_length", "max", "stream"))]),
        panel("Octets accepted", "Bps", [("all ports", rate("smtp_accepted_bytes_total"))]),
        panel("Messages of the largest tenants", "cps", [("{{tenant}} {{direction}}", "topk(10, " + rate("mda_tenant_messages_total", "tenant, direction") + ")")]),
        panel("Octets of the largest tenants", "Bps", [("{{tenant}} {{direction}}", "topk(10, " + rate("mda_tenant_bytes_total", "tenant, direction") + ")")]),
        panel("Calls between services", "reqps", [("{{job}}", rate("grpc_server_calls_total", "job"))]),
        panel("Calls that failed", "percentunit", [("{{job}}", f'sum by (job) (rate(grpc_server_calls_total{{code!="ok",{SITE}}}[$__rate_interval])) / sum by (job) (rate(grpc_server_calls_total{{{SITE}}}[$__rate_interval]))')]),
        panel("Calls, slowest of 20", "s", [("{{method}}", "topk(10, " + quantile("grpc_server_seconds", by="method") + ")")], width=24),
    ])


def door():
    dashboard("smtp-door", "SMTP door", "Who comes, what is refused and why, what verdicts say.", [
        panel("Sessions begun", "cps", [("{{port}}", rate("smtp_sessions_total", "port"))], stacked=True),
        panel("Sessions open", "short", [("sessions", gauge("connections_active", where='job="smtp-ingress"'))]),
        panel("Refused", "cps", [("{{reason}}", rate("smtp_refused_total", "reason"))], stacked=True),
        panel("From the final dot to the answer", "s", [
            ("{{port}}, half", quantile("smtp_message_seconds", 0.5, "port")),
            ("{{port}}, 95 of 100", quantile("smtp_message_seconds", 0.95, "port")),
        ]),
        panel("TLS versions", "cps", [("{{version}}", rate("smtp_tls_sessions_total", "version"))], stacked=True),
        panel("Connections turned away", "cps", [
            ("limit", rate("connections_refused_total", where='job="smtp-ingress"')),
            ("handshake or PROXY header", rate("connections_failed_total", where='job="smtp-ingress"')),
        ]),
        panel("Verdicts", "cps", [("{{outcome}}", rate("auth_calls_total", "outcome", 'call="verify"'))], stacked=True),
        panel("SPF, DKIM, DMARC, ARC", "cps", [("{{method}}={{result}}", rate("auth_checks_total", "method, result"))]),
        panel("Time of a verdict", "s", [("95 of 100", quantile("auth_call_seconds", where='call="verify"'))]),
        panel("Failed logins", "cps", [
            ("wrong", rate("mda_logins_failed_total")), ("throttled", rate("mda_logins_throttled_total")),
        ]),
    ])


def deliverability():
    dashboard("deliverability", "Deliverability", "How other sites take our mail.", [
        panel("Taken by the peer", "percentunit", [("share", f'sum(rate(relay_deliveries_total{{outcome="relayed",{SITE}}}[$__rate_interval])) / sum(rate(relay_deliveries_total{{{SITE}}}[$__rate_interval]))')], "stat", width=8),
        panel("Attempts running", "short", [("attempts", gauge("relay_attempts_in_flight"))], "stat", width=8),
        panel("Held by relays", "short", [("deliveries", gauge("relay_held"))], "stat", width=8),
        panel("Outcomes", "cps", [("{{outcome}}", rate("relay_deliveries_total", "outcome"))], stacked=True),
        panel("Outcomes by class of destination", "cps", [("{{class}} {{outcome}}", rate("relay_deliveries_total", "class, outcome"))]),
        panel("Connections", "cps", [("{{outcome}}", rate("relay_connections_total", "outcome"))], stacked=True),
        panel("TLS versions", "cps", [("{{version}}", rate("relay_tls_sessions_total", "version"))], stacked=True),
        panel("Time of an attempt", "s", [("half", quantile("relay_attempt_seconds", 0.5)), ("95 of 100", quantile("relay_attempt_seconds"))]),
        panel("Given back untried", "cps", [("destination busy or silent", rate("relay_put_off_total"))]),
    ])


def storage():
    dashboard("storage", "Storage", "Postgres and Redis as the services see them.", [
        panel("Connections to Postgres", "short", [("{{state}}", gauge("mda_pool_connections", by="state"))], stacked=True),
        panel("A small statement", "s", [("half", quantile("mda_storage_probe_seconds", 0.5)), ("95 of 100", quantile("mda_storage_probe_seconds"))],
              about="From asking for a connection to the answer: a full pool shows here first."),
        panel("Probes that failed", "cps", [("failed", rate("mda_storage_probe_failed_total"))]),
        panel("Contents reclaimed", "cps", [("contents", rate("mda_contents_reclaimed_total"))]),
        panel("Redis, slowest of 20", "s", [("{{operation}}", quantile("redis_seconds", by="operation"))]),
        panel("Redis commands", "cps", [("{{operation}}", rate("redis_seconds_count", "operation"))]),
        panel("Redis did not answer", "cps", [("{{job}}", f"sum by (job) (rate(redis_failed_total{{{SITE}}}[$__rate_interval])) or sum(up{{job=\"mda\",{SITE}}}) * 0")]),
        panel("Accept and Settle", "s", [("{{method}}", quantile("grpc_server_seconds", by="method", where='method=~"Spool.*"'))]),
    ])


def reading():
    dashboard("imap-pop3", "IMAP and POP3", "Mail programs.", [
        panel("IMAP sessions", "short", [("logged in", gauge("imap_sessions")), ("in IDLE", gauge("imap_sessions_idle"))]),
        panel("Connections open", "short", [("{{job}}", gauge("connections_active", by="job", where='job=~"imap-gateway|pop3-gateway"'))]),
        panel("IMAP commands", "cps", [("{{name}}", "topk(12, " + rate("imap_commands_total", "name") + ")")]),
        panel("IMAP commands by outcome", "cps", [("{{outcome}}", rate("imap_commands_total", "outcome"))], stacked=True),
        panel("POP3 commands", "cps", [("{{verb}}", rate("pop3_commands_total", "verb"))]),
        panel("Logins", "cps", [("IMAP {{outcome}}", rate("imap_logins_total", "outcome")), ("POP3 {{outcome}}", rate("pop3_logins_total", "outcome"))]),
        panel("Messages", "cps", [
            ("IMAP FETCH", rate("imap_messages_fetched_total")), ("IMAP APPEND", rate("imap_messages_appended_total")),
            ("POP3 RETR", rate("pop3_messages_retrieved_total")), ("POP3 DELE", rate("pop3_messages_deleted_total")),
        ]),
        panel("TLS versions", "cps", [("{{job}} {{version}}", rate("tls_handshakes_total", "job, version"))], stacked=True),
        panel("Answers of mda", "s", [("{{method}}", quantile("grpc_server_seconds", by="method", where='method=~"Mailboxes.*"'))], width=24),
    ])


def one_message():
    journey = {"type": "postgres", "uid": "journey"}
    tempo = {"type": "tempo", "uid": "tempo"}

    def table(title, sql, height, links=None):
        overrides = [{"matcher": {"id": "byName", "options": name}, "properties": [{"id": "links", "value": [
            {"title": "open", "url": url}]}]} for name, url in (links or {}).items()]
        return {"type": "table", "title": title, "datasource": journey, "width": 24, "height": height,
                "targets": [{"refId": "A", "datasource": journey, "format": "table", "rawQuery": True, "rawSql": sql}],
                "fieldConfig": {"defaults": {"custom": {"filterable": True}}, "overrides": overrides}}

    message = {"name": "message", "label": "Queue id or Message-ID", "type": "textbox", "query": "", "current": {"text": "", "value": ""}}
    explore = '/explore?left={"datasource":"tempo","queries":[{"refId":"A","queryType":"traceql","query":"${__value.raw}"}],"range":{"from":"now-30d","to":"now"}}'
    dashboard("one-message", "One message", "Where is my message? A queue id or a Message-ID, its journey, its traces.", [
        table("Messages", "select * from journey_messages('$message')", 5, {"trace_id": explore}),
        table("Journey", "select * from journey_events('$message')", 12, {"trace_id": explore}),
        {"type": "table", "title": "Traces, also of later attempts", "datasource": tempo, "width": 24, "height": 8,
         "targets": [{"refId": "A", "datasource": tempo, "queryType": "traceql", "tableType": "traces", "limit": 50,
                      "query": '{ span.mail.queue_id = "$message" }'}],
         "fieldConfig": {"defaults": {}, "overrides": []}},
    ], variables=[message])


HERE.mkdir(exist_ok=True)
for make in (mail_flow, door, deliverability, storage, reading, one_message):
    make()
