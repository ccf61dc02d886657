// Elements with attributes and children; text is always text.

/** make("td", {className: "number"}, "12") */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

/** A table of rows of text or elements. */
export function table(heads, rows, numbers = []) {
  const kind = (index) => (numbers.includes(index) ? "number" : "");
  return make(
    "div",
    { className: "scroll" },
    make(
      "table",
      {},
      make("thead", {}, make("tr", {}, ...heads.map((head, index) => make("th", { scope: "col", className: kind(index) }, head)))),
      make(
        "tbody",
        {},
        ...rows.map((row) =>
          make("tr", {}, ...row.map((cell, index) => make("td", { className: kind(index) }, cell))),
        ),
      ),
    ),
  );
}

/** Three digits, as many as mean something. */
export function short(value) {
  if (!Number.isFinite(value)) return String(value);
  if (value === 0 || (Math.abs(value) >= 1e-3 && Math.abs(value) < 1e6)) return String(Number(value.toPrecision(4)));
  return value.toExponential(2);
}
