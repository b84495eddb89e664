// From a message's events to the picture: which hop is where on the way, and how it stands.

export const HOPS = [
  ["mua-out", "Sender", "💻"],
  ["smtp", "SMTP", "🚪"],
  ["mta", "MTA / MDA", "📮"],
  ["mx", "Other site", "🏤"],
  ["imap", "IMAP", "📬"],
  ["mua-in", "Receiver", "📖"],
];

// Where an event belongs, and what it makes of that hop: lit, wait or stop.
function place(event) {
  const elsewhere = event.site !== "";
  const action = event.detail?.action;
  switch (event.name) {
    case "sent": return [["mua-out", "lit"]];
    case "received": return elsewhere ? [["mx", "lit"]] : [["mua-out", "lit"], ["smtp", "lit"]];
    case "verdict": return [[elsewhere ? "mx" : "smtp", action === "reject" ? "stop" : action === "quarantine" ? "wait" : "lit"]];
    case "refused": return [[elsewhere ? "mx" : "smtp", "stop"]];
    case "delivered": return [[elsewhere ? "mx" : "mta", "lit"], ["imap", "lit"]];
    case "fetched": return [["imap", "lit"], ["mua-in", "lit"]];
    case "relayed": return [["mta", "lit"], ["mx", "lit"]];
    case "deferred":
    case "held": return [[elsewhere ? "mx" : "mta", "wait"]];
    case "bounced":
    case "discarded": return [[elsewhere ? "mx" : "mta", "stop"]];
    default: return [[elsewhere ? "mx" : "mta", "lit"]];
  }
}

const SHORT = {
  sent: () => "sent",
  received: (e) => (e.detail?.tls ? `received over ${e.detail.tls.version}` : "received"),
  verdict: (e) => e.text,
  refused: (e) => `stopped: ${e.text}`,
  queued: () => "queued",
  delivered: (e) => `delivered ${e.text}`,
  fetched: () => "read",
  relayed: () => "relayed",
  deferred: (e) => `waits: ${e.text}`,
  bounced: (e) => `returned: ${e.text}`,
  held: () => "held by an operator",
};

export function hops(events) {
  const states = new Map(HOPS.map(([id]) => [id, { state: "idle", at: 0, what: "", events: [] }]));
  let relays = false;
  for (const event of events) {
    if (event.site !== "" || event.name === "relayed") relays = true;
    for (const [id, state] of place(event)) {
      const hop = states.get(id);
      hop.events.push(event);
      // What a verdict put aside stays so, whatever comes after it at the same door.
      if (!(hop.state === "wait" && id === "smtp" && state === "lit")) hop.state = state;
      if (!hop.at || state !== "lit") hop.at = event.at_ms;
      if (id !== "mua-out") hop.what = (SHORT[event.name] || ((e) => e.name))(event);
      else hop.what = event.detail?.account || event.detail?.helo || "sent";
    }
  }
  return HOPS.filter(([id]) => id !== "mx" || relays).map(([id, name, mark]) => ({ id, name, mark, ...states.get(id) }));
}

export const WORDS = { idle: "not yet", lit: "done", wait: "waiting", stop: "stopped here" };
