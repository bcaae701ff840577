// The page: a form that compares texts, the same call as code, and the fleet beside it.

import { showAnswer } from "./answer.js";
import { byId, element, say } from "./elements.js";
import { Fleet } from "./fleet.js";
import { key, keyIn, problemOf, refusalOf } from "./key.js";
import { address, post } from "./service.js";
import { LANGUAGES } from "./snippets.js";
import { Texts } from "./texts.js";

let needsKey = Boolean(key.get());

const texts = new Texts(showSnippet, compare);
const fleet = new Fleet(showService, refused);

/** Returns the body of /v1/embeddings that the form stands for. */
function bodyOfForm() {
  const role = byId("role").value;
  return {
    model: byId("model").value,
    input: texts.values,
    ...(role && { input_type: role }),
    ...(byId("truncate").checked && { truncate: true }),
  };
}

async function compare() {
  const problem = texts.problem();
  say(byId("error"), problem);
  if (problem || byId("submit").disabled) return;
  byId("submit").disabled = true;
  try {
    const body = bodyOfForm();
    const [response, route] = await Promise.all([post("v1/embeddings", body), explained(body)]);
    showAnswer(body.input, { headers: response.headers, body: await response.json() }, route);
    byId("answer").scrollIntoView({ block: "nearest" });
  } catch (error) {
    byId("answer").hidden = true; // it belongs to other texts
    showError(error);
  } finally {
    byId("submit").disabled = false;
  }
}

/** Returns why no other model answers; null if that cannot be said. */
async function explained(body) {
  try {
    return await (await post("v1/route", body)).json();
  } catch {
    return null; // the answer to the call itself says what is wrong
  }
}

function showError(error) {
  if (error.status === 401) {
    refused(error);
    return;
  }
  say(byId("error"), error.code ? `${error.message} (${error.code})` : error.message);
  const place = /input\[(\d+)\]/.exec(error.message);
  if (place) texts.mark(Number(place[1]));
}

/** Asks for a key if the service needs one. */
function refused(error) {
  if (error.status !== 401) {
    say(byId("service"), error.message);
    return;
  }
  needsKey = true;
  if (error.sent !== key.get()) return; // another key has been entered since
  const wasWrong = Boolean(error.sent);
  key.forget();
  byId("key-form").hidden = false;
  byId("forget-key").hidden = true;
  say(byId("service"), "Waiting for a key");
  say(byId("fleet-problem"), "Enter a key to see the fleet.");
  byId("fleet").replaceChildren();
  if (wasWrong) showKeyError(refusalOf(error.sent));
  byId("key").focus();
  showSnippet();
}

async function showService({ data, spaces }) {
  byId("key-form").hidden = true;
  byId("forget-key").hidden = !needsKey;
  showChoices(data, spaces);
  const able = data.filter((model) => ["ready", "cold"].includes(model.state)).length;
  say(byId("service"), `${able} of ${data.length} ${data.length === 1 ? "model" : "models"} available`);
}

/** Fills the list of models, and keeps the choice. */
function showChoices(models, spaces) {
  const dense = models.filter((model) => !model.kind || model.kind === "embedder");
  const sizes = [...new Set(dense.map((model) => model.size).filter(Boolean))];
  const groups = {
    Model: dense.map(({ id, state }) => [id, state === "ready" ? id : `${id} (${state})`]),
    Size: sizes.map((size) => [size, size]),
    "Shared space": spaces.map(({ name }) => [name, name]),
  };
  const wanted = JSON.stringify(groups);
  const select = byId("model");
  if (select.dataset.groups === wanted) return; // an open list must not change under the hand
  const chosen = select.value;
  select.dataset.groups = wanted;
  select.replaceChildren(
    element("option", { value: "auto", textContent: "auto: the service chooses" }),
    ...Object.entries(groups).filter(([, options]) => options.length).map(([label, options]) => {
      const items = options.map(([value, textContent]) => element("option", { value, textContent }));
      return element("optgroup", { label }, ...items);
    }),
  );
  select.value = chosen;
  if (select.value !== chosen) select.value = "auto";
  showSnippet();
}

function showSnippet() {
  const chosen = document.querySelector("#languages input:checked")?.value;
  if (!chosen) return;
  byId("snippet").textContent = LANGUAGES[chosen]({ url: address(), hasKey: needsKey, body: bodyOfForm() });
  byId("copied").textContent = "";
}

async function copySnippet() {
  const code = byId("snippet").textContent;
  try {
    await navigator.clipboard.writeText(code); // only over HTTPS, or on this machine
    byId("copied").textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(byId("snippet"));
    byId("copied").textContent = "Selected: press Ctrl + C";
  }
}

function addLanguages() {
  Object.keys(LANGUAGES).forEach((name, i) => {
    const input = element("input", { type: "radio", name: "language", value: name, checked: i === 0 });
    byId("languages").append(element("label", {}, input, name));
  });
}

function useKey(event) {
  event.preventDefault();
  const entered = keyIn(byId("key").value);
  const problem = problemOf(entered);
  showKeyError(problem);
  if (problem) return;
  key.set(entered);
  byId("key").value = "";
  fleet.watch();
}

function showKeyError(sentence) {
  say(byId("key-error"), sentence);
  byId("key").setAttribute("aria-invalid", Boolean(sentence));
}

function forgetKey() {
  key.forget();
  fleet.watch();
}

addLanguages();
byId("compare").addEventListener("submit", (event) => {
  event.preventDefault();
  compare();
});
byId("compare").addEventListener("change", showSnippet);
byId("languages").addEventListener("change", showSnippet);
byId("copy").addEventListener("click", copySnippet);
byId("key-form").addEventListener("submit", useKey);
byId("forget-key").addEventListener("click", forgetKey);
showSnippet();
fleet.watch();
