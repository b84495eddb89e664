// Which page is shown, and who is logged in.

import * as api from "./api.js";
import { el, field, submits } from "./dom.js";
import * as journey from "./journey.js";
import * as pages from "./pages.js";
import { quarantine } from "./quarantine.js";
import { reports } from "./reports.js";

const main = document.getElementById("main");
const nav = document.getElementById("nav");
const who = document.getElementById("who");
let session = null;

const PAGES = {
  journey: ["Email Journey", (rest) => journey.page(session, rest)],
  search: ["Search", () => pages.search(session)],
  queue: ["Queue", () => pages.queue(session)],
  quarantine: ["Quarantine", () => quarantine(session)],
  domains: ["Domains", (rest) => pages.domains(session, rest)],
  accounts: ["Accounts", () => pages.accounts(session)],
  reports: ["Reports", () => reports()],
  access: ["Access", () => pages.access(session), (s) => s.role !== "support"],
};

async function show(focus) {
  journey.leave();
  if (!session) return;
  const [, name = "journey", rest] = location.hash.split("/");
  const page = PAGES[name] || PAGES.journey;
  nav.replaceChildren(...Object.entries(PAGES).filter(([, p]) => !p[2] || p[2](session)).map(([id, [title]]) =>
    el("a", { href: `#/${id}`, "aria-current": PAGES[id] === page ? "page" : undefined }, title)));
  document.title = `${page[0]} – Postroad`;
  try {
    main.replaceChildren(await page[1](rest ? decodeURIComponent(rest) : ""));
  } catch (e) {
    main.replaceChildren(el("h1", {}, page[0]), el("p", { class: "error", role: "alert" }, e.message));
  }
  if (focus) main.focus();
}

function welcome(next) {
  session = next;
  api.remember(session);
  const role = session.tenant ? `${session.role} of ${session.tenant}` : session.role;
  who.replaceChildren(el("span", { id: "whoami" }, `${session.name}, ${role}`),
    el("button", { type: "button", id: "logout", onclick: async () => { await api.remove("/session").catch(() => null); login(); } }, "Log out"));
  nav.hidden = who.hidden = false;
  show(false);
}

async function login() {
  journey.leave();
  session = null;
  nav.hidden = who.hidden = true;
  document.title = "Log in – Postroad";
  const about = await api.get("/about").catch(() => ({ hostname: location.host, oidc: false }));
  const form = el("form", { class: "card narrow grid", id: "login" }, el("h1", { class: "wide" }, `Log in to ${about.hostname}`),
    field("Token", { name: "token", type: "password", required: true, autocomplete: "current-password" }, "wide"),
    el("button", { class: "main" }, "Log in"),
    about.oidc && el("a", { class: "button", href: "/login/oidc" }, "Single sign-on"),
    el("p", { class: "soft wide" }, "A token is made with “postroad admin token add”."));
  main.replaceChildren(submits(form, async (values) => welcome(await api.post("/session", values))));
  form.elements.token.focus();
}

addEventListener("hashchange", (event) => {
  // The skip link is no page.
  if (location.hash.startsWith("#/")) show(true);
  else event.preventDefault();
});
addEventListener("logged-out", login);

api.get("/session").then(welcome, login);
