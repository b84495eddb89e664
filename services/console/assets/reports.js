// What others reported about our domains, as a picture over time.

import * as api from "./api.js";
import { cells, el, field, submits, table, time } from "./dom.js";

const DAY = 86_400_000;
const WORDS = {
  dmarc: { good: "passed DMARC", bad: "failed DMARC", unit: "messages" },
  tls: { good: "succeeded", bad: "failed", unit: "TLS sessions" },
};

function shape(name, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

const number = (n) => n.toLocaleString("en");
const day = (ms) => new Date(ms).toISOString().slice(0, 10);

// A round number at or above `n`: 1, 2 or 5 and zeros.
function ceiling(n) {
  const power = 10 ** Math.floor(Math.log10(Math.max(n, 1)));
  return [1, 2, 5, 10].map((f) => f * power).find((f) => f >= n);
}

// Bars of days, good below bad. The colours differ in lightness, and bad is hatched: nobody has to
// tell red from green. Its numbers are in the table beside it.
function chart(shown) {
  const { good, bad, unit } = WORDS[shown.kind];
  const [width, height, left, bottom] = [1000, 300, 70, 28];
  const count = Math.round((shown.to_ms - shown.from_ms) / DAY) + 1;
  const top = ceiling(Math.max(1, ...shown.days.map((d) => d.good + d.bad)));
  const y = (n) => (height - bottom) * (1 - n / top) + 6;
  const step = (width - left) / count;
  const sums = shown.days.reduce(([a, b], d) => [a + d.good, b + d.bad], [0, 0]);
  const svg = shape("svg", { viewBox: `0 0 ${width} ${height + 10}`, class: "chart", role: "img", "aria-labelledby": "chart-title chart-desc", id: "chart" },
    shape("title", { id: "chart-title" }, `${unit} by day, ${day(shown.from_ms)} to ${day(shown.to_ms)}`),
    shape("desc", { id: "chart-desc" }, `${number(sums[0])} ${unit} ${good}, ${number(sums[1])} ${bad}. The table below has each day.`),
    shape("defs", {}, shape("pattern", { id: "hatch", width: 6, height: 6, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" },
      shape("rect", { width: 6, height: 6, class: "bad" }), shape("rect", { width: 2, height: 6, class: "stripe" }))));
  for (const part of [0, 0.5, 1]) {
    const at = y(top * part);
    const text = shape("text", { x: left - 8, y: at + 5, "text-anchor": "end" }, number(Math.round(top * part * 10) / 10));
    svg.append(shape("line", { x1: left, x2: width, y1: at, y2: at, class: "grid" }), text);
  }
  for (let i = 0; i < count; i += Math.ceil(count / 8)) {
    svg.append(shape("text", { x: left + (i + 0.5) * step, y: height + 2, "text-anchor": "middle" }, day(shown.from_ms + i * DAY).slice(5)));
  }
  const bar = (d, from, n, kind) => n > 0 && svg.append(shape("rect", { class: kind, "data-day": day(d.day_ms), "data-count": n,
    ...(kind === "failed" ? { fill: "url(#hatch)" } : {}),
    x: left + ((d.day_ms - shown.from_ms) / DAY) * step + step * 0.1, width: Math.max(step * 0.8, 1),
    y: y(from + n), height: Math.max(y(from) - y(from + n), 1) },
  shape("title", {}, `${day(d.day_ms)}: ${number(n)} ${kind === "failed" ? bad : good}`)));
  for (const d of shown.days) {
    bar(d, 0, d.good, "good");
    bar(d, d.good, d.bad, "failed");
  }
  return el("figure", {}, svg, el("figcaption", {},
    el("span", { class: "key good" }), ` ${number(sums[0])} ${unit} ${good} `, el("span", { class: "key bad" }), ` ${number(sums[1])} ${bad}`));
}

const share = (good, bad) => (good + bad ? `${((100 * good) / (good + bad)).toFixed(1)} %` : "");

function days(shown) {
  const { good, bad } = WORDS[shown.kind];
  const rows = [...shown.days].reverse().map((d) => el("tr", {}, cells(day(d.day_ms), number(d.good), number(d.bad), share(d.good, d.bad), String(d.reports))));
  return el("details", {}, el("summary", {}, "The days as a table"),
    table("Days", ["Day (UTC)", good, bad, "Share that is good", "Reports"], rows, "No report of these days."));
}

function sources(shown) {
  const rows = shown.sources.map((s) => el("tr", { "data-source": s.source }, cells(s.source, number(s.good), number(s.bad), share(s.good, s.bad))));
  return el("section", { class: "card", "aria-label": "Hosts" }, el("h2", {}, "Hosts that sent under this name"),
    el("p", { class: "soft" }, "One that fails is a forger, a forwarder, or a sender of your own that is not in SPF and does not sign."),
    table("Hosts", ["Address", WORDS.dmarc.good, WORDS.dmarc.bad, "Share that passed"], rows, "No host is named."));
}

export async function reports() {
  const picture = el("div", { "aria-live": "polite", id: "picture" });
  const all = await api.get("/domains");
  const form = el("form", { class: "row card", id: "reports-form" },
    field("Domain", { name: "domain", options: [["", "all"], ...all.map((d) => [d.name, d.name])] }),
    field("Reports", { name: "kind", options: [["dmarc", "DMARC"], ["tls", "TLS"]] }),
    field("Time", { name: "days", options: [["30", "30 days"], ["90", "90 days"], ["365", "a year"]] }),
    el("button", { class: "main" }, "Show"));
  const load = async (values) => {
    const [shown, list] = await Promise.all([api.get("/reports/over-time", values), api.get("/reports", { domain: values.domain, kind: values.kind, limit: 50 })]);
    const rows = list.map((r) => el("tr", {}, cells(r.organisation, r.domain, time(r.begin_ms), number(r.good), number(r.bad))));
    picture.replaceChildren(
      el("section", { class: "card", "aria-label": "Over time" },
        shown.days.length ? [chart(shown), days(shown)] : el("p", { class: "soft" }, "Nobody has reported on these days.")),
      ...(shown.kind === "dmarc" ? [sources(shown)] : []),
      el("section", { class: "card", "aria-label": "The newest reports" }, el("h2", {}, "The newest reports"),
        table("Reports", ["From", "About", "Begins", WORDS[shown.kind].good, WORDS[shown.kind].bad], rows, "No report yet.")));
  };
  submits(form, load);
  await load({ domain: "", kind: "dmarc", days: "30" });
  return el("div", {}, el("h1", {}, "Reports"),
    el("p", { class: "soft" }, "What other sites say about mail under your domains (DMARC) and about their connections to you (TLS)."), form, picture);
}
