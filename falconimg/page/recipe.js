/** The recipe: its steps and how results are encoded, with their controls. */
import { button, find, h, say } from "./dom.js";
import { beyond, usual, worded } from "./schema.js";

/**
 * @typedef {import("./schema.js").Step} Step
 * @typedef {{element: HTMLElement, sync: () => void}} Control
 * @typedef {{size: (steps: Step[]) => Promise<{width: number, height: number}|null>,
 *            frame: (steps: Step[], step: Step) => Promise<Step|null>}} Pictures what the recipe asks of the pictures
 */

let ids = 0;

/**
 * A control for a value by its JSON Schema. It tells of a change when a slider is let go, not while it moves.
 * @param {string} id @param {string} key @param {any} schema @param {() => any} get
 * @param {(value: any) => void} set undefined: left out @param {boolean} optional @returns {Control}
 */
function control(id, key, schema, get, set, optional) {
  const name = schema.title ?? worded(key);
  const first = usual(schema);
  const put = (/** @type {any} */ value) => set(optional && (value === "" || value === first) ? undefined : value);
  const now = () => get() ?? first ?? "";
  const label = h("label", { for: id }, name);

  if (schema.enum) {
    const words = schema.enum.map((/** @type {any} */ value, /** @type {number} */ i) => schema["x-labels"]?.[i] ?? String(value));
    const open = optional && first === undefined;
    if (schema.enum.length <= 4 && !open) {
      const inputs = schema.enum.map((/** @type {any} */ value, /** @type {number} */ i) =>
        h("input", { type: "radio", name: id, id: `${id}-${i}`, onchange: () => put(value) }));
      const options = inputs.map((/** @type {any} */ input, /** @type {number} */ i) => [input, h("label", { for: input.id }, words[i])]);
      return {
        element: h("fieldset", { class: "field" }, h("legend", { class: schema["x-hidden"] ? "hidden" : "" }, name), h("div", { class: "segments" }, ...options.flat())),
        sync: () => inputs.forEach((/** @type {any} */ input, /** @type {number} */ i) => (input.checked = schema.enum[i] === now())),
      };
    }
    const options = schema.enum.map((/** @type {any} */ _, /** @type {number} */ i) => h("option", { value: i }, words[i]));
    const select = h("select", { id, onchange: () => put(select.value === "" ? "" : schema.enum[select.value]) },
      open && h("option", { value: "" }, "automatic"), ...options);
    return {
      element: h("div", { class: "field row" }, label, select),
      sync: () => (select.value = schema.enum.includes(now()) ? schema.enum.indexOf(now()) : ""),
    };
  }
  if (schema.type === "boolean") {
    const box = h("input", { type: "checkbox", id, onchange: () => put(box.checked) });
    return { element: h("div", { class: "field check" }, box, label), sync: () => (box.checked = Boolean(now())) };
  }
  if (schema.type === "string") {
    const text = h("input", { type: "text", id, placeholder: "auto", spellcheck: false, onchange: () => put(text.value.trim()) });
    const picker = schema["x-colour"] && h("input", {
      type: "color", "aria-label": `${name}, chosen from a palette`, onchange: () => put(picker.value.slice(1)),
    });
    return {
      element: h("div", { class: "field row" }, label, picker, text),
      sync: () => {
        text.value = now();
        if (picker && /^#?[0-9a-f]{6}$/i.test(now())) picker.value = `#${now().replace("#", "")}`;
      },
    };
  }
  const { minimum: low, maximum: high, type } = schema;
  const [from, to, step] = schema["x-slider"] ?? (high - low <= 1000 ? [low, high, 1] : []);
  const number = h("input", {
    type: "number", id, min: low, max: high, step: type === "integer" ? 1 : "any", inputMode: "decimal",
    placeholder: optional ? "auto" : "", "aria-describedby": `${id}-fault`,
    onchange: () => (number.value === "" && !optional ? (number.value = now()) : put(number.value === "" ? "" : Number(number.value))),
  });
  const slider = step && h("input", {
    type: "range", min: from, max: to, step, "aria-label": `${name}, slider`,
    oninput: () => {
      number.value = slider.value;
      slider.setAttribute("aria-valuetext", slider.value);
      slider.classList.remove("unset");
    },
    onchange: () => put(Number(slider.value)),
  });
  const unit = schema["x-unit"] && h("span", { class: "unit" }, schema["x-unit"]);
  const fault = h("p", { id: `${id}-fault`, class: "fault", role: "alert", hidden: true });
  return {
    element: h("div", { class: "field" }, h("div", { class: "row" }, label, number, unit), slider, fault),
    sync: () => {
      const value = now(), open = value === "";
      number.value = value;
      fault.textContent = open ? "" : beyond(schema, value);
      fault.hidden = !fault.textContent;
      number.setAttribute("aria-invalid", String(!fault.hidden));
      if (!slider) return;
      slider.value = open ? schema["x-usual"] ?? (from + to) / 2 : value;
      slider.classList.toggle("unset", open && !schema["x-usual"]);
      slider.setAttribute("aria-valuetext", open ? "auto" : String(value));
    },
  };
}

export class Recipe {
  /** @type {{id: number, step: Step}[]} */
  #rows = [];
  /** @type {Record<string, any>} what is set of format, quality, background, metadata and precise */
  output = {};
  /** @type {string[]} */
  #past = [];
  /** @type {Control[]} */
  #controls = [];
  #shape = "";
  #dragged = -1;
  #added = Promise.resolve();

  /**
   * @param {import("./schema.js").Registry} registry @param {Record<string, any>} options schemas of the output's options
   * @param {Record<string, any>} formats @param {Pictures} pictures @param {() => void} onchange
   */
  constructor(registry, options, formats, pictures, onchange) {
    Object.assign(this, { registry, options, formats, pictures, onchange });
    const adders = [...registry.byName.values()].map((operation) =>
      button(operation.title, () => this.#add(operation), { title: operation.schema.description.replaceAll("`", "") }));
    find("operations").replaceChildren(...adders);
    find("undo").addEventListener("click", () => this.undo());
    this.#render();
  }

  get steps() {
    return this.#rows.map((row) => row.step);
  }

  /** Replace all of it. @param {Step[]} steps @param {Record<string, any>} output */
  set(steps, output) {
    this.#change(() => {
      this.#rows = steps.map((step) => ({ id: ++ids, step }));
      this.output = output;
    });
  }

  undo() {
    const last = this.#past.pop();
    if (!last) return;
    [this.#rows, this.output] = JSON.parse(last);
    this.#shape = ""; // the controls are those of rows that are gone
    say("Undone.");
    this.#render();
    this.onchange();
  }

  /** @param {() => void} work */
  #change(work) {
    const before = JSON.stringify([this.#rows, this.output]);
    work();
    if (JSON.stringify([this.#rows, this.output]) === before) return;
    this.#past.push(before);
    this.#render();
    this.onchange();
  }

  /** Add a step, behind those that were asked for before: one that is to have a picture's size waits for it. */
  #add(operation) {
    const add = () => this.#append(operation);
    this.#added = this.#added.then(add, add);
  }

  async #append(operation) {
    const step = operation.make(operation.forms[0]);
    const size = operation.frame && (await this.pictures.size(this.steps));
    if (size) // the middle of the picture
      Object.assign(step, {
        width: Math.ceil(size.width / 2), height: Math.ceil(size.height / 2),
        x: Math.floor(size.width / 4), y: Math.floor(size.height / 4),
      });
    this.#change(() => this.#rows.push({ id: ++ids, step }));
    say(`${operation.title} added as step ${this.#rows.length}.`);
  }

  /** @param {number} from @param {number} to */
  #move(from, to) {
    if (to < 0 || to >= this.#rows.length || from === to) return;
    this.#change(() => this.#rows.splice(to, 0, ...this.#rows.splice(from, 1)));
    say(`Now step ${to + 1} of ${this.#rows.length}.`);
  }

  /** Build the controls anew where others are needed; else only set their values, so that the focus stays. */
  #render() {
    const { format = "" } = this.output;
    const parts = this.#rows.map(({ id, step }) => {
      const operation = this.registry.byName.get(step.op);
      return [id, step.op, operation?.form(step).title, operation?.options(step)];
    });
    const shape = JSON.stringify([parts, format]);
    if (shape !== this.#shape) {
      const focus = document.activeElement?.id;
      this.#shape = shape;
      this.#controls = [];
      find("steps").replaceChildren(...this.#rows.map((row, index) => this.#card(row, index)));
      this.#renderOutput(format);
      const again = find(focus); // at an end of the list ↑ or ↓ is disabled, the other is not
      (again?.disabled ? again.parentElement.querySelector("button:enabled") : again)?.focus({ preventScroll: true });
    }
    for (const { sync } of this.#controls) sync();
    find("undo").disabled = !this.#past.length;
    find("empty").hidden = Boolean(this.#rows.length);
  }

  #control(id, key, schema, get, set, optional) {
    const made = control(id, key, schema, get, (value) => this.#change(() => set(value)), optional);
    this.#controls.push(made);
    return made.element;
  }

  #renderOutput(format) {
    const formats = Object.entries(this.formats).filter(([, about]) => about.writes);
    const choice = { title: "Format", enum: ["", ...formats.map(([name]) => name)],
                     "x-labels": ["as it came", ...formats.map(([name]) => name.toUpperCase())], "x-start": "" };
    const about = this.formats[format];
    const quality = format && !about?.quality ? null : { ...this.options.quality, "x-usual": about?.quality };
    const shown = { format: choice, ...this.options, quality };
    const fields = Object.entries(shown).filter(([, schema]) => schema).map(([key, schema]) =>
      this.#control(`output-${key}`, key, schema, () => this.output[key], (value) => {
        if (value === undefined) delete this.output[key];
        else this.output[key] = value;
        if (key === "format" && value && !this.formats[value].quality) delete this.output.quality;
      }, true));
    const main = shown.quality ? 2 : 1;
    find("output").replaceChildren(...fields.slice(0, main));
    find("more").replaceChildren(...fields.slice(main));
  }

  /** @param {{id: number, step: Step}} row @param {number} index */
  #card(row, index) {
    const { id } = row;
    const operation = this.registry.byName.get(row.step.op);
    const title = operation?.title ?? "As text";
    const name = `${title}, step ${index + 1}`;
    const handle = h("span", { class: "handle", draggable: true, title: "Drag to reorder", "aria-hidden": "true" }, "⠿");
    const card = h("li", { class: "step", "data-op": row.step.op ?? "" },
      h("div", { class: "row" }, handle, h("h3", {}, h("span", { class: "number" }, String(index + 1)), title),
        button("↑", () => this.#move(index, index - 1), { id: `up-${id}`, disabled: !index, "aria-label": `Up: ${name}` }),
        button("↓", () => this.#move(index, index + 1), { id: `down-${id}`, disabled: index === this.#rows.length - 1, "aria-label": `Down: ${name}` }),
        button("✕", () => this.#remove(index, title), { "aria-label": `Remove: ${name}` })),
      ...(operation ? this.#fields(row, operation) : [this.#control(`text-${id}`, "step", { type: "string" },
        () => row.step.text, (text) => (row.step = this.registry.read(text)), false)]));
    handle.addEventListener("dragstart", (event) => {
      this.#dragged = index;
      event.dataTransfer.setData("text/plain", this.registry.write(row.step));
      event.dataTransfer.setDragImage(card, 20, 20);
    });
    handle.addEventListener("dragend", () => (this.#dragged = -1));
    const over = (/** @type {boolean} */ on) => card.classList.toggle("over", on);
    card.addEventListener("dragover", (event) => {
      if (this.#dragged < 0) return;
      event.preventDefault();
      over(true);
    });
    card.addEventListener("dragleave", () => over(false));
    card.addEventListener("drop", (event) => {
      if (this.#dragged < 0) return;
      event.preventDefault();
      over(false);
      this.#move(this.#dragged, index);
    });
    return card;
  }

  #remove(index, title) {
    this.#change(() => this.#rows.splice(index, 1));
    say(`${title} removed.`);
    (find(`up-${this.#rows[Math.min(index, this.#rows.length - 1)]?.id}`) ?? find("operations").firstChild).focus();
  }

  /** @param {{id: number, step: Step}} row @param {import("./schema.js").Operation} operation */
  #fields(row, operation) {
    const form = operation.form(row.step);
    const titles = operation.forms.map((one) => one.title);
    const chooser = titles.length > 1 && this.#control(`form-${row.id}`, "way", { enum: titles, title: `How to ${operation.name}`, "x-hidden": true },
      () => operation.form(row.step).title,
      (chosen) => (row.step = operation.make(operation.forms[titles.indexOf(chosen)], row.step)), false);
    const field = (/** @type {string} */ key, /** @type {boolean} */ optional) => {
      const set = (/** @type {any} */ value) => {
        const { [key]: _, ...rest } = row.step;
        row.step = operation.pruned(value === undefined ? rest : { ...row.step, [key]: value });
      };
      return this.#control(`${key}-${row.id}`, key, operation.properties[key], () => row.step[key], set, optional);
    };
    const framed = operation.frame && form === operation.forms[0];
    const frame = framed && button("Draw the frame on the picture…", async () => {
      const before = this.steps.slice(0, this.#rows.indexOf(row));
      const drawn = await this.pictures.frame(before, row.step);
      if (drawn) this.#change(() => (row.step = { ...row.step, ...drawn }));
    }, { class: "wide" });
    return [chooser, h("div", { class: framed ? "pairs" : "" }, ...form.keys.map((key) => field(key, false))), frame,
            ...operation.options(row.step).map((key) => field(key, true))];
  }
}
