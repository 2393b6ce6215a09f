/** Elements, and the few things of a browser that every part of the page needs. */

/**
 * An element. Of `props`, functions named on… are listeners, `class`, `for` and aria-… are attributes, others properties.
 * @param {string} tag @param {Record<string, any>} [props] @param {...(Node|string|null|false)} children
 * @returns {any}
 */
export function h(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(props)) {
    if (value === undefined || value === null) continue;
    if (typeof value === "function") element.addEventListener(key.slice(2), value);
    else if (key in element && !key.startsWith("aria")) element[key] = value;
    else element.setAttribute(key === "for" ? "for" : key, value);
  }
  element.append(...children.filter((child) => child || child === 0));
  return element;
}

/** @param {string} id @returns {any} */
export const find = (id) => document.getElementById(id);

/** A button. @param {string} text @param {(event: Event) => void} onclick @param {Record<string, any>} [props] */
export const button = (text, onclick, props = {}) => h("button", { type: "button", onclick, ...props }, text);

/** Tell those who look and those who listen. @param {string} text */
export function say(text) {
  find("status").textContent = text;
}

/** @param {number} count */
export function bytes(count) {
  if (count < 1000) return `${count} B`;
  const [unit, size] = count < 1e6 ? ["kB", count / 1e3] : ["MB", count / 1e6];
  return `${size < 100 ? size.toFixed(1) : Math.round(size)} ${unit}`;
}

/** @param {number} count @param {string} noun */
export const plural = (count, noun) => `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;

/** @param {number} ms */
export const time = (ms) => (ms < 9.95 ? `${ms.toFixed(1)} ms` : ms < 9950 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`);

/** Give the user a file. @param {Blob} blob @param {string} name */
export function save(blob, name) {
  const href = URL.createObjectURL(blob);
  h("a", { href, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(href), 60_000); // a download may begin late
}
