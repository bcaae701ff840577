// The fleet as it is now: models, their states and loads.

import { byId, drawing, element, say, terms } from "./elements.js";
import { get } from "./service.js";
import { Throughput } from "./throughput.js";

const MODELS_EVERY_MS = 2_000;
const COUNTERS_EVERY_MS = 10_000; // Ray refreshes them no more often
const WIDTH = 100;
const HEIGHT = 30;

export class Fleet {
  #throughput = new Throughput();
  #readyAt = 0; // when the counters are due again
  #timer = 0;
  #round = 0;
  #seen = ""; // when the fleet was last seen
  #shown = ""; // what was shown then

  /** `listed` is called with each new list of models and spaces, `failed` with each Refusal. */
  constructor(listed, failed) {
    this.listed = listed;
    this.failed = failed;
    document.addEventListener("visibilitychange", () => this.watch());
  }

  /** Watches the fleet from now on, as long as the page is visible. */
  async watch() {
    clearTimeout(this.#timer);
    const round = ++this.#round; // if two overlap, only the later one continues
    if (document.hidden) return;
    const continues = await this.#look();
    if (continues && round === this.#round) this.#timer = setTimeout(() => this.watch(), MODELS_EVERY_MS);
  }

  /** Looks once; returns whether to look again soon. */
  async #look() {
    try {
      const listing = await (await get("v1/models")).json();
      await this.#count();
      this.#show(listing.data);
      say(byId("fleet-problem"), "");
      this.listed(listing);
    } catch (error) {
      const since = this.#seen && ` Below is the state as of ${this.#seen}.`;
      say(byId("fleet-problem"), `${error.message}${since}`);
      this.failed(error);
      return error.status !== 401;
    }
    this.#seen = new Date().toLocaleTimeString();
    return true;
  }

  async #count() {
    if (performance.now() < this.#readyAt) return;
    this.#readyAt = performance.now() + COUNTERS_EVERY_MS;
    try {
      this.#throughput.add(await (await get("metrics")).text(), performance.now() / 1000);
    } catch (error) {
      if (error.status === 401) throw error; // the list of models is worth showing without counts
    }
  }

  #show(models) {
    const rates = models.map((model) => this.#throughput.curve(model.id));
    const shown = JSON.stringify([models, rates]);
    if (shown === this.#shown) return; // do not move what people read or select
    this.#shown = shown;
    byId("fleet").replaceChildren(...models.map((model) => this.#card(model)));
  }

  #card(model) {
    const facts = terms([
      ["replicas", model.replicas],
      ["waiting tokens", whole(model.waiting_tokens)],
      ["tokens/s", whole(this.#throughput.lastMinute(model.id))],
    ]);
    const pairs = [0, 2, 4].map((i) => element("div", {}, facts[i], facts[i + 1]));
    return element(
      "li",
      { className: "model" },
      element("h3", { textContent: model.id }),
      ...state(model),
      element("dl", {}, ...pairs),
      ...this.#curve(model.id),
    );
  }

  /** Returns the drawing of a model's last minutes, once there are two points. */
  #curve(model) {
    const { points, minutes } = this.#throughput.curve(model);
    if (points.length < 2) return [];
    const top = Math.max(1, ...points.map(({ rate }) => rate));
    const at = ({ age, rate }) =>
      `${((1 - age / minutes) * WIDTH).toFixed(2)} ${((1 - rate / top) * HEIGHT).toFixed(2)}`;
    const line = `M ${points.map(at).join(" L ")}`;
    const [first, last] = [points[0], points.at(-1)].map((point) => at({ ...point, rate: 0 }));
    const caption = `tokens/s over the last ${Math.round(minutes)} minutes, at most ${whole(top)}`;
    const box = { viewBox: `0 -1 ${WIDTH} ${HEIGHT + 1}`, preserveAspectRatio: "none", "aria-hidden": true };
    return [
      drawing(
        "svg",
        box,
        drawing("path", { class: "below", d: `${line} L ${last} L ${first} Z` }),
        drawing("path", { d: line }),
      ),
      element("p", { className: "hint", textContent: caption }),
    ];
  }
}

/** Returns the line with a model's state, and the reason for it if there is one. */
function state(model) {
  const kind = model.kind === "embedder" ? null : model.kind;
  const textContent = [model.state, model.size, kind].filter(Boolean).join(", ");
  const line = element("p", { className: "state", textContent });
  line.dataset.state = model.state;
  if (!model.reason) return [line];
  const className = model.state === "unavailable" ? "error" : "hint";
  return [line, element("p", { className, textContent: model.reason })];
}

function whole(number) {
  return number === null || number === undefined ? "–" : Math.round(number).toLocaleString("en");
}
