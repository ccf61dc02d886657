// The form: a request of one sample, of images where an input is one, of numbers otherwise.

import { infer } from "/page/api.js";
import { isFloat } from "/page/dtypes.js";
import { make } from "/page/html.js";
import { SCALINGS, draw, tensorOf } from "/page/images.js";
import { dimsOf, shapeOf } from "/page/models.js";
import { show } from "/page/outputs.js";

const $ = (id) => document.getElementById(id);

/** The form for the models that are served. */
export class Trial {
  constructor() {
    this.known = new Map();
    $("model").addEventListener("change", () => this.rebuild());
    $("try").addEventListener("submit", (event) => {
      event.preventDefault();
      this.run();
    });
  }

  /** The models that can be tried: name -> {metadata, config}. */
  offer(known) {
    const chosen = $("model").value;
    const names = [...known.keys()];
    const stays = this.known.has(chosen) && known.get(chosen) === this.known.get(chosen);
    this.known = known;
    $("model").replaceChildren(...names.map((name) => make("option", { value: name, selected: name === chosen }, name)));
    $("try").hidden = names.length === 0;
    if (names.length && !stays) this.rebuild();
  }

  rebuild() {
    const { metadata, config } = this.known.get($("model").value);
    const dims = dimsOf(config);
    const batch = config.parameters?.batch_dim?.string_value;
    this.sizes = {};
    const choices = [];
    for (const [name, { min, opt, max, multiple }] of Object.entries(dims)) {
      if (name === batch) {
        this.sizes[name] = () => Math.max(1, min);
        continue;
      }
      const box = make("input", { type: "number", min, max, step: multiple, value: opt, required: true });
      box.addEventListener("change", () => this.repaint());
      this.sizes[name] = () => Number(box.value);
      choices.push(make("label", {}, name, box));
    }
    $("dims").replaceChildren(...choices);
    this.inputs = metadata.inputs.map((tensor) => this.field(tensor, shapeOf(config, tensor), config));
    $("inputs").replaceChildren(...this.inputs.map((input) => input.element));
    $("outputs").replaceChildren();
    $("timing").textContent = "";
    this.repaint();
  }

  shape(names) {
    return names.map((name) => (/^\d+$/.test(name) ? Number(name) : (this.sizes[name]?.() ?? 1)));
  }

  field(tensor, names, config) {
    const range = config.parameters?.[`range.${tensor.name}`]?.string_value;
    const isImage = names.length === 4 && ["1", "3"].includes(names[1]) && isFloat(tensor.datatype);
    const made = isImage ? this.image(tensor, names) : this.numbers(tensor, names, range);
    const legend = make("legend", {}, make("code", {}, tensor.name), ` ${tensor.datatype} [${names.join(", ")}]`);
    made.element = make("fieldset", {}, legend, ...made.parts);
    return made;
  }

  image(tensor, names) {
    const file = make("input", { type: "file", accept: "image/*" });
    const scaling = make("select", {}, ...Object.keys(SCALINGS).map((name) => make("option", { value: name }, name)));
    const invert = make("input", { type: "checkbox" });
    const canvas = make("canvas", { className: "preview", role: "img", "aria-label": `what is sent as ${tensor.name}` });
    const paint = async () => {
      const [, , height, width] = this.shape(names);
      await draw(canvas, file.files[0], height, width);
    };
    file.addEventListener("change", () => this.repaint());
    const row = make(
      "div",
      { className: "row" },
      make("label", {}, "Image", file),
      make("label", {}, "Scaled to", scaling),
      make("label", {}, invert, "inverted"),
    );
    const value = async () => {
      await paint();
      const shape = this.shape(names);
      const one = tensorOf(canvas, shape[1], scaling.value, invert.checked);
      const values = new Float32Array(one.length * shape[0]);
      for (let n = 0; n < shape[0]; ++n) values.set(one, n * one.length);
      return { name: tensor.name, datatype: tensor.datatype, shape, values };
    };
    return { parts: [row, canvas], paint, value };
  }

  numbers(tensor, names, range) {
    const [low, high] = range ? range.split(":").map(Number) : isFloat(tensor.datatype) ? [-1, 1] : [0, 1];
    const fill = make("select", {}, make("option", { value: "random" }, `random, ${low} to ${high}`), make("option", { value: "zeros" }, "zeros"));
    const value = async () => {
      const shape = this.shape(names);
      const count = shape.reduce((a, b) => a * b, 1);
      const draw = () => (fill.value === "zeros" ? 0 : low + (high - low) * Math.random());
      const values = Float64Array.from({ length: count }, draw);
      return { name: tensor.name, datatype: tensor.datatype, shape, values: isFloat(tensor.datatype) ? values : values.map(Math.round) };
    };
    return { parts: [make("label", {}, "Numbers", fill)], paint: async () => {}, value };
  }

  async repaint() {
    this.complain(""); // now, not when all is painted: an answer may be there by then
    try {
      for (const input of this.inputs) await input.paint();
    } catch (error) {
      this.complain(error.message);
    }
  }

  complain(text) {
    $("try-problem").textContent = text;
    $("try-problem").hidden = !text;
  }

  async run() {
    const button = $("send");
    button.disabled = true;
    try {
      const inputs = [];
      for (const input of this.inputs) inputs.push(await input.value());
      const start = performance.now();
      const outputs = await infer($("model").value, inputs);
      $("timing").textContent = `answered in ${(performance.now() - start).toFixed(1)} ms, the way there and back included`;
      $("outputs").replaceChildren(...outputs.map(show));
      this.complain("");
    } catch (error) {
      $("timing").textContent = "";
      this.complain(error.message);
    } finally {
      button.disabled = false;
    }
  }
}
