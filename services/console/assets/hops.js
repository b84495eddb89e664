// From a message's events to the picture: which hop is where on the way, and how it stands.

// Id, name, and a drawing: pen, door, sorting tray, building, letter box, open letter.
export const HOPS = [
  ["mua-out", "Sender", "M4 20l1-5L16 4l4 4L9 19zM13 7l4 4"],
  ["smtp", "SMTP", "M5 21V4h10v17M3 21h18M15 7h4v14M12 12v2"],
  ["mta", "MTA / MDA", "M3 13l3-8h12l3 8v6H3zM3 13h5l2 3h4l2-3h5"],
  ["mx", "Other site", "M4 21V9l8-5 8 5v12M2 21h20M9 21v-6h6v6M9 11h.01M15 11h.01"],
  ["imap", "IMAP", "M3 6h18v12H3zM3 7l9 6 9-6"],
  ["mua-in", "Receiver", "M3 10l9-6 9 6v10H3zM3 10l9 6 9-6M8 20l4-4 4 4"],
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
    // From Junk into INBOX; without a mailbox it is a delivery that was held.
    case "released": return [[elsewhere ? "mx" : "mta", "lit"], ...(event.detail?.mailbox ? [["imap", "lit"]] : [])];
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
  released: (e) => `released ${e.text}`,
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
