// What was sent to Junk, and its release into INBOX.

import * as api from "./api.js";
import { bytes, cells, el, field, submits, table, tag, time } from "./dom.js";
import { action, manages } from "./pages.js";

const PAGE = 200;

export async function quarantine(session) {
  const box = el("section", { class: "card", "aria-label": "Quarantined messages", "aria-live": "polite" });
  const more = el("p", {});
  const rows = [];
  let wanted = {};

  const row = (m) => {
    const tr = el("tr", { "data-queue-id": m.queue_id, "data-address": m.address }, cells(
      time(m.accepted_at_ms), m.address,
      [el("span", {}, m.from || "no From"), el("br"), el("span", { class: "soft" }, m.sender || "<>")],
      [el("a", { href: `#/journey/${m.queue_id}` }, m.subject || "(no subject)"), el("br"), el("span", { class: "soft" }, bytes(m.size)), m.seen && [" ", tag("read in Junk")]],
      el("span", { class: "soft" }, m.reason || "by a filter"),
      manages(session) ? el("div", { class: "buttons small" }, action("Release", async () => {
        const { addresses } = await api.post(`/quarantine/${m.queue_id}`, { action: "release", addresses: [m.address] });
        rows.splice(rows.indexOf(tr), 1);
        show();
        return `Released into the INBOX of ${addresses.join(", ")}`;
      })) : ""));
    return tr;
  };
  const show = () => box.replaceChildren(
    table("Quarantined messages", ["Accepted", "For", "From", "Subject", "Why", ""], rows, "Nothing is in quarantine."), more);
  const load = async (before) => {
    const found = await api.get("/quarantine", { ...wanted, limit: PAGE, before_ms: before });
    rows.push(...found.map(row));
    const last = found.at(-1);
    more.replaceChildren(...(found.length === PAGE ? [action("Older ones", async () => { await load(last.accepted_at_ms); return "Older ones are shown"; })] : []));
    show();
  };
  const form = el("form", { class: "row card", id: "quarantine-form" },
    field("Domain", { name: "domain", placeholder: "all" }), field("Account", { name: "address", placeholder: "all" }),
    el("button", { class: "main" }, "Show"));
  submits(form, async (values) => {
    wanted = Object.fromEntries(Object.entries(values).map(([name, value]) => [name, value.trim()]));
    rows.length = 0;
    await load();
  });
  await load();
  return el("div", {}, el("h1", {}, "Quarantine"),
    el("p", { class: "soft" }, "Mail that DMARC, a filter or a scanner sent to Junk and that nobody has moved since. Its From is what the message claims."),
    form, box);
}
