/** What is asked of the server. All addresses are relative to the page's own. */
import { unzip } from "./zip.js";

/** The server's refusal, in its own words (RFC 9457). */
export class Refused extends Error {
  /** @param {number} status @param {string} message @param {string} [type] the problem's */
  constructor(status, message, type) {
    super(message);
    Object.assign(this, { status, type });
  }

  /** Whether the same may be answered otherwise the next time: the fault is not in the picture or the request. */
  get passing() {
    return this.status === 0 || this.status >= 500 || [408, 429].includes(this.status);
  }
}

/** Steps that make of any picture one that every browser shows. */
const PREVIEW = ["resize=1600x1600,fit:inside,enlarge:no"];

/**
 * The query of a recipe, with only those characters escaped that have to be.
 * @param {string[]} steps @param {Record<string, any>} options
 */
export function query(steps, options) {
  const pairs = [...steps.map((step) => ["op", step]), ...Object.entries(options)];
  const escaped = (/** @type {any} */ text) =>
    encodeURIComponent(text).replace(/%(3D|2C|3A|2B)/g, decodeURIComponent).replace(/[!'()*]/g, (c) => `%${c.charCodeAt(0).toString(16)}`);
  return pairs.length ? `?${pairs.map(([key, value]) => `${key}=${escaped(value)}`).join("&")}` : "";
}

export class Server {
  token = ""; // in memory only
  /** @type {Record<string, any>} */
  formats = {};
  /** @type {Map<string, boolean>} which media types the browser shows */
  #shows = new Map();

  /** @param {string} path @param {RequestInit} [init] */
  async #ask(path, init = {}) {
    const headers = { Accept: "application/json, */*;q=0.5", ...(this.token && { Authorization: `Bearer ${this.token}` }) };
    let answer;
    try {
      answer = await fetch(path, { ...init, headers });
    } catch (error) {
      if (init.signal?.aborted) throw error;
      throw new Refused(0, "The server does not answer.");
    }
    if (answer.ok || answer.status === 304) return answer;
    const problem = await answer.json().catch(() => ({}));
    const failed = problem.images?.[0]?.error;
    const places = (problem.errors ?? []).map((/** @type {any} */ place) => place.detail);
    const words = failed ? [failed.title, failed.detail] : [problem.title ?? `Status ${answer.status}`, ...(places.length ? places : [problem.detail])];
    throw new Refused(answer.status, words.filter(Boolean).join(": "), problem.type);
  }

  /** @param {string} path */
  async json(path) {
    return (await this.#ask(path)).json();
  }

  /** @param {string} method @param {string} path */
  async send(method, path) {
    return (await this.#ask(path, { method })).json();
  }

  /** @param {Blob} file @param {string[]} steps @param {Record<string, any>} options @param {AbortSignal} [signal] */
  async #image(file, steps, options, signal) {
    const body = new FormData();
    body.append("file", file, file instanceof File ? file.name : "picture");
    return this.#ask(`v1/image${query(steps, options)}`, { method: "POST", body, signal });
  }

  /**
   * What would come out, by the picture's header alone.
   * @param {Blob} file @param {string[]} steps @param {Record<string, any>} options @param {AbortSignal} [signal]
   * @returns {Promise<{outputs: {path: string, width: number, height: number, format: string}[], notes: {detail: string}[]}>}
   */
  async plan(file, steps, options, signal) {
    const report = await (await this.#image(file, steps, { ...options, dry_run: true }, signal)).json();
    const [{ outputs, notes = [], error }] = report.images;
    if (error) throw new Refused(422, `${error.title}: ${error.detail}`);
    return { outputs, notes };
  }

  /**
   * Throws what the server has against a recipe, whatever the picture is. Where it does not judge it now (it is busy,
   * say, or wants a token) nothing is thrown: the pictures tell.
   * @param {string[]} steps @param {Record<string, any>} options
   */
  async check(steps, options) {
    try {
      await this.plan(await blank(), steps, options);
    } catch (error) {
      if (error.type === "/problems/request") throw error;
    }
  }

  /**
   * The results, and the milliseconds that they took: those of the server's stages if it says them.
   * @param {Blob} file @param {string[]} steps @param {Record<string, any>} options @param {AbortSignal} [signal]
   * @returns {Promise<{blobs: Blob[], archive: Blob|null, ms: number}>}
   */
  async make(file, steps, options, signal) {
    const begun = performance.now();
    const answer = await this.#image(file, steps, options, signal);
    const blob = await answer.blob();
    const stages = [...(answer.headers.get("Server-Timing") ?? "").matchAll(/;dur=([\d.]+)/g)];
    const ms = stages.length ? stages.reduce((sum, [, spent]) => sum + Number(spent), 0) : performance.now() - begun;
    if (!/^application\/zip\b/.test(answer.headers.get("Content-Type") ?? "")) return { blobs: [blob], archive: null, ms };
    return { blobs: (await unzip(blob)).map((entry) => entry.blob), archive: blob, ms };
  }

  /**
   * An address under which the browser shows the picture, to be revoked by who asked: of what it cannot show, the
   * server renders a PNG.
   * @param {Blob} blob @param {AbortSignal} [signal]
   */
  async shown(blob, signal) {
    if (!(blob.type && this.#shows.get(blob.type))) {
      const able = await decodes(blob);
      if (!able) return URL.createObjectURL((await this.make(blob, PREVIEW, { format: "png" }, signal)).blobs[0]);
      if (!(blob instanceof File)) this.#shows.set(blob.type, true); // a file's type is only what its name says
    }
    return URL.createObjectURL(blob);
  }
}

/** @param {Blob} blob */
async function decodes(blob) {
  const image = new Image();
  image.src = URL.createObjectURL(blob);
  try {
    await image.decode();
    return true;
  } catch {
    return false;
  } finally {
    URL.revokeObjectURL(image.src);
  }
}

/** A picture of nothing, large enough for most steps. @returns {Promise<Blob>} */
function blank() {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 1000;
  return new Promise((resolve) => canvas.toBlob(/** @type {any} */ (resolve)));
}
