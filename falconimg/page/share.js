/** The recipe as others write it, and back. */
import { usual } from "./schema.js";
import { query } from "./server.js";

/**
 * @typedef {import("./schema.js").Registry} Registry
 * @typedef {import("./schema.js").Step} Step
 */

/** @param {string} text As a word of a POSIX shell. */
const word = (text) => (/^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);

/** A name that stands for itself in a template. @param {string} text */
const literal = (text) => text.replaceAll("{", "{{").replaceAll("}", "}}");

/** @param {string} name */
const stem = (name) => name.replace(/\.[^.]*$/, "");

/** The extension of a path with its dot, or nothing. @param {string} path */
const suffix = (path) => /\.[^./]*$/.exec(path)?.[0] ?? "";

/** The format that is meant by its name or an extension. @param {Record<string, any>} formats @param {string} word */
const byWord = (formats, word) => {
  const plain = word.toLowerCase().replace(/^\./, "");
  return Object.keys(formats).find((name) => name === plain || formats[name].extensions.includes(`.${plain}`));
};

/** The command line's short flags. */
const FLAGS = { format: "-f", quality: "-q", output: "-o" };

/**
 * The recipe as curl, JSON, a command line and Python.
 * @param {Registry} registry @param {Step[]} recipe @param {Record<string, any>} output
 * @param {{name: string, format?: string}[]} pictures with their own formats, as far as the server has said them
 * @param {boolean} several whether one of them has several results
 * @param {Record<string, any>} formats @param {boolean} token whether one is needed
 */
export function texts(registry, recipe, output, pictures, several, formats, token) {
  const steps = recipe.map((step) => registry.write(step));
  const files = (pictures.length ? pictures : [{ name: "picture.jpg" }]).map((picture) => {
    const form = output.format ?? picture.format ?? byWord(formats, suffix(picture.name)) ?? Object.keys(formats)[0];
    return { name: picture.name, extension: formats[form].extensions[0] };
  });
  const [{ name, extension }] = files;
  const result = several ? `${stem(name)}.zip` : `${stem(name)}_new${extension}`;
  const address = new URL("v1/image", document.baseURI).href;
  const bearer = token ? [`-H "Authorization: Bearer $TOKEN"`] : [];
  const curl = ["curl --fail-with-body", ...bearer, `--data-binary ${word(`@${name}`)}`, word(address + query(steps, output)), `-o ${word(result)}`];

  const { format, ...options } = output;
  const images = files.map((file) => ({ input: file.name, output: `out/${literal(stem(file.name))}${file.extension}` }));
  const request = { images, operations: recipe.map((step) => registry.json(step)), ...options };

  const given = Object.entries(output).map(([key, value]) =>
    value === true ? `--${key}` : `${FLAGS[key] ?? `--${key}`} ${word(String(value))}`);
  const inputs = files.map((file) => word(file.name.startsWith("-") ? `./${file.name}` : file.name));
  const line = ["falconimg process", ...inputs, "-o out/", ...given, ...steps.map((step) => `--op ${word(step)}`)];

  const python = (/** @type {any} */ value) => (value === true ? "True" : JSON.stringify(value));
  const params = `{${[["op", steps], ...Object.entries(output)].map(([key, value]) => `"${key}": ${python(value)}`).join(", ")}}`;
  const code = [
    ...(token ? ["import os", ""] : []),
    "from pathlib import Path", "", "import httpx", "",
    "answer = httpx.post(", `    ${python(address)},`, `    params=${params},`,
    `    content=Path(${python(name)}).read_bytes(),`,
    ...(token ? [`    headers={"Authorization": f"Bearer {os.environ['TOKEN']}"},`] : []),
    "    timeout=60,", ")", "answer.raise_for_status()", `Path(${python(result)}).write_bytes(answer.content)`,
  ];
  return {
    curl: curl.join(" \\\n  "),
    JSON: JSON.stringify(request, null, 2),
    "command line": line.join(" \\\n  "),
    Python: code.join("\n"),
  };
}

/** What a value of an option may be, by its type, and how one is read that came as text: as the server reads a query. */
const TYPES = {
  integer: { expected: "a whole number", fits: Number.isInteger, read: (/** @type {string} */ text) => (/^-?\d+$/.test(text) ? Number(text) : text) },
  boolean: { expected: "true or false", fits: (/** @type {any} */ value) => typeof value === "boolean",
             read: (/** @type {string} */ text) => ({ "": true, true: true, 1: true, false: false, 0: false })[text.toLowerCase()] ?? text },
  string: { expected: "text", fits: (/** @type {any} */ value) => typeof value === "string", read: (/** @type {string} */ text) => text },
};

/** @param {string} where @param {string} expected @param {any} came */
const fault = (where, expected, came) => new Error(`${where}: expected ${expected}, came ${String(JSON.stringify(came)).slice(0, 80)}`);

/** @param {string} where @param {any} value @returns {any[]} */
function list(where, value) {
  if (Array.isArray(value)) return value;
  throw fault(where, "a list", value);
}

/** Refuse names that the server does not take: with them a part of the recipe would be lost. */
function known(where, names, all) {
  for (const name of names) if (!all.includes(name)) throw fault(where, `the names ${all.join(", ")}`, name);
}

/**
 * A recipe out of JSON (operations, or a request of /v1/process), a curl line or a command line.
 * @param {string} text @param {Registry} registry @param {any} openapi
 * @param {Record<string, any>} options schemas of the output's options
 * @param {Record<string, any>} formats @returns {{steps: Step[], output: Record<string, any>}}
 */
export function parse(text, registry, openapi, options, formats) {
  /** @type {(where: string, word: any) => string} */
  const named = (where, word) => {
    const format = byWord(formats, String(word));
    if (!format) throw fault(where, `one of ${Object.keys(formats).join(", ")} or an extension of theirs`, word);
    return format;
  };
  /** The format that a path asks for: none if it is a directory or ends with a field. */
  const written = (/** @type {string} */ where, /** @type {any} */ path) => {
    const end = suffix(String(path ?? ""));
    return end && !end.includes("{") ? named(where, end) : undefined;
  };
  /** @type {(steps: any[]|undefined, given: Record<string, any>, format?: string) => any} */
  const made = (steps, given, format) => {
    /** @type {Record<string, any>} */
    const output = format ? { format } : {};
    for (const [key, schema] of Object.entries(options)) {
      if (given[key] === undefined) continue;
      const { expected, fits } = TYPES[schema.type];
      if (!fits(given[key])) throw fault(key, expected, given[key]);
      if (given[key] !== usual(schema)) output[key] = given[key];
    }
    if (!steps && !Object.keys(output).length) throw new Error("Expected operations or options of the output, came none of them.");
    return { steps: (steps ?? []).map((step) => registry.read(step)), output };
  };
  /** @type {(steps: string[], given: Record<string, string|undefined>, format?: string) => any} */
  const fromTexts = (steps, given, format) => {
    const there = Object.entries(options).filter(([key]) => given[key] !== undefined);
    return made(steps.length ? steps : undefined, Object.fromEntries(there.map(([key, { type }]) => [key, TYPES[type].read(given[key])])), format);
  };
  /** @type {(document: any) => any} */
  const fromJson = (document) => {
    if (Array.isArray(document)) return made(document, {});
    if (document.op) return made([document], {});
    const { Process, Image, Rendition } = openapi.components.schemas;
    const object = (/** @type {string} */ where, /** @type {any} */ value, /** @type {any} */ schema) => {
      if (value?.constructor !== Object) throw fault(where, "an object", value);
      known(where, Object.keys(value), Object.keys(schema.properties));
    };
    object("the request", document, Process);
    const images = list("images", document.images ?? []);
    const branches = (images.length ? images : [{}]).flatMap((image) => {
      object("images", image, Image);
      return list("renditions", image.renditions ?? [{}]).map((branch) => {
        object("renditions", branch, Rendition);
        const [first, then] = [image.operations ?? document.operations, branch.operations];
        const steps = first || then ? [...list("operations", first ?? []), ...list("operations", then ?? [])] : undefined;
        const given = { ...document, ...image, ...branch };
        return { steps, given, own: byWord(formats, suffix(given.input ?? "")), format: written("output", given.output) };
      });
    });
    const asItCame = branches.every(({ own, format }) => format === own);
    const recipes = branches.map(({ steps, given, format }) => made(steps, given, asItCame ? undefined : format));
    const different = new Set(recipes.map((recipe) => JSON.stringify(recipe))).size;
    if (different > 1) throw new Error(`Expected one recipe for all images, came ${different}.`);
    return recipes[0];
  };
  const given = text.trim();
  if (/^[[{]/.test(given)) return fromJson(JSON.parse(given));

  // -q80 and --quality=80 are two words as well
  const words = shellWords(given).flatMap((one) => /^(--[\w-]+(?==)|-\w(?=.))=?(.*)$/s.exec(one)?.slice(1) ?? [one]);
  const after = (/** @type {string[]} */ ...flags) => words.flatMap((one, i) => (flags.includes(one) ? [words[i + 1] ?? ""] : []));
  const body = after("-d", "--data", "--data-raw", "--data-binary", "--json").find((one) => /^\s*[[{]/.test(one));
  if (body) return fromJson(JSON.parse(body));
  const address = words.find((one) => /\/v1\/image\b/.test(one));
  if (address) {
    // a + is one in an operation, as the server has it
    const params = new URLSearchParams(address.slice((address + "?").indexOf("?")).replaceAll("+", "%2B"));
    known("the address", params.keys(), parameters(openapi));
    const format = params.get("format");
    return fromTexts(params.getAll("op"), Object.fromEntries(params), format === null ? undefined : named("format", format));
  }
  if (words.includes("process")) {
    const values = Object.entries(options).map(([key, { type }]) =>
      [key, type !== "boolean" ? after(`--${key}`, FLAGS[key]).at(-1) : words.includes(`--${key}`) ? "" : undefined]);
    const format = after("--format", FLAGS.format).at(-1);
    const output = written("-o", after("--output", FLAGS.output).at(-1));
    return fromTexts(after("--op"), Object.fromEntries(values), format === undefined ? output : named("-f", format));
  }
  throw new Error("Expected JSON of operations, a request of /v1/process, a curl line with /v1/image, or a falconimg process line.");
}

/** The names that the query of a picture may have. @param {any} openapi @returns {string[]} */
function parameters({ paths }) {
  const all = Object.entries(paths).filter(([path]) => path.startsWith("/v1/image")).flatMap(([, methods]) => Object.values(methods));
  return [...new Set(all.flatMap((method) => method.parameters ?? []).filter((one) => one.in === "query").map((one) => one.name))];
}

/** The words of a POSIX shell's line, its quotes undone. @param {string} line */
function shellWords(line) {
  const words = line.replace(/\\\r?\n/g, " ").match(/(?:'[^']*'|"(?:\\.|[^"\\])*"|\\.|[^\s'"\\])+/g) ?? [];
  return words.map((one) => one.replace(/'([^']*)'|"((?:\\.|[^"\\])*)"|\\(.)/g, (_, single, double, escaped) =>
    single ?? double?.replace(/\\(.)/g, "$1") ?? escaped));
}
