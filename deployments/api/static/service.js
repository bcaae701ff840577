// The service that this page came from. Nothing is ever sent anywhere else.

import { headerOf, key } from "./key.js";

const ROOT = new URL("..", import.meta.url); // the page may be below a prefix

/** The answer to a request that was refused. `status` is 0 if there was none; `sent` is the key. */
export class Refusal extends Error {
  constructor(status, message, sent, code = "") {
    super(message);
    Object.assign(this, { status, sent, code });
  }
}

/** Returns the address of a route, without a slash at the end. */
export function address(path = "") {
  return new URL(path, ROOT).href.replace(/\/$/, "");
}

/** Returns the response of a route. Throws Refusal. */
export async function get(path) {
  return call(path, {});
}

/** Sends JSON and returns the response. Throws Refusal. */
export async function post(path, body) {
  const headers = { "content-type": "application/json" };
  return call(path, { method: "POST", headers, body: JSON.stringify(body) });
}

async function call(path, { headers = {}, ...options }) {
  const sent = key.get();
  const authorization = sent ? { authorization: headerOf(sent) } : {};
  let response;
  try {
    response = await fetch(address(path), {
      ...options,
      headers: { accept: "application/json", ...headers, ...authorization },
      cache: "no-store",
      credentials: "same-origin", // what a proxy in front may want
      signal: AbortSignal.timeout(90_000),
    });
  } catch (error) {
    const why = error.name === "TimeoutError" ? "did not answer in time" : "cannot be reached";
    throw new Refusal(0, `The service ${why}.`, sent);
  }
  if (!response.ok) throw await refusal(response, sent);
  return response;
}

async function refusal(response, sent) {
  const body = await response.json().catch(() => ({}));
  const message = body.error?.message ?? `The service answered ${response.status}.`;
  return new Refusal(response.status, message, sent, body.error?.code);
}
