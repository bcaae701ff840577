// Cosines of vectors, and their heat map.

import { element } from "./elements.js";

const HOT = 0.64; // where black and white are as easy to read, in both colour schemes

/** Returns the matrix of the cosines of all pairs of vectors. */
export function cosines(vectors) {
  const units = vectors.map(unit);
  return units.map((a) => units.map((b) => a.reduce((sum, number, i) => sum + number * b[i], 0)));
}

/** Returns each pair of texts and its cosine, the closest first. */
export function pairs(matrix) {
  const all = matrix.flatMap((row, i) => row.slice(i + 1).map((cosine, j) => [i, i + 1 + j, cosine]));
  return all.sort((a, b) => b[2] - a[2]);
}

/** Returns the table of cosines; colours range from the least to the greatest of two different texts. */
export function heatMap(matrix, texts) {
  const sorted = pairs(matrix);
  const [greatest, least] = [sorted[0][2], sorted.at(-1)[2]];
  const heat = (cosine) => {
    if (greatest - least < 1e-6) return Math.min(1, Math.max(0, cosine));
    return (cosine - least) / (greatest - least);
  };
  const range = least === greatest ? "" : ` Colours range from ${shown(least)} to ${shown(greatest)}.`;
  return element(
    "table",
    {},
    element("caption", { textContent: `Cosine of each pair of texts.${range}` }),
    element("thead", {}, element("tr", {}, element("td"), ...texts.map(columnHead))),
    element(
      "tbody",
      {},
      ...texts.map((text, i) => {
        const cells = matrix[i].map((cosine, j) => (i === j ? selfCell() : pairCell(cosine, heat(cosine))));
        return element("tr", {}, rowHead(text, i), ...cells);
      }),
    ),
  );
}

/** Returns a cosine as people read it. */
export function shown(cosine) {
  const rounded = Math.round(cosine * 100) / 100 || 0; // no −0.00
  return rounded.toFixed(2).replace("-", "−");
}

function unit(vector) {
  const length = Math.hypot(...vector);
  return vector.map((number) => (length ? number / length : 0));
}

function columnHead(_, i) {
  return element("th", { scope: "col", textContent: i + 1 });
}

function rowHead(text, i) {
  const number = element("b", { textContent: i + 1 });
  return element("th", { scope: "row", title: text }, number, element("span", { textContent: text }));
}

function selfCell() {
  return element("td", { className: "self", textContent: "1" });
}

function pairCell(cosine, heat) {
  const cell = element("td", { className: heat > HOT ? "pair hot" : "pair", textContent: shown(cosine) });
  cell.style.setProperty("--heat", heat.toFixed(3));
  return cell;
}
