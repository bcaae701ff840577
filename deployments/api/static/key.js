// The API key: what people paste, and what this tab keeps until it is closed.

const STORED = "embedfleet.key";
const AROUND = /^[\s\p{C}]+|[\s\p{C}]+$/gu; // blanks and invisible characters
const INVISIBLE = /\p{C}/u;
const UNUSUAL = /[^ -~]/u;

/** The key that this tab keeps; "" if there is none. */
export const key = {
  get: () => sessionStorage.getItem(STORED) ?? "",
  set: (value) => sessionStorage.setItem(STORED, value),
  forget: () => sessionStorage.removeItem(STORED),
};

/** Returns the key in a text that was typed or pasted. */
export function keyIn(text) {
  return text.replace(AROUND, "");
}

/** Returns why this cannot be a key; "" if it can. */
export function problemOf(value) {
  if (!value) return "Enter a key.";
  const [invisible] = INVISIBLE.exec(value) ?? [];
  return invisible ? `The key contains an invisible character (${codeOf(invisible)}). Copy it again.` : "";
}

/** Returns what to say if the service refuses a key. */
export function refusalOf(value) {
  const [unusual] = UNUSUAL.exec(value) ?? [];
  const hint = unusual ? ` It contains “${unusual}” (${codeOf(unusual)}): is it complete?` : "";
  return `The service does not know this key.${hint}`;
}

/** Returns the header that carries a key: fetch takes a character for each byte, here of UTF-8. */
export function headerOf(value) {
  return `Bearer ${String.fromCharCode(...new TextEncoder().encode(value))}`;
}

function codeOf(character) {
  return `U+${character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`;
}
