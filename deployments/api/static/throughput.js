// Tokens per second of each model over the last minutes, from the counters of /metrics.

const COUNTER = /^embedfleet_tokens_total\{(.*)\} (\S+)$/gm;
const MODEL = /(?:^|,)model="((?:[^"\\]|\\.)*)"/;
const NODE = /(?<=[{,]NodeAddress=")[^"]*/g;
const KEPT_S = 600;
const LEAST_S = 120;

export class Throughput {
  #last = null; // when /metrics was read, and the nodes that it covered
  #seen = new Map(); // of each counter, ever: its last count, and when that was
  #rates = []; // when, and the tokens per second of each model until then

  /** Takes in the text of /metrics, read at `now` (seconds). */
  add(text, now) {
    const counters = countersIn(text);
    if (this.#last) {
      const seconds = now - this.#last.now;
      this.#rates.push({ now, seconds, tokens: this.#tokensIn(counters, seconds, now) });
      this.#rates = this.#rates.filter((rate) => rate.now > now - KEPT_S);
    }
    for (const [labels, { count }] of counters) this.#seen.set(labels, { count, now });
    this.#last = { now, nodes: new Set(text.match(NODE)) };
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

  /** Returns the tokens of each model in the last `seconds`. */
  #tokensIn(counters, seconds, now) {
    const sums = new Map();
    for (const [labels, { model, node, count }] of counters) {
      const seen = this.#seen.get(labels) ?? this.#unseen(node, count);
      // a counter that is smaller began again, in a new process
      const more = count < seen.count ? count : count - seen.count;
      // /metrics leaves out a node that is slow to answer; its tokens spread over the whole gap
      const share = seconds / (now - seen.now);
      sums.set(model, (sums.get(model) ?? 0) + more * share);
    }
    return sums;
  }

  /** Returns where a new counter started: at 0 if its node was covered before; else nobody knows. */
  #unseen(node, count) {
    return { count: this.#last.nodes.has(node) ? 0 : count, now: this.#last.now };
  }
}

function countersIn(text) {
  const counters = new Map();
  for (const [, labels, count] of text.matchAll(COUNTER)) {
    const model = MODEL.exec(labels)?.[1].replace(/\\(.)/g, "$1");
    const [node] = `{${labels}`.match(NODE) ?? [];
    counters.set(labels, { model, node, count: Number(count) });
  }
  return counters;
}
