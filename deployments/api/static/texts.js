// The texts to compare: between two and twenty-four fields.

import { byId, element } from "./elements.js";

const LEAST = 2;
const MOST = 24;
const EXAMPLES = [
  "How do I reset my password?",
  "I forgot my login and cannot get in.",
  "The next train to Lyon leaves at noon.",
];

export class Texts {
  /** `changed` is called after each change, `submit` when a person asks for the comparison. */
  constructor(changed, submit) {
    this.list = byId("texts");
    this.changed = changed;
    this.submit = submit;
    EXAMPLES.forEach((text) => this.#append(text));
    byId("add").addEventListener("click", () => this.#append("").focus());
  }

  /** The texts as they were typed. */
  get values() {
    return this.#fields().map((field) => field.value);
  }

  /** Returns what is wrong with the texts, after marking and focusing the first wrong one; else "". */
  problem() {
    this.mark(null);
    const empty = this.values.findIndex((text) => !text.trim());
    if (empty < 0) return "";
    this.mark(empty);
    return `Text ${empty + 1} is empty: write something, or remove it.`;
  }

  /** Marks the text with this index as wrong, and no other. */
  mark(index) {
    this.#fields().forEach((field, i) => field.setAttribute("aria-invalid", i === index));
    this.#fields()[index]?.focus();
  }

  #fields() {
    return [...this.list.querySelectorAll("textarea")];
  }

  #append(text) {
    const field = element("textarea", {
      value: text,
      rows: 1,
      oninput: this.changed,
      onkeydown: (event) => {
        if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) this.submit();
      },
    });
    const remove = element("button", { type: "button", className: "quiet", textContent: "Remove" });
    remove.addEventListener("click", () => this.#remove(field));
    const head = element("div", {}, element("label"), remove);
    this.list.append(element("li", {}, head, field));
    this.#number();
    return field;
  }

  #remove(field) {
    const place = this.#fields().indexOf(field);
    field.closest("li").remove();
    this.#number();
    this.#fields().at(Math.min(place, this.#fields().length - 1)).focus();
  }

  #number() {
    const fields = this.#fields();
    fields.forEach((field, i) => {
      const [label, remove] = field.closest("li").querySelectorAll("label, button");
      field.id = label.htmlFor = `text-${i + 1}`;
      label.textContent = `Text ${i + 1}`;
      remove.setAttribute("aria-label", `Remove text ${i + 1}`);
      remove.disabled = fields.length <= LEAST;
    });
    byId("add").disabled = fields.length >= MOST;
    this.changed();
  }
}
