/** The two dialogs on a picture: before and after, and a frame drawn on it. */
import { button, find, h, save, say } from "./dom.js";

const ZOOMS = [0.05, 0.1, 0.25, 0.5, 0.75, 1, 1.5, 2, 3, 4, 8];

/**
 * A result before and after, one over the other, with the zoom in step.
 * @param {{name: string, words: string, width: number, height: number, blob: Blob, after: string, before: () => Promise<string>}} result
 */
export async function compare({ name, words, width, height, blob, after, before }) {
  let zoom = 1;
  const old = h("img", { alt: "Before", class: "old", draggable: false });
  const now = h("img", { alt: "After", class: "now", src: after, draggable: false });
  const line = h("div", { class: "line" });
  const canvas = h("div", { class: "canvas" }, old, now, line);
  const stage = h("div", { class: "stage", tabIndex: 0, role: "region", "aria-label": "Picture; arrow keys scroll it" }, canvas);
  const split = h("input", { type: "range", min: 0, max: 100, value: 50, id: "split", oninput: () => cut(Number(split.value)) });
  const shown = h("output", { "aria-live": "polite" });
  const cut = (/** @type {number} */ percent) => {
    split.value = percent;
    now.style.clipPath = `inset(0 0 0 ${percent}%)`;
    old.style.clipPath = `inset(0 ${100 - percent}% 0 0)`; // it would be seen through what is transparent
    line.style.left = `${percent}%`;
  };
  const scale = (/** @type {number} */ factor) => {
    const middle = [(stage.scrollLeft + stage.clientWidth / 2) / zoom, (stage.scrollTop + stage.clientHeight / 2) / zoom];
    zoom = factor;
    canvas.style.width = `${width * zoom}px`;
    canvas.style.height = `${height * zoom}px`;
    shown.textContent = `${Math.round(zoom * 100)} %`;
    stage.scrollTo(middle[0] * zoom - stage.clientWidth / 2, middle[1] * zoom - stage.clientHeight / 2);
  };
  const fit = () => scale(Math.min(stage.clientWidth / width, stage.clientHeight / height));
  const drag = (/** @type {PointerEvent} */ event) => {
    const box = canvas.getBoundingClientRect();
    cut(Math.round(Math.min(100, Math.max(0, (100 * (event.clientX - box.left)) / box.width))));
  };
  canvas.addEventListener("pointerdown", (/** @type {PointerEvent} */ event) => {
    if (event.pointerType === "touch") return; // a finger scrolls
    canvas.setPointerCapture(event.pointerId);
    drag(event);
  });
  canvas.addEventListener("pointermove", (/** @type {PointerEvent} */ event) => event.buttons && canvas.hasPointerCapture(event.pointerId) && drag(event));

  const dialog = opened("compare", name, words,
    stage,
    h("div", { class: "row split" }, h("label", { for: "split" }, "Before"), split, h("span", { "aria-hidden": "true" }, "After")),
    h("div", { class: "row tools" },
      button("−", () => scale(ZOOMS.findLast((one) => one < zoom - 1e-6) ?? ZOOMS[0]), { "aria-label": "Smaller" }), shown,
      button("+", () => scale(ZOOMS.find((one) => one > zoom + 1e-6) ?? ZOOMS[ZOOMS.length - 1]), { "aria-label": "Larger" }),
      button("100 %", () => scale(1)), button("Fit", fit), button("Download", () => save(blob, name))));
  cut(50);
  fit();
  try {
    old.src = await before();
  } catch (error) {
    if (dialog.open) say(`No picture of before: ${error.message}`);
  }
}

/**
 * Let the user draw a frame on a picture.
 * @param {string} address of the picture, shown at any size @param {{width: number, height: number}} size its own
 * @param {{x: number, y: number, width: number, height: number}} given
 * @returns {Promise<{x: number, y: number, width: number, height: number}|null>} null: left as it was
 */
export function frame(address, size, given) {
  let box = inside({ ...given }, size);
  const image = h("img", { src: address, alt: "The picture that is cropped", draggable: false });
  const corners = ["nw", "ne", "sw", "se"].map((corner) => h("span", { class: `corner ${corner}`, "data-corner": corner }));
  const rectangle = h("button", { type: "button", class: "frame", "aria-label": "Frame: arrow keys move it, with Shift they size it" }, ...corners);
  const canvas = h("div", { class: "canvas" }, image, rectangle);
  const fields = Object.keys(box).map((key) => h("input", {
    type: "number", id: `frame-${key}`, min: key.length > 1 ? 1 : 0, onchange: () => {
      put({ ...box, [key]: Math.round(Number(find(`frame-${key}`).value)) });
    },
  }));
  const put = (/** @type {typeof box} */ next) => {
    box = inside(next, size);
    const percent = (/** @type {number} */ value, /** @type {number} */ whole) => `${(100 * value) / whole}%`;
    rectangle.style.left = percent(box.x, size.width);
    rectangle.style.top = percent(box.y, size.height);
    rectangle.style.width = percent(box.width, size.width);
    rectangle.style.height = percent(box.height, size.height);
    for (const field of fields) field.value = box[/** @type {keyof typeof box} */ (field.id.slice(6))];
  };
  rectangle.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
    const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!way) return;
    event.preventDefault();
    const [across, down] = way.map((one) => one * (event.ctrlKey ? 10 : 1));
    put(event.shiftKey ? { ...box, width: box.width + across, height: box.height + down } : { ...box, x: box.x + across, y: box.y + down });
  });
  canvas.addEventListener("pointerdown", (/** @type {PointerEvent} */ event) => {
    const area = canvas.getBoundingClientRect();
    const at = (/** @type {PointerEvent} */ { clientX, clientY }) => [
      Math.round(Math.min(size.width, Math.max(0, ((clientX - area.left) / area.width) * size.width))),
      Math.round(Math.min(size.height, Math.max(0, ((clientY - area.top) / area.height) * size.height))),
    ];
    const [x, y] = at(event), old = box;
    const corner = /** @type {HTMLElement} */ (event.target).dataset.corner;
    // a corner pulls away from the one across; elsewhere on the frame moves it; beside it begins a new one
    const fixed = corner ? [corner.includes("w") ? old.x + old.width : old.x, corner.includes("n") ? old.y + old.height : old.y]
      : event.target === rectangle ? null : [x, y];
    event.preventDefault();
    rectangle.focus();
    canvas.setPointerCapture(event.pointerId);
    const move = (/** @type {PointerEvent} */ later) => {
      const [right, bottom] = at(later);
      put(fixed
        ? { x: Math.min(fixed[0], right), y: Math.min(fixed[1], bottom), width: Math.abs(right - fixed[0]), height: Math.abs(bottom - fixed[1]) }
        : { ...old, x: old.x + right - x, y: old.y + bottom - y });
    };
    const end = new AbortController();
    canvas.addEventListener("pointermove", move, { signal: end.signal });
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, () => end.abort(), { signal: end.signal });
  });
  return new Promise((resolve) => {
    const labelled = fields.map((field) => h("label", { class: "field" }, field.id[6].toUpperCase() + field.id.slice(7), field));
    const use = button("Use this frame", () => (resolve(box), dialog.close()), { class: "primary" });
    const dialog = opened("framing", "Crop", `Of ${size.width} × ${size.height} px`,
      h("div", { class: "stage still" }, canvas), h("div", { class: "pairs four" }, ...labelled), h("div", { class: "row tools" }, use));
    canvas.style.aspectRatio = `${size.width} / ${size.height}`;
    canvas.style.width = `min(100%, calc(60vh * ${size.width / size.height}))`;
    dialog.addEventListener("close", () => resolve(null));
    put(box);
    rectangle.focus();
  });
}

/** The frame with whole sides of at least a pixel, within the picture. */
function inside(box, size) {
  const width = Math.max(1, Math.min(size.width, box.width)), height = Math.max(1, Math.min(size.height, box.height));
  return {
    x: Math.max(0, Math.min(size.width - width, box.x ?? 0)), y: Math.max(0, Math.min(size.height - height, box.y ?? 0)), width, height,
  };
}

/** A dialog that is gone when it is closed. @returns {any} */
export function opened(kind, title, words, ...children) {
  const dialog = h("dialog", { class: kind, "aria-labelledby": "dialog-title" },
    h("header", { class: "row" }, h("div", { class: "grow" }, h("h2", { id: "dialog-title" }, title), h("p", { class: "figures" }, words)),
      button("✕", () => dialog.close(), { "aria-label": "Close" })),
    ...children);
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}
