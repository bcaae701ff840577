// What the service answered: which model, why, and how close the texts are to each other.

import { byId, element, terms } from "./elements.js";
import { cosines, heatMap, pairs, shown } from "./similarity.js";

// the reasons of `x-route-reason` that are single words; those of `auto` are sentences
const REASONS = {
  name: "you named it",
  size: "it is the first model of this size",
  default: "it is the service's default",
};

/** Shows an answer of /v1/embeddings with its headers, and of /v1/route to the same body. */
export function showAnswer(texts, { headers, body }, route) {
  const vectors = body.data.map((item) => item.embedding);
  const matrix = cosines(vectors);
  const [[first, second, cosine]] = pairs(matrix);
  const closest = `Texts ${first + 1} and ${second + 1} are the closest: ${shown(cosine)}.`;
  byId("summary").textContent = `${body.model} answered. ${texts.length > 2 ? closest : `The cosine is ${shown(cosine)}.`}`;
  byId("facts").replaceChildren(...terms(factsOf(headers, body)));
  byId("similarities").replaceChildren(heatMap(matrix, texts));
  showCandidates(route, body.model);
  byId("answer").hidden = false;
}

function factsOf(headers, body) {
  const reason = headers.get("x-route-reason") ?? "";
  const cut = body.truncated.map((index) => index + 1).join(", ");
  return [
    ["Model", body.model],
    ["Why", REASONS[reason] ?? reason],
    ["Space", body.space],
    ["Dimensions", body.data[0].embedding.length],
    ...(body.instruction ? [["Instruction", body.instruction]] : []),
    ["Tokens", body.usage.total_tokens.toLocaleString("en")],
    ["Truncated", cut ? `text ${cut}: only its beginning was read` : "none"],
    ["Time", `${headers.get("x-queued-ms")} ms queued, ${headers.get("x-computed-ms")} ms computed`],
  ];
}

function showCandidates(route, answered) {
  const others = (route?.candidates ?? []).filter((candidate) => candidate.model !== answered);
  byId("others").hidden = !others.length;
  byId("candidates").replaceChildren(
    ...others.map(({ model, passed_over: why, expected_ms: ms }) => {
      const because = why ?? `it could answer too, in about ${ms} ms`;
      return element("li", {}, `${model}: `, element("span", { textContent: because }));
    }),
  );
}
