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
const suffix = (path) => /\.[^./]+$/.exec(path)?.[0] ?? "";

/** The format that is meant by its name or an extension. @param {Record<string, any>} formats @param {string} word */
const byWord = (formats, word) => {
  const plain = word.toLowerCase().replace(/^\./, "");
  return Object.keys(formats).find((name) => name === plain || formats[name].extensions.includes(`.${plain}`));
};

/** The command line's options, and whether each takes a value; and the short ones, as `falconimg process --help` has them. */
const OPTIONS = {
  output: true, op: true, format: true, quality: true, background: true, metadata: true, precise: false, recursive: false,
  "if-exists": true, "skip-existing": false, jobs: true, "dry-run": false, json: false, quiet: false,
};
const SHORT = { o: "output", f: "format", q: "quality", r: "recursive", j: "jobs", n: "dry-run" };

/** An option as it is written: short where it can be. @param {string} name */
const flag = (name) => {
  const short = Object.keys(SHORT).find((letter) => SHORT[letter] === name);
  return short ? `-${short}` : `--${name}`;
};

/**
 * The stems of names, with a number behind each that another has before it.
 * @param {string[][]} names each as its stem and what comes behind it
 */
function stemsApart(names) {
  const taken = new Set(), all = new Set(names.map((name) => name.join("")));
  return names.map(([stem, end]) => {
    let own = stem;
    for (let number = 2; taken.has(own + end) || (own !== stem && all.has(own + end)); number++) own = `${stem}_${number}`;
    taken.add(own + end);
    return own;
  });
}

/**
 * The recipe as curl, JSON, a command line and Python.
 * @param {Registry} registry @param {Step[]} recipe @param {Record<string, any>} output
 * @param {{name: string, format?: string}[]} pictures with their own formats, as far as the server has said them
 * @param {boolean} several whether one of them has several results
 * @param {Record<string, any>} formats @param {boolean} token whether one is needed
 */
export function texts(registry, recipe, output, pictures, several, formats, token) {
  const steps = recipe.map((step) => registry.write(step));
  const named = (pictures.length ? pictures : [{ name: "picture.jpg" }]).map((picture) => {
    const form = output.format ?? picture.format ?? byWord(formats, suffix(picture.name)) ?? Object.keys(formats)[0];
    return { name: picture.name, extension: formats[form].extensions[0] };
  });
  const stems = stemsApart(named.map(({ name, extension }) => [stem(name), several ? ".zip" : extension]));
  const files = named.map((file, i) => ({ ...file, own: stems[i], result: several ? `${stems[i]}.zip` : `${stems[i]}_new${file.extension}` }));
  const address = new URL("v1/image", document.baseURI).href;
  const bearer = token ? [`-H "Authorization: Bearer $TOKEN"`] : [];
  const curl = files.map(({ name, result }) =>
    ["curl --fail-with-body", ...bearer, `--data-binary ${word(`@${name}`)}`, word(address + query(steps, output)), `-o ${word(result)}`]);

  const { format, ...options } = output;
  const images = files.map((file) => ({ input: file.name, output: `out/${literal(file.own)}${file.extension}` }));
  const request = { images, operations: recipe.map((step) => registry.json(step)), ...options };

  const given = Object.entries(output).map(([key, value]) =>
    value === true ? flag(key) : `${flag(key)} ${word(String(value))}`);
  const line = (/** @type {typeof files} */ these, /** @type {string} */ where) => ["falconimg process",
    ...these.map(({ name }) => word(name.startsWith("-") ? `./${name}` : name)), `-o ${word(where)}`, ...given, ...steps.map((step) => `--op ${word(step)}`)];
  const plain = files.filter(({ name, own }) => own === stem(name)), others = files.filter((file) => !plain.includes(file));
  const end = (/** @type {typeof files[0]} */ { name, extension }) => (format || !suffix(name) ? extension : ".{ext}");
  const lines = [line(plain, "out/"), ...others.map((file) => line([file], `out/${literal(file.own)}${end(file)}`))];

  const python = (/** @type {any} */ value) => (value === true ? "True" : JSON.stringify(value));
  const params = `{${[["op", steps], ...Object.entries(output)].map(([key, value]) => `"${key}": ${python(value)}`).join(", ")}}`;
  const loop = files.length > 1;
  const [content, result] = loop ? ["name", "result"] : [python(files[0].name), python(files[0].result)];
  const once = [
    "answer = httpx.post(", `    ${python(address)},`, `    params=${params},`,
    `    content=Path(${content}).read_bytes(),`,
    ...(token ? [`    headers={"Authorization": f"Bearer {os.environ['TOKEN']}"},`] : []),
    "    timeout=60,", ")", "answer.raise_for_status()", `Path(${result}).write_bytes(answer.content)`,
  ];
  const code = [
    ...(token ? ["import os", ""] : []),
    "from pathlib import Path", "", "import httpx", "",
    ...(loop ? ["for name, result in [", ...files.map((file) => `    (${python(file.name)}, ${python(file.result)}),`), "]:"] : []),
    ...once.map((one) => (loop ? `    ${one}` : one)),
  ];
  const shell = (/** @type {string[][]} */ commands) => commands.map((parts) => parts.join(" \\\n  ")).join("\n");
  return {
    curl: shell(curl),
    JSON: JSON.stringify(request, null, 2),
    "command line": shell(lines),
    Python: code.join("\n"),
  };
}

/** What a value of an option may be, by its type, and how one is read that came as text: as the server reads a query. */
const TYPES = {
  integer: { expected: "a whole number", fits: Number.isInteger, read: (/** @type {string} */ text) => (/^-?\d+$/.test(text) ? Number(text) : text) },
  number: { expected: "a number", fits: Number.isFinite },
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
  const step = (/** @type {any} */ given) => {
    if (typeof given !== "object") return registry.read(given);
    const properties = registry.byName.get(given?.op)?.properties;
    if (!properties) throw fault("op", `one of ${[...registry.byName.keys()].join(", ")}`, given?.op);
    const { op, ...values } = given;
    known(op, Object.keys(values), Object.keys(properties));
    for (const [key, value] of Object.entries(values)) {
      const { expected, fits } = TYPES[properties[key].type];
      if (!fits(value)) throw fault(`${op}: ${key}`, expected, value);
    }
    return registry.read(given);
  };
  /** @type {(recipes: any[]) => any} */
  const same = (recipes) => {
    const different = new Set(recipes.map((recipe) => JSON.stringify(recipe))).size;
    if (different > 1) throw new Error(`Expected one recipe for all images, came ${different}.`);
    return recipes[0];
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
    return { steps: (steps ?? []).map(step), output };
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
    return same(recipes);
  };
  const given = text.trim();
  if (/^[[{]/.test(given)) return fromJson(JSON.parse(given));

  /** Of one command; nothing if it is of another program. @type {(words: string[]) => any[]} */
  const fromWords = (words) => {
    const parts = words.flatMap((one) => /^(--[\w-]+(?==)|-d(?=.))=?(.*)$/s.exec(one)?.slice(1) ?? [one]); // --json={} is two words as well
    const body = parts.find((one, i) => BODY.includes(parts[i - 1]) && /^\s*[[{]/.test(one));
    if (body) return [fromJson(JSON.parse(body))];
    const address = words.find((one) => /\/v1\/image\b/.test(one));
    if (address) {
      // a + is one in an operation, as the server has it
      const params = new URLSearchParams(address.slice((address + "?").indexOf("?")).replaceAll("+", "%2B"));
      known("the address", params.keys(), parameters(openapi));
      const format = params.get("format");
      return [fromTexts(params.getAll("op"), Object.fromEntries(params), format === null ? undefined : named("format", format))];
    }
    const process = words.indexOf("process");
    if (process < 0) return [];
    const { files, values } = processLine(words.slice(process + 1));
    const request = files.find((name) => /\.json$/i.test(name));
    if (request) throw new Error(`Expected the request that is in ${request} itself, came its file's name.`);
    const last = (/** @type {string} */ name) => values[name]?.at(-1);
    const output = written("-o", last("output"));
    const format = last("format");
    return [fromTexts(values.op ?? [], Object.fromEntries(Object.keys(options).map((key) => [key, last(key)])),
      format === undefined ? output : named("-f", format))];
  };
  const recipes = shellCommands(given).flatMap(fromWords);
  if (!recipes.length) throw new Error("Expected JSON of operations, a request of /v1/process, a curl line with /v1/image, or a falconimg process line.");
  return same(recipes);
}

/** What curl has a body after. */
const BODY = ["-d", "--data", "--data-raw", "--data-binary", "--json"];

/**
 * What `falconimg process` would take of its words: the files, and each option's values.
 * @param {string[]} words @returns {{files: string[], values: Record<string, string[]>}}
 */
function processLine(words) {
  const rest = [...words];
  /** @type {string[]} */
  const files = [];
  /** @type {Record<string, string[]>} */
  const values = {};
  while (rest.length) {
    const one = rest.shift() ?? "";
    const [, long, assigned, letter, joined] = /^--([^=]+)(?:=(.*))?$|^-([^-])=?(.*)$/s.exec(one) ?? [];
    if (one === "--") files.push(...rest.splice(0));
    else if (!long && !letter) files.push(one);
    else {
      const name = long ?? SHORT[letter], shown = long ? `--${long}` : `-${letter}`;
      if (!Object.hasOwn(OPTIONS, name ?? "")) known("falconimg process", [shown], Object.keys(OPTIONS).map(flag));
      let value = "";
      if (OPTIONS[name]) {
        value = assigned ?? (joined || rest.shift()) ?? "";
        if (!value) throw new Error(`${shown}: expected a value, came none`);
      } else if (assigned !== undefined) throw fault(shown, "no value", assigned);
      else if (joined) rest.unshift(`-${joined}`); // -rn is two of them
      (values[name] ??= []).push(value);
    }
  }
  return { files, values };
}

/** The names that the query of a picture may have. @param {any} openapi @returns {string[]} */
function parameters({ paths }) {
  const all = Object.entries(paths).filter(([path]) => path.startsWith("/v1/image")).flatMap(([, methods]) => Object.values(methods));
  return [...new Set(all.flatMap((method) => method.parameters ?? []).filter((one) => one.in === "query").map((one) => one.name))];
}

/**
 * The words of each command in lines of a POSIX shell, their quotes undone, without redirections.
 * @param {string} lines @returns {string[][]}
 */
function shellCommands(lines) {
  // a line that begins with an option goes on with the one before
  const joined = lines.replace(/\\\r?\n|\r?\n(?=[ \t]*-)/g, " ");
  const raw = joined.match(/(?:'[^']*'|"(?:\\.|[^"\\])*"|\\.|[^\s'"\\])+|\n/g) ?? [];
  /** @type {string[][]} */
  const commands = [[]];
  let target = false; // whether the next word is that of a redirection
  for (const one of raw) {
    const redirection = /^\d*(?:>>?|<)(?:&\d|)/.exec(one)?.[0];
    if (["\n", ";", "&&", "||", "|", "&"].includes(one)) commands.push([]);
    else if (!redirection && !target)
      commands.at(-1)?.push(one.replace(/'([^']*)'|"((?:\\.|[^"\\])*)"|\\(.)/g, (_, single, double, escaped) =>
        single ?? double?.replace(/\\(.)/g, "$1") ?? escaped));
    target = redirection === one && !one.includes("&");
  }
  return commands;
}
