// The models and their figures: a card each, of which the figures change.

import { make, short, table } from "/page/html.js";

const KEPT = 60; // moments of the sparkline
const PILLS = { READY: "good", LOADING: "between", UNLOADING: "between", UNAVAILABLE: "bad" };

/** "1:8:32" or "16:64:128:8" as numbers. */
export function dimsOf(config) {
  const dims = {};
  for (const [key, { string_value: text }] of Object.entries(config.parameters ?? {})) {
    if (!key.startsWith("dim.")) continue;
    const [min, opt, max, multiple = 1] = text.split(":").map(Number);
    dims[key.slice(4)] = { min, opt, max, multiple };
  }
  return dims;
}

/** The sizes of a tensor by name or number, as the bundle has them: ["batch", "3", "height", "width"]. */
export function shapeOf(config, tensor) {
  const written = config.parameters?.[`shape.${tensor.name}`]?.string_value;
  return written === undefined ? tensor.shape.map(String) : written.split(",").filter((size) => size !== "");
}

function described(metadata, config) {
  const dims = dimsOf(config);
  const rows = [];
  for (const [kind, tensors] of [["in", metadata.inputs], ["out", metadata.outputs]])
    for (const tensor of tensors) rows.push([kind, make("code", {}, tensor.name), tensor.datatype, `[${shapeOf(config, tensor).join(", ")}]`]);
  const ranges = Object.entries(dims).map(([name, { min, max, multiple }]) => {
    const step = multiple > 1 ? `, in steps of ${multiple}` : "";
    return `${name} ${min} to ${max}${step}`;
  });
  return make(
    "div",
    {},
    table(["", "tensor", "dtype", "shape"], rows),
    ranges.length ? make("p", { className: "quiet" }, ranges.join(" · ")) : "",
  );
}

/** One model. */
export class Card {
  constructor(name) {
    this.name = name;
    this.pill = make("span", { className: "pill" });
    this.facts = make("span", { className: "quiet" });
    this.reason = make("p", { className: "problem" });
    this.tensors = make("div");
    this.figures = make("dl", { className: "figures" });
    this.line = document.createElementNS("http://www.w3.org/2000/svg", "path");
    const spark = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    spark.setAttribute("viewBox", `0 0 ${KEPT - 1} 10`);
    spark.setAttribute("preserveAspectRatio", "none");
    spark.setAttribute("class", "spark");
    spark.setAttribute("role", "img");
    spark.setAttribute("aria-label", `requests per second of ${name} in the last minute`);
    spark.append(this.line);
    this.rates = [];
    this.element = make(
      "article",
      { className: "card" },
      make("div", { className: "head" }, make("h3", {}, name), this.pill, this.facts),
      this.reason,
      make("div", { className: "sides" }, this.tensors, make("div", {}, this.figures, spark)),
    );
  }

  describe(metadata, config) {
    const fact = (name) => config.parameters?.[name]?.string_value ?? "";
    const batch = config.max_batch_size > 1 ? `batches up to ${config.max_batch_size}` : "no batching";
    const facts = [fact("runtime"), fact("precision"), batch];
    if (fact("self_test")) facts.push(`self-test: ${fact("self_test")}`);
    this.facts.textContent = facts.filter(Boolean).join(" · ");
    this.tensors.replaceChildren(described(metadata, config));
  }

  setState(state, reason) {
    this.pill.textContent = state.toLowerCase();
    this.pill.className = `pill ${PILLS[state] ?? ""}`;
    this.reason.textContent = reason ?? "";
  }

  /** Statistics at a moment (ms); rates are those since the last ones. */
  show(stats, now) {
    const own = stats.dyndeploy ?? {};
    const counts = stats.inference_stats;
    const done = counts.success.count + counts.fail.count;
    const rejected = Object.values(own.rejected ?? {}).reduce((sum, count) => sum + count, 0);
    const last = this.last ?? { done, samples: stats.inference_count, runs: stats.execution_count, counts, now };
    const seconds = (now - last.now) / 1000;
    const rate = seconds > 0 ? Math.max(0, done - last.done) / seconds : 0;
    // Of the requests since the last moment or, where there were none, of all.
    const mean = (kind) => {
      const requests = counts[kind].count - last.counts[kind].count;
      const [count, ns] = requests > 0 ? [requests, counts[kind].ns - last.counts[kind].ns] : [counts[kind].count, counts[kind].ns];
      return count > 0 ? `${short(ns / count / 1e6)} ms` : "–";
    };
    const runs = stats.execution_count - last.runs;
    const batch = runs > 0 ? (stats.inference_count - last.samples) / runs : stats.inference_count / stats.execution_count;
    const figures = {
      requests: String(done),
      "per second": short(rate),
      latency: mean("success"),
      "in the queue": mean("queue"),
      "in the model": mean("compute_infer"),
      "mean batch": Number.isFinite(batch) ? short(batch) : "–",
      "waiting, running": `${own.waiting ?? 0}, ${own.running ?? 0}`,
      "failed, refused": `${counts.fail.count}, ${rejected}`,
    };
    this.figures.replaceChildren(
      ...Object.entries(figures).map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))),
    );
    if (this.last) this.rates = [...this.rates, rate].slice(-KEPT);
    this.last = { done, samples: stats.inference_count, runs: stats.execution_count, counts, now };
    const most = Math.max(...this.rates, 1e-9);
    const points = this.rates.map((r, index) => `${KEPT - this.rates.length + index},${(9.5 - (9 * r) / most).toFixed(2)}`);
    this.line.setAttribute("d", points.length > 1 ? `M${points.join("L")}` : "");
  }
}
