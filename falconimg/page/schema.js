/** The operations, as the server's OpenAPI document publishes them: nothing here knows any of them by name. */

/**
 * A step is an object, `{op, argument: value, …}`, or `{text}` where it came as a string that no form reads.
 * @typedef {Record<string, any>} Step
 * @typedef {{title: string, step: string, keys: string[], pattern: RegExp}} Form
 */

/** @param {any} schema @param {Record<string, any>} doc Whether the keywords that the operations use let it pass. */
export function fits(schema, doc) {
  const has = (/** @type {string} */ key) => doc[key] !== undefined;
  const all = (/** @type {any} */ table, /** @type {(key: string, rule: any) => boolean} */ rule) =>
    Object.entries(table ?? {}).every(([key, value]) => !has(key) || rule(key, value));
  return (schema.required ?? []).every(has)
    && all(schema.properties, (key, rule) => !rule.enum || rule.enum.includes(doc[key]))
    && all(schema.dependentRequired, (_, keys) => keys.every(has))
    && all(schema.dependentSchemas, (_, rule) => fits(rule, doc))
    && !(schema.not && fits(schema.not, doc))
    && (!schema.anyOf || schema.anyOf.some((/** @type {any} */ one) => fits(one, doc)))
    && (!schema.oneOf || schema.oneOf.filter((/** @type {any} */ one) => fits(one, doc)).length === 1);
}

/** @param {string} key */
export const worded = (key) => key[0].toUpperCase() + key.slice(1).replaceAll("_", " ");

/** The value that is meant where none is given; undefined if there is none. @param {any} schema */
export const usual = (schema) => schema["x-start"] ?? schema.default;

/** The value that a form starts with. @param {any} schema */
export const start = (schema) => schema["x-start"] ?? schema.enum?.[0] ?? schema.minimum ?? "";

/** What is wrong with a number by its bounds, in words; nothing if it keeps them. @param {any} schema @param {number} value */
export function beyond({ type, minimum: low = -Infinity, exclusiveMinimum: over = -Infinity, maximum: high = Infinity }, value) {
  const whole = type === "integer";
  if (value >= low && value > over && value <= high && (!whole || Number.isInteger(value))) return "";
  const bounds = over > low ? `over ${over} and at most ${high}` : `from ${low} to ${high}`;
  return `Expected a ${whole ? "whole " : ""}number ${bounds}.`;
}

const NUMBERS = { integer: "[+-]?\\d+", number: "[+-]?\\d+(?:\\.\\d+)?(?:[eE][+-]?\\d+)?" };

export class Operation {
  /** @param {any} schema */
  constructor(schema) {
    this.schema = schema;
    this.name = schema.properties.op.const;
    this.title = schema.title ?? worded(this.name);
    this.several = Boolean(schema["x-parts"]);
    this.fixed = schema["x-parts"] === "fixed";
    this.frame = Boolean(schema["x-frame"]);
    const { op: _, ...properties } = schema.properties;
    /** @type {Record<string, any>} */
    this.properties = properties;
    /** @type {Form[]} */
    this.forms = schema["x-forms"].map((/** @type {any} */ form) => this.#form(form));
    this.inForms = new Set(this.forms.flatMap((form) => form.keys));
  }

  #form({ title, step }) {
    const keys = [...step.matchAll(/\{(\w+)\}/g)].map((match) => match[1]);
    const pattern = step.replace(/[.*+?^$()|[\]\\]/g, "\\$&")
      .replace(/\{(\w+)\}/g, (_, key) => `(?<${key}>${NUMBERS[this.properties[key].type] ?? "[^,]+"})`);
    return { title, step, keys, pattern: new RegExp(`^${pattern}(?<more>(?:,[a-z]+:[^,]+)*)$`) };
  }

  /** The form that a step has: of those whose arguments it gives, the one with most. @param {Step} step */
  form(step) {
    const given = this.forms.filter((form) => form.keys.every((key) => step[key] !== undefined));
    return given.sort((a, b) => b.keys.length - a.keys.length)[0] ?? this.forms[0];
  }

  /** A step of that form that keeps what it can of another's arguments. @param {Form} form @param {Step} from */
  make(form, from = { op: this.name }) {
    /** @type {Step} */
    const step = { op: this.name };
    for (const key of form.keys) step[key] = from[key] ?? start(this.properties[key]);
    const others = Object.keys(from).filter((key) => !(key in step) && !this.inForms.has(key));
    return this.pruned({ ...step, ...Object.fromEntries(others.map((key) => [key, from[key]])) });
  }

  /** Without what no longer fits. @param {Step} step */
  pruned(step) {
    const kept = { ...step };
    for (const key of Object.keys(step).reverse())
      if (key !== "op" && !this.inForms.has(key) && !fits(this.schema, kept)) delete kept[key];
    return kept;
  }

  /** Whether it leaves what a picture shows where it was, relative to the sides. @param {Step} step */
  still(step) {
    return Boolean(this.schema["x-still"]) && fits(this.schema["x-still"], step);
  }

  /** The arguments that may be given besides those of the form. @param {Step} step */
  options(step) {
    const free = Object.keys(this.properties).filter((key) => !this.inForms.has(key));
    return free.filter((key) => key in step || fits(this.schema, { ...step, [key]: start(this.properties[key]) }));
  }

  /** @param {Step} step */
  write(step) {
    const form = this.form(step);
    const rest = Object.entries(step).filter(([key]) => key !== "op" && !form.keys.includes(key));
    return form.step.replace(/\{(\w+)\}/g, (_, key) => step[key])
      + rest.map(([key, value]) => `,${key}:${{ true: "yes", false: "no" }[value] ?? value}`).join("");
  }

  /** @param {string} text @returns {Step|null} */
  read(text) {
    for (const form of this.forms) {
      const match = form.pattern.exec(text);
      if (!match) continue;
      const { more, ...given } = match.groups ?? {};
      const pairs = more.split(",").slice(1).map((part) => [part.slice(0, part.indexOf(":")), part.slice(part.indexOf(":") + 1)]);
      const all = [...Object.entries(given), ...pairs];
      if (all.some(([key]) => !this.properties[key])) return null;
      return { op: this.name, ...Object.fromEntries(all.map(([key, value]) => [key, typed(this.properties[key], value)])) };
    }
    return null;
  }
}

/** @param {any} schema @param {string} text */
function typed(schema, text) {
  if (schema.type === "boolean") return ["yes", "true"].includes(text);
  return schema.type in NUMBERS ? Number(text) : text;
}

export class Registry {
  /** @param {any} openapi */
  constructor(openapi) {
    const { schemas } = openapi.components;
    this.byName = new Map();
    for (const { $ref } of schemas.Operation.anyOf.filter((/** @type {any} */ form) => form.$ref)) {
      const operation = new Operation(schemas[$ref.split("/").pop()]);
      this.byName.set(operation.name, operation);
    }
  }

  /** @param {Step} step @returns {Operation|undefined} */
  of(step) {
    return this.byName.get(step.op ?? /^\w*/.exec(step.text)?.[0]);
  }

  /** A step as a string. @param {Step} step @returns {string} */
  write(step) {
    return step.text ?? this.byName.get(step.op).write(step);
  }

  /** A step of a recipe that was pasted. @param {string|Step} given @returns {Step} */
  read(given) {
    if (typeof given === "object" && given && this.byName.has(given.op)) return { ...given };
    const text = typeof given === "string" ? given : JSON.stringify(given);
    for (const operation of this.byName.values()) {
      const step = operation.read(text);
      if (step) return step;
    }
    return { text };
  }

  /** A step as JSON has it. @param {Step} step */
  json(step) {
    return step.text ?? step;
  }
}
