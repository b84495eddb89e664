// Elements, times and sizes. Text only ever becomes text nodes.

export function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

// A line drawing of one path, 24 by 24.
export function drawing(path, className) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  const line = document.createElementNS(space, "path");
  for (const [name, value] of Object.entries({ viewBox: "0 0 24 24", class: className, "aria-hidden": "true" })) svg.setAttribute(name, value);
  line.setAttribute("d", path);
  svg.append(line);
  return svg;
}

export function time(ms, withDay = true) {
  if (!ms) return "";
  const date = new Date(ms);
  const text = (withDay ? `${date.toISOString().slice(0, 10)} ` : "") + date.toTimeString().slice(0, 8);
  const shown = withDay ? text : `${text}.${String(date.getMilliseconds()).padStart(3, "0")}`;
  return el("time", { datetime: date.toISOString() }, shown);
}

export function bytes(n) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let i = 0;
  for (; n >= 1000 && i < units.length - 1; i++) n /= 1000;
  return `${i ? n.toFixed(1) : n} ${units[i]}`;
}

export function tag(text, kind = "") {
  return el("span", { class: `tag ${kind}` }, text);
}

export function table(caption, heads, rows, empty) {
  if (!rows.length) return el("p", { class: "soft" }, empty);
  const head = el("tr", {}, heads.map((h) => el("th", { scope: "col" }, h)));
  return el("div", { class: "scroll" },
    el("table", {}, el("caption", { class: "unseen" }, caption), el("thead", {}, head), el("tbody", {}, rows)));
}

export function cells(...values) {
  return values.map((value) => el("td", {}, value));
}

// A labelled field; its element is found by its name in the form.
export function field(label, attributes, className = "") {
  const { options, text, ...rest } = attributes;
  const kind = options ? "select" : text !== undefined ? "textarea" : "input";
  const control = el(kind, rest, (options || []).map(([value, shown]) => el("option", { value }, shown)), text || "");
  return el("label", { class: className }, label, control);
}

export function announce(text) {
  document.getElementById("announce").textContent = text;
}

// The form's values; the form is disabled until `done` ends, and says what went wrong.
export function submits(form, done) {
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const values = Object.fromEntries(new FormData(form));
    form.querySelector(".error")?.remove();
    const buttons = form.querySelectorAll("button");
    buttons.forEach((b) => (b.disabled = true));
    try {
      await done(values);
    } catch (e) {
      form.append(el("p", { class: "error wide", role: "alert" }, e.message));
    } finally {
      buttons.forEach((b) => (b.disabled = false));
    }
  });
  return form;
}
