// Answers, shown by what they look like: scores as the highest ones, maps as pictures, everything else as numbers.

import { make, short, table } from "/page/html.js";
import { heat } from "/page/images.js";

const SHOWN = 10; // scores
const NUMBERS = 64;
const LEAST_SIDE = 160; // of a picture, in pixels on the screen

/** An element for one output, {name, datatype, shape, values}. */
export function show(output) {
  const { name, datatype, shape, values } = output;
  const title = make("h4", {}, make("code", {}, name), ` ${datatype} [${shape.join(", ")}]`);
  const samples = shape.length ? shape[0] : 1;
  const body = values.length === 0 ? make("p", { className: "quiet" }, "empty") : bodyOf(shape, values);
  const more = samples > 1 ? make("p", { className: "quiet" }, `the first of ${samples} samples`) : "";
  return make("div", { className: "output" }, title, body, more);
}

function bodyOf(shape, values) {
  if (shape.length === 2 && shape[1] > 1) return scores(values.slice(0, shape[1]));
  if (shape.length === 4 && shape[2] * shape[3] > 1) return planes(shape, values);
  if (shape.length === 3 && shape[1] * shape[2] > 1) return planes([1, ...shape], values);
  const first = Array.from(values.slice(0, NUMBERS), short).join(", ");
  return make("p", {}, make("code", {}, first), values.length > NUMBERS ? ` … and ${values.length - NUMBERS} more` : "");
}

function scores(values) {
  const order = Array.from(values.keys()).sort((a, b) => values[b] - values[a]).slice(0, SHOWN);
  // A bar for the share that a softmax gives: scores may be logits, and already-normalised ones keep their order.
  const sum = Array.from(values).every((v) => v >= 0 && v <= 1) && Math.abs(values.reduce((a, b) => a + b, 0) - 1) < 1e-3;
  const top = values[order[0]];
  const total = values.reduce((s, v) => s + Math.exp(v - top), 0);
  const share = (index) => (sum ? values[index] : Math.exp(values[index] - top) / total);
  const rows = order.map((index) => {
    const bar = make("span", { className: "bar" });
    bar.style.width = `${100 * share(index)}%`;
    return [String(index), short(values[index]), `${(100 * share(index)).toFixed(1)} %`, bar];
  });
  const shown = table(["index", "value", sum ? "share" : "softmax", ""], rows, [1, 2]);
  shown.querySelectorAll("td:last-child").forEach((cell) => cell.classList.add("share"));
  return shown;
}

function planes(shape, values) {
  const [, channels, height, width] = shape;
  const canvas = make("canvas", { role: "img" });
  const range = make("span", { className: "quiet" });
  const choose = make("input", { type: "number", min: 0, max: channels - 1, value: 0, step: 1 });
  const paint = () => {
    const channel = Math.min(Math.max(Math.trunc(Number(choose.value)) || 0, 0), channels - 1);
    const plane = values.slice(channel * height * width, (channel + 1) * height * width);
    const [low, high] = heat(canvas, plane, height, width);
    canvas.style.width = `${Math.max(LEAST_SIDE, width)}px`;
    canvas.setAttribute("aria-label", `channel ${channel} as a picture`);
    range.textContent = `dark is ${short(low)}, bright is ${short(high)}`;
  };
  choose.addEventListener("input", paint);
  paint();
  const label = make("label", {}, `channel, of ${channels}`, choose);
  return make("div", {}, make("div", { className: "row" }, label, range), canvas);
}
