/** The page: pictures come in, one recipe is applied to all of them, results go out. */
import { bytes, button, find, h, plural, save, say } from "./dom.js";
import { Jobs } from "./jobs.js";
import { Recipe } from "./recipe.js";
import { Picture } from "./results.js";
import { Registry } from "./schema.js";
import { Server } from "./server.js";
import { parse, texts } from "./share.js";
import { frame, opened } from "./viewer.js";
import { zip } from "./zip.js";

const server = new Server();
/** @type {Picture[]} */
let pictures = [];

const [openapi, about] = await Promise.all([server.json("openapi.json"), server.json("./")]).catch((error) => {
  say(error.message);
  throw error;
});
server.formats = about.formats;
const registry = new Registry(openapi);
const { quality, background, metadata, precise } = openapi.components.schemas.Process.properties;
const options = { quality, background, metadata, precise };
const recipe = new Recipe(registry, options, about.formats, { size: sizeAfter, frame: draw }, run);
find("version").textContent = about.version;
const jobs = openapi.paths["/v1/jobs"] && new Jobs(server);

function run() {
  for (const picture of pictures) picture.run(recipe.steps, recipe.output);
}

/** What a picture has come to be before a step: the first of them, for all. */
async function sizeAfter(steps) {
  const plan = pictures[0]?.sizes(steps.map((step) => registry.write(step)));
  return plan?.then(({ outputs }) => outputs[0], () => null) ?? null;
}

async function draw(before, step) {
  const size = await sizeAfter(before);
  if (!size) {
    say("Add a picture first: the frame is drawn on it.");
    return null;
  }
  const [picture] = pictures, steps = before.map((one) => registry.write(one));
  const made = steps.length && (await server.make(picture.file, steps, { format: "png" })).blobs[0];
  const address = made ? URL.createObjectURL(made) : await picture.before();
  const drawn = await frame(address, size, step);
  if (made) URL.revokeObjectURL(address);
  return drawn;
}

/** @param {Iterable<File>} files */
function add(files) {
  const taken = [...files].filter((file) => {
    if (file.size <= about.limits.max_upload) return true;
    say(`${file.name} has ${bytes(file.size)}; the server takes ${bytes(about.limits.max_upload)}.`);
    return false;
  });
  for (const file of taken) {
    const picture = new Picture(file, server, registry, (error) => refused(file, error), changed);
    const remove = button("✕", () => {
      picture.remove();
      item.remove();
      pictures = pictures.filter((one) => one !== picture);
      changed();
      say(`${file.name} removed.`);
      find("choose").focus();
    }, { "aria-label": `Remove ${file.name}` });
    const item = h("li", { class: "row" }, h("span", { class: "grow name" }, file.name), h("span", { class: "unit" }, bytes(file.size)), remove);
    find("files").append(item);
    find("results").append(picture.element);
    pictures.push(picture);
    picture.run(recipe.steps, recipe.output);
  }
  changed();
}

function changed() {
  find("welcome").hidden = Boolean(pictures.length);
  const ready = pictures.flatMap((picture) => picture.results);
  find("all").disabled = !ready.length || pictures.some((picture) => picture.busy);
  find("all").textContent = ready.length > 1 ? `Download all ${ready.length} as a zip` : "Download all as a zip";
}

/** @param {File} file @param {any} error */
function refused(file, error) {
  if (error.status !== 401) return say(`${file.name}: ${error.message}`);
  find("unlock").hidden = false;
  find("token").focus();
  say("The server wants a token.");
}

async function saveAll() {
  const names = new Map();
  const files = pictures.flatMap((picture) => picture.results).map(({ name, blob }) => {
    const count = (names.get(name) ?? 0) + 1;
    names.set(name, count);
    return { name: count > 1 ? name.replace(/(\.[^.]*)?$/, ` (${count})$1`) : name, blob };
  });
  save(await zip(files), "falconimg.zip");
  say(`${plural(files.length, "file")} in falconimg.zip.`);
}

async function share() {
  const several = pictures.some((picture) => picture.results.length > 1);
  const known = await Promise.all(pictures.map(async (picture) => (
    { name: picture.file.name, format: await picture.sizes([]).then(({ outputs }) => outputs[0].format, () => undefined) })));
  const all = texts(registry, recipe.steps, recipe.output, known, several, about.formats, Boolean(server.token));
  const text = h("textarea", { readOnly: true, id: "shared", rows: 14, spellcheck: false, "aria-label": "The recipe" });
  const choices = Object.keys(all).flatMap((name, index) => {
    const input = h("input", { type: "radio", name: "language", id: `language-${index}`, checked: !index, onchange: () => (text.value = all[name]) });
    return [input, h("label", { for: input.id }, name)];
  });
  text.value = Object.values(all)[0];
  const copy = button("Copy", async () => {
    text.select(); // where the browser allows no more, the user's own key copies it
    await navigator.clipboard?.writeText(text.value).then(() => (copy.textContent = "Copied"), () => say("Selected: copy it with your keyboard."));
  }, { class: "primary" });
  opened("sharing", "Copy the recipe", "For a script, a batch or a terminal; it has no token in it.",
    h("fieldset", { class: "field" }, h("legend", { class: "hidden" }, "Written as"), h("div", { class: "segments" }, ...choices)), text, h("div", { class: "row tools" }, copy));
}

function paste() {
  const text = h("textarea", { id: "pasted", rows: 10, spellcheck: false, "aria-describedby": "paste-problem" });
  const problem = h("p", { id: "paste-problem", role: "alert", class: "problem", hidden: true });
  const use = button("Use it", async () => {
    try {
      const { steps, output } = parse(text.value, registry, openapi, options, about.formats);
      await server.check(steps.map((step) => registry.write(step)), output);
      if (!dialog.open) return;
      recipe.set(steps, output);
      say(`${plural(steps.length, "step")} taken.`);
      dialog.close();
    } catch (error) {
      problem.hidden = false;
      problem.textContent = error.message;
    }
  }, { class: "primary" });
  const dialog = opened("sharing", "Paste a recipe", "JSON of operations, a request of /v1/process, a curl or a falconimg line.",
    h("label", { for: "pasted" }, "Recipe"), text, problem, h("div", { class: "row tools" }, use));
  text.focus();
}

find("choose").addEventListener("click", () => find("file").click());
find("file").addEventListener("change", () => {
  add(find("file").files);
  find("file").value = "";
});
find("all").addEventListener("click", saveAll);
find("copy").addEventListener("click", share);
find("paste").addEventListener("click", paste);
find("unlock").addEventListener("submit", (event) => {
  event.preventDefault();
  const token = find("token").value.trim(), right = /^[\w.~+/-]+=*$/.test(token); // RFC 6750, 2.1
  find("token-problem").hidden = right;
  find("token").setAttribute("aria-invalid", String(!right));
  if (!right) return find("token").focus();
  server.token = token;
  find("unlock").hidden = true;
  find("token").value = "";
  run();
  jobs?.look();
});

const holdsFiles = (/** @type {DragEvent} */ event) => event.dataTransfer?.types.includes("Files");
for (const name of ["dragenter", "dragover"])
  document.addEventListener(name, (/** @type {any} */ event) => {
    if (!holdsFiles(event)) return;
    event.preventDefault();
    document.body.classList.add("dropping");
  });
document.addEventListener("dragleave", (event) => event.relatedTarget || document.body.classList.remove("dropping"));
document.addEventListener("drop", (event) => {
  document.body.classList.remove("dropping");
  if (!holdsFiles(event)) return;
  event.preventDefault();
  add(event.dataTransfer?.files ?? []);
});
document.addEventListener("paste", (event) => {
  const files = [...(event.clipboardData?.files ?? [])];
  if (!files.length) return;
  event.preventDefault();
  add(files);
});
document.addEventListener("keydown", (event) => {
  const types = /** @type {HTMLElement} */ (event.target).closest("input:not([type=range], [type=radio], [type=checkbox]), textarea, dialog");
  if (types || event.key !== "z" || !(event.ctrlKey || event.metaKey)) return;
  event.preventDefault();
  recipe.undo();
});
document.documentElement.dataset.ready = "";
