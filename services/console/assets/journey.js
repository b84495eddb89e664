// The Email Journey: sends a message, or opens a past one, and shows its way as it happens.

import * as api from "./api.js";
import { announce, bytes, drawing, el, field, submits, tag, time } from "./dom.js";
import { WORDS, hops } from "./hops.js";

let source = null;

export function leave() {
  source?.close();
  source = null;
}

export async function page(session, queueId) {
  leave();
  const picture = new Picture();
  const root = el("div", {}, el("h1", {}, "Email Journey"));
  if (queueId) {
    const { message } = await api.get(`/messages/${api.part(queueId)}`, { local: true });
    root.append(head(message), picture.root);
    picture.follow(queueId);
  } else {
    root.append(form(session, picture), picture.root);
  }
  return root;
}

function head(m) {
  return el("section", { class: "card", "aria-label": "Message" },
    el("dl", { class: "facts" },
      [["From", m.sender || "<> (a report)"], ["To", m.recipients.join(", ")], ["Message-ID", m.message_id || "none"],
        ["Queue id", m.queue_id], ["Accepted", time(m.accepted_at_ms)], ["Size", bytes(m.size)]]
        .map(([k, v]) => [el("dt", {}, k), el("dd", {}, v)])),
    el("p", {}, el("a", { href: "#/journey" }, "Send another message")));
}

function form(session, picture) {
  const status = el("p", { class: "status", role: "status", id: "status" }, "Ready to send.");
  const ways = [["submission", "As a mail program", session.can_submit], ["stranger", "As a stranger, at port 25", session.can_knock]]
    .filter(([, , there]) => there);
  if (!ways.length) {
    status.textContent = "Sending is not configured; past messages are found under Search.";
    return el("section", { class: "card" }, status);
  }
  const password = field("Password of the sender's mailbox", { name: "password", type: "password", autocomplete: "current-password" });
  const radios = ways.map(([value, label], i) =>
    el("label", {}, el("input", { type: "radio", name: "way", value, checked: i === 0, onchange: () => (password.hidden = value !== "submission") }), label));
  password.hidden = ways[0][0] !== "submission";
  const fields = el("form", { class: "grid", id: "send-form" },
    el("fieldset", { class: "wide" }, el("legend", {}, "Send it"), radios),
    field("From", { name: "from", type: "text", inputmode: "email", required: true, autocomplete: "username" }),
    password,
    field("To", { name: "to", type: "text", inputmode: "email", required: true }),
    field("Subject", { name: "subject", value: "Hello from the Email Journey" }),
    field("Text", { name: "text", text: "This message shows its own way." }, "wide"),
    el("div", { class: "wide send" }, el("button", { class: "main", id: "send" }, "Send"), status));
  submits(fields, async (values) => {
    leave();
    if (values.way !== "submission") delete values.password;
    status.textContent = "Sending …";
    picture.reset();
    const began = Date.now();
    picture.add({ name: "sent", at_ms: began, service: "this page", site: "", recipient: values.to, text: "handed to the server", detail: null });
    const sent = await api.post("/messages", values);
    if (sent.accepted) {
      status.textContent = sent.queue_id ? `Accepted as ${sent.queue_id}.` : "Accepted.";
      if (sent.queue_id) {
        picture.follow(sent.queue_id);
        status.append(" ", el("a", { href: `#/journey/${sent.queue_id}` }, "Link to this journey"));
      }
    } else {
      status.textContent = `Stopped: ${sent.reply}`;
      picture.add({ name: "refused", at_ms: sent.ended_ms, service: "smtp-ingress", site: "", recipient: values.to, text: sent.reply,
        detail: { stopped_at: sent.stage, dialogue: sent.dialogue } });
      picture.open("smtp");
    }
  });
  return el("section", { class: "card", "aria-label": "A new message" }, fields);
}

class Picture {
  constructor() {
    this.events = [];
    this.shown = null;
    this.list = el("ol", { class: "hops", "aria-label": "The message's way" });
    this.detail = el("section", { class: "card", id: "hop-detail", "aria-live": "off", hidden: true });
    this.root = el("section", { "aria-label": "Journey" }, this.list, this.detail);
    this.reset();
  }

  reset() {
    this.events = [];
    this.known = new Set();
    this.shown = null;
    this.queueId = null;
    this.records = null;
    this.draw();
  }

  add(event) {
    const key = JSON.stringify(event);
    if (this.known.has(key)) return;
    this.known.add(key);
    event.seen_ms = Date.now();
    this.events.push(event);
    this.events.sort((a, b) => a.at_ms - b.at_ms);
    announce(`${event.site || "here"}: ${event.name} ${event.text}`);
    this.draw();
  }

  follow(queueId) {
    this.queueId = queueId;
    source = new EventSource(`/api/v1/messages/${api.part(queueId)}/events`);
    source.addEventListener("journey", (e) => this.add(JSON.parse(e.data)));
  }

  // Hops stay the same elements, so that focus stays where it is and only what is new is animated.
  draw() {
    const all = hops(this.events);
    for (const item of [...this.list.children]) if (!all.some((h) => item.id === `hop-${h.id}`)) item.remove();
    all.forEach((hop, i) => {
      let item = this.list.querySelector(`#hop-${hop.id}`);
      if (!item) {
        item = el("li", { id: `hop-${hop.id}` }, el("button", { type: "button", class: "hop", "aria-expanded": "false", "aria-controls": "hop-detail", onclick: () => this.open(hop.id) }));
        this.list.insertBefore(item, this.list.children[i] || null);
      }
      item.dataset.state = hop.state;
      // How long after its event a hop was lit.
      const seen = hop.events.map((e) => e.seen_ms - e.at_ms);
      if (seen.length) item.dataset.lagMs = Math.max(...seen);
      item.firstChild.setAttribute("aria-expanded", String(this.shown === hop.id));
      item.firstChild.replaceChildren(
        drawing(hop.mark, "mark"), el("span", { class: "name" }, hop.name),
        el("span", { class: "unseen" }, WORDS[hop.state]),
        el("span", { class: "what" }, hop.what.length > 90 ? `${hop.what.slice(0, 90)} …` : hop.what), time(hop.at, false));
    });
    if (this.shown) this.fill(all.find((h) => h.id === this.shown));
  }

  async open(id) {
    this.shown = this.shown === id ? null : id;
    this.detail.hidden = !this.shown;
    this.draw();
    if (this.shown && this.queueId && !this.records) {
      this.records = await api.get(`/messages/${api.part(this.queueId)}/records`).catch(() => []);
      this.draw();
    }
  }

  fill(hop) {
    if (!hop) return;
    const events = hop.events.map((e) => show(e, this.records));
    this.detail.replaceChildren(el("h2", {}, `${hop.name}: ${WORDS[hop.state]}`),
      ...(events.length ? events : [el("p", { class: "soft" }, explain(hop.id, this.events))]));
  }
}

function explain(id, events) {
  const away = events.find((e) => e.name === "relayed");
  if (away && !events.some((e) => e.site) && ["imap", "mua-in"].includes(id)) return "The other site has taken the message; what it does with it is not told here.";
  return id === "mua-in" ? "Nobody has fetched the message yet." : "The message has not come here yet.";
}

const RESULTS = { pass: "good", none: "warn", neutral: "warn", softfail: "warn", temperror: "warn", fail: "bad", permerror: "bad", accept: "good", quarantine: "warn", reject: "bad" };

function show(event, records) {
  const detail = event.detail && typeof event.detail === "object" ? event.detail : {};
  const { dialogue, signatures, ...facts } = detail;
  const verdicts = ["spf", "dkim", "dmarc", "arc"].filter((k) => detail[k]);
  const kind = { refused: "bad", bounced: "bad", deferred: "warn", held: "warn" }[event.name] || "good";
  return el("article", { class: "event", "data-event": event.name },
    el("p", {}, tag(event.name, kind), " ", time(event.at_ms), " ",
      el("span", { class: "soft" }, [event.service, event.site && `at ${event.site}`, event.recipient && `for ${event.recipient}`].filter(Boolean).join(", "))),
    event.text && el("p", {}, event.text),
    verdicts.length > 0 && el("p", { class: "verdicts" }, verdicts.map((k) => [tag(`${k.toUpperCase()} ${detail[k]}`, RESULTS[detail[k]]), " "])),
    event.name === "verdict" && !event.site && records && records.length > 0 && [
      el("h2", {}, "The records that decide it, as published now"),
      el("div", { class: "scroll" }, el("table", { class: "records" }, records.map((r) =>
        el("tr", {}, el("th", { scope: "row" }, r.mechanism), el("td", {}, r.name), el("td", { class: "value" }, r.value || r.error || "nothing is published")))))],
    factList(facts, verdicts),
    Array.isArray(dialogue) && dialogue.length > 0 && [
      el("h2", {}, "SMTP dialogue"),
      el("pre", { class: "dialogue", tabindex: "0", "aria-label": "SMTP dialogue" }, dialogue.map((line) =>
        el("div", { class: line.startsWith("C:") ? "c" : /^S: [45]/.test(line) ? "bad" : "s" }, line)))],
    event.trace_url && el("p", {}, el("a", { href: event.trace_url, rel: "noreferrer" }, "Open the trace")),
    event.trace_id && !event.trace_url && el("p", { class: "soft" }, `Trace ${event.trace_id}`));
}

function factList(facts, verdicts) {
  const shown = Object.entries(facts).filter(([k, v]) => v !== null && v !== "" && !verdicts.includes(k) && k !== "action");
  if (!shown.length) return null;
  return el("dl", { class: "facts" }, shown.map(([k, v]) => [el("dt", {}, k.replaceAll("_", " ")), el("dd", {}, typeof v === "object" ? JSON.stringify(v) : k.endsWith("_ms") ? time(Number(v)) : String(v))]));
}
