/** One picture and what the recipe makes of it, laid out as it lies. */
import { bytes, button, h, plural, save, say, time } from "./dom.js";
import { compare } from "./viewer.js";

/**
 * @typedef {{width: number, height: number}} Size
 * @typedef {{leaf: number} | {columns: number[], children: Tree[]}} Tree a result, or a grid of them, row by row
 */

// What is made without asking: beyond it a browser's tab gets slow.
const MOST_RESULTS = 400, MOST_PIXELS = 100e6;

/** So many pictures are worked on at once; the others wait. */
let free = 2;
/** @type {(() => void)[]} */
const waiting = [];

/** @param {AbortSignal} signal @param {() => Promise<void>} work */
async function inTurn(signal, work) {
  if (free) free--;
  else await new Promise((/** @type {any} */ go) => waiting.push(go));
  try {
    signal.throwIfAborted();
    await work();
  } finally {
    const next = waiting.shift();
    if (next) next();
    else free++;
  }
}

/**
 * How pictures cut out of others lie, by their sizes alone: a row ends where its widths make up the whole's, the grid
 * where its heights do. `levels` has the sizes before and after each step that cuts.
 * @param {[Size[], Size[]][]} levels @returns {Tree}
 */
export function layout(levels) {
  /** @type {any} */
  let root = { leaf: 0 };
  let leaves = [root];
  for (const [wholes, parts] of levels) {
    let next = 0;
    const cut = [];
    for (const [index, whole] of wholes.entries()) {
      const columns = [], first = next;
      let across = 0, down = 0;
      for (; across < whole.width && next < parts.length; next++) columns.push(parts[next].width), (across += parts[next].width);
      for (let row = first; down < whole.height && row < parts.length; row += columns.length) down += parts[row].height, (next = row + columns.length);
      if (across !== whole.width || down !== whole.height) throw new Error("the parts do not make up the whole");
      const children = Array.from({ length: next - first }, (_, i) => ({ leaf: first + i }));
      if (children.length > 1) {
        const node = leaves[index];
        delete node.leaf;
        Object.assign(node, { columns, children });
      } else leaves[index].leaf = first;
      cut.push(...(children.length > 1 ? children : [leaves[index]]));
    }
    leaves = cut;
  }
  return root;
}

export class Picture {
  /** @type {{name: string, blob: Blob, width: number, height: number}[]} */
  results = [];
  #controller = new AbortController();
  /** @type {string[]} */
  #addresses = [];
  /** @type {string|null} */
  #before = null;
  /** @type {Map<string, Promise<any>>} */
  #plans = new Map();

  /**
   * @param {File} file @param {import("./server.js").Server} server @param {import("./schema.js").Registry} registry
   * @param {(error: any) => void} onrefused @param {() => void} onchange told when results come, go or turn stale
   */
  constructor(file, server, registry, onrefused, onchange) {
    Object.assign(this, { file, server, registry, onrefused, onchange });
    this.figures = h("p", { class: "figures" });
    this.download = button("Download zip", () => this.#save(), { class: "quiet", hidden: true, "aria-label": `Download zip: ${file.name}` });
    this.body = h("div", { class: "body" });
    this.element = h("article", { class: "picture", "aria-label": file.name },
      h("header", { class: "row" }, h("div", { class: "grow" }, h("h3", {}, file.name), this.figures), this.download), this.body);
  }

  /** The sizes of what these steps make of it, from the header alone; each is asked for once. @param {string[]} steps */
  sizes(steps, options = {}) {
    const key = JSON.stringify([steps, options]);
    let plan = this.#plans.get(key);
    if (!plan) {
      if (this.#plans.size >= 50) this.#plans.clear();
      plan = this.server.plan(this.file, steps, options);
      plan.catch(() => this.#plans.delete(key));
      this.#plans.set(key, plan);
    }
    return plan;
  }

  /** The picture as it is, in an address that the browser shows. */
  async before() {
    return (this.#before ??= await this.server.shown(this.file));
  }

  /** @param {import("./schema.js").Step[]} recipe @param {Record<string, any>} options @param {boolean} [anyway] */
  async run(recipe, options, anyway = false) {
    this.#controller.abort();
    const { signal } = (this.#controller = new AbortController());
    this.#setBusy(true);
    try {
      await inTurn(signal, () => this.#run(recipe, options, anyway, signal));
    } catch (error) {
      if (signal.aborted) return;
      this.#clear();
      const again = (error.passing ?? true) && button("Try again", () => this.run(recipe, options, anyway));
      this.body.append(h("p", { class: "problem", role: "alert" }, error.message), ...(again ? [again] : []));
      this.onrefused(error);
    }
    if (!signal.aborted) this.#setBusy(false);
  }

  /** Whether what is shown is of an older recipe. */
  get busy() {
    return this.element.hasAttribute("aria-busy");
  }

  #setBusy(/** @type {boolean} */ busy) {
    if (busy) this.element.setAttribute("aria-busy", "true");
    else this.element.removeAttribute("aria-busy");
    this.download.disabled = busy;
    this.onchange();
  }

  async #run(recipe, options, anyway, signal) {
    const steps = recipe.map((step) => this.registry.write(step));
    const { outputs, notes } = await this.server.plan(this.file, steps, options, signal);
    const pixels = outputs.reduce((sum, one) => sum + one.width * one.height, 0);
    if (!anyway && (outputs.length > MOST_RESULTS || pixels > MOST_PIXELS)) {
      this.#clear();
      const count = `${plural(outputs.length, "result")} of ${(pixels / 1e6).toFixed(0)} million pixels`;
      this.body.replaceChildren(h("p", { class: "problem", role: "alert" }, `This makes ${count}, which may be slow to show.`),
        button("Make them anyway", () => this.run(recipe, options, true)));
      return;
    }
    const { blobs, archive, ms } = await this.server.make(this.file, steps, options, signal);
    if (blobs.length !== outputs.length) throw new Error(`Expected ${outputs.length} results, came ${blobs.length}.`);
    const cuts = outputs.length > 1 ? await this.#cuts(recipe, steps) : [];
    const levels = await Promise.all(cuts.map((index) => this.#around(steps, index)));
    signal.throwIfAborted();
    const results = outputs.map(({ path, width, height, format }, i) => ({
      name: path.split("/").pop() ?? path, width, height,
      blob: blobs[i].slice(0, blobs[i].size, this.server.formats[format].media_type),
    }));
    const addresses = [];
    for (const { blob } of results) addresses.push(await this.server.shown(blob, signal));
    if (signal.aborted) {
      addresses.forEach((address) => URL.revokeObjectURL(address));
      return;
    }
    this.#clear();
    Object.assign(this, { results, archive });
    this.#addresses = addresses;
    this.#show(layout(levels), ms, notes, recipe, cuts);
    const { width, height } = (await this.sizes([])).outputs[0];
    const total = bytes(results.reduce((sum, one) => sum + one.blob.size, 0));
    const together = results.length > 1 ? "made together in " : "";
    this.figures.textContent = `${width} × ${height} px, ${bytes(this.file.size)} → ${plural(results.length, "result")}, ${total}, ${together}${time(ms)}`;
    say(`${this.file.name}: ${plural(results.length, "result")} in ${time(ms)}.`);
  }

  /** The sizes before and after a step. @param {string[]} steps @param {number} index @returns {Promise<[Size[], Size[]]>} */
  async #around(steps, index) {
    const [before, after] = await Promise.all([index, index + 1].map((end) => this.sizes(steps.slice(0, end))));
    return [before.outputs, after.outputs];
  }

  /** The places of the steps that cut: of a name that the registry does not know (an alias, say) the sizes tell. */
  async #cuts(recipe, steps) {
    const cut = await Promise.all(recipe.map(async (/** @type {any} */ step, /** @type {number} */ index) => {
      const operation = this.registry.of(step);
      if (operation) return operation.several;
      const [before, after] = await this.#around(steps, index);
      return after.length > before.length;
    }));
    return cut.flatMap((one, index) => (one ? [index] : []));
  }

  /**
   * What a result is compared with: the picture after those steps alone that cut, and those that they need. So a
   * quadrant is seen beside itself.
   */
  async #part(recipe, cut, index) {
    const of = (/** @type {any} */ step) => this.registry.of(step);
    const cuts = (/** @type {any} */ step, /** @type {number} */ i) => cut.includes(i) || of(step)?.frame;
    const prefix = recipe.slice(0, recipe.findLastIndex(cuts) + 1);
    if (!prefix.length) return this.before();
    const steps = prefix.map((/** @type {any} */ step) => this.registry.write(step));
    const fixed = prefix.every((/** @type {any} */ step, /** @type {number} */ i) => !cuts(step, i) || of(step)?.fixed);
    const needed = [];
    for (const [i, step] of prefix.entries()) {
      const sizes = async () => (await this.#around(steps, i)).map((outputs) => JSON.stringify(outputs));
      // where a cut goes by pixels, a step before it may only be left out if it keeps the size
      const spare = of(step)?.still(step) && (fixed || new Set(await sizes()).size === 1);
      if (!spare) needed.push(steps[i]);
    }
    const { blobs } = await this.server.make(this.file, needed, { format: "png" });
    const address = URL.createObjectURL(blobs[index]);
    this.#addresses.push(address);
    return address;
  }

  #show(tree, ms, notes, recipe, cuts) {
    const spent = this.results.length > 1 ? [] : [time(ms)]; // of those that were made together no one's own is known
    const figure = (/** @type {number} */ index) => {
      const { name, width, height, blob } = this.results[index];
      const words = [`${width} × ${height} px`, bytes(blob.size), ...spent].join(", ");
      const image = h("img", { src: this.#addresses[index], alt: name, width, height, loading: index > 40 ? "lazy" : "eager" });
      const open = () => compare({
        name, words, width, height, blob, after: this.#addresses[index],
        before: () => this.#part(recipe, cuts, index),
      });
      return h("figure", { "data-name": name },
        h("button", { type: "button", class: "shot", onclick: open, "aria-label": `Compare ${name}, ${words}`, title: `${name}: ${words}` }, image),
        h("figcaption", {}, ...[`${width} × ${height}`, bytes(blob.size), ...spent].map((figure) => h("span", {}, figure)),
          button("↓", () => save(blob, name), { class: "get", "aria-label": `Download ${name}`, title: `Download ${name}` })));
    };
    const natural = (/** @type {any} */ node) => node.columns?.reduce((sum, _, i) => sum + natural(node.children[i]) + 10, 0) ?? this.results[node.leaf].width;
    const build = (/** @type {any} */ node) => {
      if (!node.children) return figure(node.leaf);
      const grid = h("div", { class: "grid" }, ...node.children.map(build));
      grid.style.maxWidth = `max(18rem, ${natural(node)}px)`;
      grid.style.gridTemplateColumns = node.columns.map((/** @type {number} */ width) => `minmax(0, ${width}fr)`).join(" ");
      return grid;
    };
    this.body.replaceChildren(build(tree), ...notes.map((/** @type {any} */ note) => h("p", { class: "note" }, note.detail)));
    this.download.hidden = this.results.length < 2;
  }

  #save() {
    save(/** @type {any} */ (this).archive, `${this.file.name.replace(/\.[^.]*$/, "")}.zip`);
  }

  #clear() {
    this.#addresses.forEach((address) => URL.revokeObjectURL(address));
    this.#addresses = [];
    this.results = [];
    this.figures.textContent = "";
    this.download.hidden = true;
    this.body.replaceChildren();
  }

  /** Let go of everything. */
  remove() {
    this.#controller.abort();
    this.#clear();
    if (this.#before) URL.revokeObjectURL(this.#before);
    this.element.remove();
  }
}
