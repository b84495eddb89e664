// Search, queue, domains, accounts, access.

import * as api from "./api.js";
import { announce, bytes, cells, el, field, submits, table, tag, time } from "./dom.js";

export const manages = (session) => session.role !== "support";
const operates = (session) => session.role === "operator";

// A button that asks before it does what cannot be undone, and says what went wrong.
export function action(label, run, { danger = false, sure = "" } = {}) {
  return el("button", { type: "button", class: danger ? "danger" : "", onclick: async (event) => {
    if (sure && !confirm(sure)) return;
    event.target.disabled = true;
    try {
      announce((await run()) || `${label}: done`);
    } catch (e) {
      event.target.closest("section").prepend(el("p", { class: "error", role: "alert" }, e.message));
    } finally {
      event.target.disabled = false;
    }
  } }, label);
}

const STATE = { delivered: "good", fetched: "good", relayed: "good", bounced: "bad", refused: "bad", discarded: "bad", deferred: "warn", held: "warn", released: "good" };

export async function search() {
  const results = el("section", { class: "card", "aria-label": "Messages", "aria-live": "polite" });
  const form = el("form", { class: "grid card", role: "search", id: "search-form" },
    field("Queue id or Message-ID", { name: "id" }), field("Sender", { name: "sender" }), field("Recipient", { name: "recipient" }),
    field("Since", { name: "since", type: "datetime-local" }), field("Until", { name: "until", type: "datetime-local" }),
    el("div", { class: "wide" }, el("button", { class: "main" }, "Search")));
  const find = async (values) => {
    const ms = (text) => (text ? new Date(text).getTime() : "");
    const found = await api.get("/messages", { id: values.id, sender: values.sender, recipient: values.recipient, since_ms: ms(values.since), until_ms: ms(values.until) });
    results.replaceChildren(table("Messages", ["Accepted", "From", "To", "State", "Journey"], found.map((m) => el("tr", {}, cells(
      time(m.accepted_at_ms), m.sender || "<>", m.recipients.join(", "), tag(m.open ? `${m.last_event}, open` : m.last_event, STATE[m.last_event]),
      el("a", { href: `#/journey/${m.queue_id}` }, m.queue_id)))), "No message matches."));
  };
  submits(form, find);
  await find({});
  return el("div", {}, el("h1", {}, "Search"), form, results);
}

export async function queue(session) {
  const box = el("section", { class: "card", "aria-label": "Queue" });
  const load = async () => {
    const entries = await api.get("/queue", { limit: 500 });
    const change = (e, name) => async () => {
      const { changed } = await api.post(`/queue/${e.queue_id}`, { action: name });
      await load();
      return changed ? `${name}: ${changed} changed` : "Nothing changed: it is being attempted, or has ended.";
    };
    const rows = entries.map((e) => el("tr", { "data-queue-id": e.queue_id, "data-held": String(e.held) }, cells(
      el("a", { href: `#/journey/${e.queue_id}` }, e.queue_id), e.sender || "<>", e.recipient,
      [e.held ? tag("held", "warn") : e.running ? tag("running") : tag(e.attempts ? `attempt ${e.attempts} failed` : "waiting"), el("br"), el("span", { class: "soft" }, e.last_reply)],
      time(e.next_attempt_ms),
      manages(session) ? el("div", { class: "buttons small" },
        e.held ? action("Release", change(e, "release")) : action("Hold", change(e, "hold")),
        action("Retry", change(e, "retry")),
        action("Bounce", change(e, "bounce"), { danger: true, sure: `Return the message to ${e.sender || "nobody"}? It is not tried again.` })) : "")));
    box.replaceChildren(table("Queue", ["Message", "From", "To", "State", "Next attempt", "Change"], rows, "Nothing waits."));
  };
  await load();
  return el("div", {}, el("h1", {}, "Queue"), el("p", {}, action("Refresh", load)), box);
}

const PUBLISHED = { Published: ["published", "good"], Missing: ["missing", "bad"], Different: ["different", "bad"], Unknown: ["not known now", "warn"] };

export async function domains(session, name) {
  if (name) return domain(name);
  const box = el("section", { class: "card", "aria-label": "Domains" });
  const load = async () => {
    const all = await api.get("/domains");
    box.replaceChildren(table("Domains", ["Domain", "Tenant", ""], all.map((d) => el("tr", {}, cells(
      el("a", { href: `#/domains/${api.part(d.name)}` }, d.name), d.tenant,
      operates(session) ? el("div", { class: "buttons small" }, action("Remove", async () => { await api.remove(`/domains/${api.part(d.name)}`); await load(); }, { danger: true, sure: `Accept no more mail for ${d.name}?` })) : ""))), "No domain yet."));
  };
  await load();
  const root = el("div", {}, el("h1", {}, "Domains"), box);
  if (operates(session)) {
    const form = el("form", { class: "row card", "aria-label": "New domain" }, field("Domain", { name: "name", required: true }), field("Tenant", { name: "tenant", placeholder: "default" }), el("button", { class: "main" }, "Add"));
    root.append(submits(form, async (values) => { await api.post("/domains", values); form.reset(); await load(); }));
  }
  return root;
}

async function domain(name) {
  const shown = await api.get(`/domains/${api.part(name)}`);
  const rows = shown.records.map((r) => el("tr", { "data-state": r.state }, el("td", {}, r.type), el("td", { class: "value" }, r.name), el("td", { class: "value" }, r.value),
    el("td", {}, tag(...PUBLISHED[r.state]), r.state === "Different" && el("div", { class: "value soft" }, r.found.join(" | ")))));
  return el("div", {}, el("h1", {}, shown.name), el("p", { class: "soft" }, "What to publish in the DNS, and what is there now."),
    el("section", { class: "card", "aria-label": "DNS records" }, table("DNS records", ["Type", "Name", "Value", "State"], rows, "")), el("a", { href: "#/domains" }, "All domains"));
}

export async function accounts(session) {
  const box = el("section", { class: "card", "aria-label": "Accounts" });
  const aliasBox = el("section", { class: "card", "aria-label": "Aliases" });
  const load = async () => {
    const [all, aliases] = await Promise.all([api.get("/accounts"), api.get("/aliases")]);
    box.replaceChildren(table("Accounts", ["Address", "Used", "State", ""], all.map((a) => {
      const path = `/accounts/${api.part(a.address)}`;
      return el("tr", { "data-address": a.address }, cells(a.address,
        a.quota_bytes ? [el("meter", { min: 0, max: a.quota_bytes, high: a.quota_bytes * 0.9, value: a.used_bytes, "aria-label": "Quota used" }), ` ${bytes(a.used_bytes)} of ${bytes(a.quota_bytes)}`] : bytes(a.used_bytes),
        a.disabled ? tag("disabled", "warn") : tag("active", "good"),
        manages(session) ? el("div", { class: "buttons small" },
          action("Quota", async () => {
            const mb = prompt(`Quota of ${a.address} in MB; 0 is no limit`, String(a.quota_bytes / 1e6));
            if (mb === null || !(Number(mb) >= 0)) return "Quota: nothing changed";
            await api.put(path, { quota_bytes: Math.round(Number(mb) * 1e6) });
            await load();
          }),
          action(a.disabled ? "Enable" : "Disable", async () => { await api.put(path, { disabled: !a.disabled }); await load(); }),
          action("Remove", async () => { await api.remove(path); await load(); }, { danger: true, sure: `Remove ${a.address} and all its mail?` })) : ""));
    }), "No account yet."));
    aliasBox.replaceChildren(table("Aliases", ["Address", "Goes to", ""], aliases.map((a) => el("tr", {}, cells(a.address, a.targets.join(", "),
      manages(session) ? el("div", { class: "buttons small" }, action("Remove", async () => { await api.remove(`/aliases/${api.part(a.address)}`); await load(); }, { danger: true, sure: `Remove ${a.address}?` })) : ""))), "No alias yet."));
  };
  await load();
  const root = el("div", {}, el("h1", {}, "Accounts"), box);
  if (manages(session)) {
    const form = el("form", { class: "row card", "aria-label": "New account" }, field("Address", { name: "address", required: true }),
      field("Password", { name: "password", type: "password", required: true, autocomplete: "new-password" }), field("Quota in MB", { name: "quota", type: "number", min: 0, placeholder: "no limit" }), el("button", { class: "main" }, "Add"));
    root.append(submits(form, async ({ address, password, quota }) => { await api.post("/accounts", { address, password, quota_bytes: Math.round(Number(quota || 0) * 1e6) }); form.reset(); await load(); }));
  }
  root.append(el("h2", {}, "Aliases"), aliasBox);
  if (manages(session)) {
    const form = el("form", { class: "row card", "aria-label": "New alias" }, field("Address", { name: "address", required: true }), field("Goes to (commas between)", { name: "targets", required: true }), el("button", { class: "main" }, "Set"));
    root.append(submits(form, async ({ address, targets }) => { await api.put(`/aliases/${api.part(address)}`, { targets: targets.split(",").map((t) => t.trim()).filter(Boolean) }); form.reset(); await load(); }));
  }
  return root;
}

export async function access(session) {
  const box = el("section", { class: "card", "aria-label": "Tokens" });
  const told = el("div", { role: "status" });
  const load = async () => {
    const all = await api.get("/tokens");
    box.replaceChildren(table("Tokens", ["Name", "Role", "Tenant", "Last used", "Ends", ""], all.map((t) => el("tr", {}, cells(t.name, tag(t.role), t.tenant || "all",
      time(t.last_used_at_ms) || "never", time(t.expires_at_ms) || "never",
      el("div", { class: "buttons small" }, action("Revoke", async () => { await api.remove(`/tokens/${t.id}`); await load(); }, { danger: true, sure: `End ${t.name} and its sessions?` }))))), "No token yet."));
  };
  await load();
  const roles = [["support", "support"], ["tenant-admin", "tenant admin"], ...(operates(session) ? [["operator", "operator"]] : [])];
  const form = el("form", { class: "row card", "aria-label": "New token" }, field("Whose", { name: "name", required: true }), field("Role", { name: "role", options: roles }),
    operates(session) && field("Tenant", { name: "tenant", placeholder: "all" }), field("Days", { name: "days", type: "number", min: 0, placeholder: "no end" }), el("button", { class: "main" }, "Make"));
  submits(form, async ({ name, role, tenant, days }) => {
    const made = await api.post("/tokens", { name, role, tenant: tenant || "", valid_days: Number(days || 0) });
    told.replaceChildren(el("p", {}, "Copy it now, it is not shown again:"), el("p", { class: "secret" }, made.secret));
    form.reset();
    await load();
  });
  const root = el("div", {}, el("h1", {}, "Access"), box, form, told);
  if (operates(session)) {
    const tenants = el("section", { class: "card", "aria-label": "Tenants" });
    const list = async () => tenants.replaceChildren(table("Tenants", ["Tenant"], (await api.get("/tenants")).map((t) => el("tr", {}, cells(t.name))), ""));
    await list();
    const add = el("form", { class: "row card", "aria-label": "New tenant" }, field("Name", { name: "name", required: true }), el("button", { class: "main" }, "Add"));
    root.append(el("h2", {}, "Tenants"), tenants, submits(add, async (values) => { await api.post("/tenants", values); add.reset(); await list(); }));
  }
  return root;
}
