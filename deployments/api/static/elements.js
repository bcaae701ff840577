// Making elements. Texts are set as text, so none of them can become markup.

const SVG = "http://www.w3.org/2000/svg";

/** Returns an element with these properties, attributes (if named so) and children. */
export function element(name, { attributes = {}, ...properties } = {}, ...children) {
  return filled(document.createElement(name), attributes, properties, children);
}

/** As `element`, for drawings. */
export function drawing(name, attributes, ...children) {
  return filled(document.createElementNS(SVG, name), attributes, {}, children);
}

/** Returns the element of this id. */
export function byId(id) {
  return document.getElementById(id);
}

/** Shows a sentence, or hides its place if there is none. */
export function say(place, sentence) {
  place.textContent = sentence;
  place.hidden = !sentence;
}

/** Returns the rows of a list of terms: pairs of a term and what it stands for. */
export function terms(pairs) {
  return pairs.flatMap(([term, value]) => [
    element("dt", { textContent: term }),
    element("dd", { textContent: value }),
  ]);
}

function filled(node, attributes, properties, children) {
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  Object.assign(node, properties);
  node.append(...children);
  return node;
}
