// Calls of the API. A session's cookie goes along by itself; changes carry its CSRF token.

let csrf = "";

export class Refused extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

export function remember(session) {
  csrf = session.csrf;
}

async function call(method, path, body) {
  const headers = { accept: "application/json", "x-csrf-token": csrf };
  if (body !== undefined) headers["content-type"] = "application/json";
  let response;
  try {
    response = await fetch(`/api/v1${path}`, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
  } catch {
    throw new Refused(0, "The console does not answer.");
  }
  if (response.status === 204) return null;
  const answer = await response.json().catch(() => ({ detail: response.statusText }));
  if (response.ok) return answer;
  if (response.status === 401 && path !== "/session") dispatchEvent(new Event("logged-out"));
  throw new Refused(response.status, answer.detail || answer.title);
}

export const get = (path, query = {}) => {
  const given = Object.entries(query).filter(([, value]) => value !== "" && value !== undefined);
  return call("GET", path + (given.length ? `?${new URLSearchParams(given)}` : ""));
};
export const post = (path, body) => call("POST", path, body);
export const put = (path, body) => call("PUT", path, body);
export const remove = (path) => call("DELETE", path);
export const part = encodeURIComponent;
