// Tokens per second of each model over the last minutes, from the counters of /metrics.

const COUNTER = /^embedfleet_tokens_total\{(.*)\} (\S+)$/gm;
const MODEL = /(?:^|,)model="((?:[^"\\]|\\.)*)"/;
const KEPT_S = 600;
const LEAST_S = 120;

export class Throughput {
  #last = null; // when the counters were read, and what they said
  #rates = []; // when, and the tokens per second of each model until then

  /** Takes in the text of /metrics, read at `now` (seconds). */
  add(text, now) {
    const counters = countersIn(text);
    if (this.#last) {
      const seconds = now - this.#last.now;
      this.#rates.push({ now, seconds, tokens: this.#tokensSince(this.#last.counters, counters) });
      this.#rates = this.#rates.filter((rate) => rate.now > now - KEPT_S);
    }
    this.#last = { now, counters };
  }

  /** Returns tokens per second of a model in the last minute; null before there are any counts. */
  lastMinute(model) {
    const newest = this.#rates.at(-1)?.now;
    const recent = this.#rates.filter((rate) => rate.now > newest - 60);
    const seconds = recent.reduce((sum, rate) => sum + rate.seconds, 0);
    if (!seconds) return null;
    return recent.reduce((sum, rate) => sum + (rate.tokens.get(model) ?? 0), 0) / seconds;
  }

  /** Returns the points of a model's curve, and the minutes that it may fill: ages in minutes, tokens/s. */
  curve(model) {
    const [oldest, newest] = [this.#rates[0]?.now, this.#rates.at(-1)?.now];
    const points = this.#rates.map(({ now, seconds, tokens }) => ({
      age: (newest - now) / 60,
      rate: (tokens.get(model) ?? 0) / seconds,
    }));
    return { points, minutes: Math.max(LEAST_S, newest - oldest) / 60 };
  }

  #tokensSince(before, counters) {
    const sums = new Map();
    for (const [labels, { model, count }] of counters) {
      // a counter that is smaller began again, in a new process
      const known = before.get(labels)?.count ?? 0;
      const more = count < known ? count : count - known;
      sums.set(model, (sums.get(model) ?? 0) + more);
    }
    return sums;
  }
}

function countersIn(text) {
  const counters = new Map();
  for (const [, labels, count] of text.matchAll(COUNTER)) {
    const model = MODEL.exec(labels)?.[1].replace(/\\(.)/g, "$1");
    counters.set(labels, { model, count: Number(count) });
  }
  return counters;
}
