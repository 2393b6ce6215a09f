/** The server's jobs: how far each has come, and a way to cancel it or to have what failed made again. */
import { button, find, h, plural, say } from "./dom.js";

/** @typedef {{id: string, state: string, total: number, done: number, failed: number, skipped: number, cancelled: number, created: number}} Job */

const PERIOD = 1000; // milliseconds from look to look while the list is open
const SHOWN = 10;
const LOOKED_AT = 100; // so many of its images, for the reason why one failed
const OPEN = ["queued", "running"];

/** @param {Job} job */
const ended = (job) => job.done + job.failed + job.skipped + job.cancelled;

export class Jobs {
  /** @param {import("./server.js").Server} server */
  constructor(server) {
    this.server = server;
    /** @type {Map<string, {item: any, update: (job: Job) => void}>} */
    this.rows = new Map();
    const panel = find("jobs");
    panel.hidden = false;
    panel.querySelector("details").addEventListener("toggle", () => this.look());
    document.addEventListener("visibilitychange", () => this.look());
  }

  get #open() {
    return find("jobs").querySelector("details").open && !document.hidden;
  }

  /** Look now, and again for as long as somebody sees it. */
  async look() {
    clearTimeout(this.timer);
    if (!this.#open) return;
    try {
      const { jobs } = await this.server.json(`v1/jobs?limit=${SHOWN}`);
      this.#show(jobs);
    } catch (error) {
      find("jobs-note").textContent = error.message;
    }
    clearTimeout(this.timer);
    if (this.#open) this.timer = setTimeout(() => this.look(), PERIOD);
  }

  /** @param {Job[]} jobs */
  #show(jobs) {
    find("jobs-note").textContent = jobs.length ? "" : "None yet: POST /v1/jobs or falconimg jobs submit makes one.";
    const ids = new Set(jobs.map((job) => job.id));
    for (const [id, { item }] of this.rows) {
      if (ids.has(id)) continue;
      item.remove();
      this.rows.delete(id);
    }
    for (const job of [...jobs].reverse()) {
      if (!this.rows.has(job.id)) {
        const row = this.#row(job);
        find("job-list").prepend(row.item);
        this.rows.set(job.id, row);
      }
      this.rows.get(job.id)?.update(job);
    }
  }

  /** Say why the first of a job's images failed, if it is among those that are looked at. @param {string} id @param {number} failed @param {any} reason */
  async #why(id, failed, reason) {
    const none = { images: [] };
    const { images } = failed ? await this.server.json(`v1/jobs/${id}?limit=${LOOKED_AT}`).catch(() => none) : none;
    const first = images.find((/** @type {any} */ image) => image.error && image.status === "failed");
    reason.hidden = !first;
    reason.textContent = first ? `${first.input}: ${first.error.title}: ${first.error.detail}` : "";
  }

  /** @param {Job} job */
  #row({ id, created }) {
    const name = `Job of ${new Date(created * 1000).toLocaleTimeString()}`;
    const bar = h("progress", { "aria-label": name });
    const words = h("span", { class: "unit" });
    const act = (/** @type {string} */ text, /** @type {string} */ method, /** @type {string} */ path) =>
      button(text, async () => {
        try {
          await this.server.send(method, path);
          say(`${name}: ${text.toLowerCase()} asked for.`);
        } catch (error) {
          say(error.message);
        }
        this.look();
      }, { "aria-label": `${text}: ${name}`, class: "quiet" });
    const cancel = act("Cancel", "DELETE", `v1/jobs/${id}`), retry = act("Retry", "POST", `v1/jobs/${id}/retry`);
    const reason = h("p", { class: "problem", hidden: true });
    const item = h("li", { class: "job" }, h("span", { class: "row" }, h("span", { class: "grow" }, name), cancel, retry),
      h("code", {}, id), bar, words, reason);
    let failed = 0;
    const update = (/** @type {Job} */ now) => {
      if (now.failed !== failed && (reason.hidden || !now.failed)) this.#why(id, now.failed, reason);
      failed = now.failed;
      bar.max = now.total;
      bar.value = ended(now);
      const counts = ["failed", "cancelled"].filter((key) => now[key]).map((key) => `, ${now[key]} ${key}`).join("");
      words.textContent = `${now.state}: ${ended(now)} of ${plural(now.total, "image")}${counts}`;
      cancel.hidden = !OPEN.includes(now.state);
      retry.hidden = OPEN.includes(now.state) || !now.failed;
    };
    return { item, update };
  }
}
