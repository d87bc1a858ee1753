// Columns over time. The one chart that a page of costs needs: drawn anew when its box changes, read with the pointer or the arrow keys.

import { svg, text, usd, whole } from "./common.js";

const LEFT = 56;
const TOP = 8;
const BOTTOM = 24;
const WIDEST = 40; // of a column, where there are few
const TICK_WIDTH = 64; // a label of the time axis and the space around it

// `slots`: [{ start: Date, usd: number, exact: string|null, calls, unpriced }]; `name(slot)` is how one is called, `tick(slot)` shortly,
// "" for one that the axis does not name.
export function timeline(box, readout) {
  let slots = [];
  let names = { name: String, tick: String };
  let chosen = -1;
  let columns = [];

  const summary = () => text(readout, slots.length ? (chosen < 0 ? names.summary : describe(slots[chosen])) : "");
  const describe = (slot) => {
    const cost = slot.exact === null ? "no price" : usd(slot.exact);
    const unpriced = slot.unpriced ? `, ${whole(slot.unpriced)} without a price` : "";
    return `${names.name(slot)}: ${slot.calls ? cost : "$0"}, ${whole(slot.calls)} ${slot.calls === 1 ? "call" : "calls"}${unpriced}`;
  };

  function choose(index) {
    chosen = index;
    columns.forEach(([under, column], at) => {
      under.classList.toggle("chosen", at === index);
      column?.classList.toggle("chosen", at === index);
    });
    summary();
    const slot = slots[index] ?? slots.at(-1);
    if (slot === undefined) return;
    box.setAttribute("aria-valuenow", String(index < 0 ? slots.length : index + 1));
    box.setAttribute("aria-valuetext", describe(slot));
  }

  function draw() {
    const { width, height } = box.getBoundingClientRect();
    if (!width || !slots.length) return;
    const plotWidth = width - LEFT;
    const plotHeight = height - TOP - BOTTOM;
    const top = niceTop(Math.max(...slots.map((slot) => slot.usd)));
    const y = (value) => TOP + plotHeight * (1 - value / top);
    const step = plotWidth / slots.length;
    const gap = step > 12 ? 3 : step > 4 ? 1 : 0;
    const parts = [];
    for (const value of [0, top / 2, top]) {
      parts.push(svg("line", { class: "rule", x1: LEFT, x2: width, y1: y(value), y2: y(value) }));
      parts.push(svg("text", { class: "axis", x: LEFT - 8, y: y(value) + 4, "text-anchor": "end" }, axisUsd(value, top)));
    }
    columns = slots.map((slot, at) => {
      const x = LEFT + at * step;
      const under = svg("rect", { class: "under", x, y: TOP, width: step, height: plotHeight });
      parts.push(under);
      if (!slot.usd) return [under, null];
      const tall = Math.max(1, TOP + plotHeight - y(slot.usd));
      const wide = Math.min(WIDEST, Math.max(1, step - gap));
      const column = svg("rect", { class: "column", x: x + (step - wide) / 2, y: TOP + plotHeight - tall, width: wide, height: tall, rx: Math.min(2, wide / 3) });
      parts.push(column);
      return [under, column];
    });
    const named = slots.map((slot, at) => [at, names.tick(slot)]).filter(([, tick]) => tick);
    const every = Math.max(1, Math.ceil((TICK_WIDTH * named.length) / plotWidth));
    for (let nth = (named.length - 1) % every; nth < named.length; nth += every) {
      const [at, tick] = named[nth];
      const x = Math.min(LEFT + (at + 0.5) * step, width - 20);
      parts.push(svg("text", { class: "axis", x, y: height - 4, "text-anchor": "middle" }, tick));
    }
    box.replaceChildren(svg("svg", { viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" }, ...parts));
    choose(chosen);
  }

  const at = (event) => {
    const { left, width } = box.getBoundingClientRect();
    const index = Math.floor(((event.clientX - left - LEFT) / (width - LEFT)) * slots.length);
    return index >= 0 && index < slots.length ? index : -1;
  };
  box.addEventListener("pointermove", (event) => choose(at(event)));
  box.addEventListener("pointerdown", (event) => choose(at(event)));
  box.addEventListener("pointerleave", () => document.activeElement !== box && choose(-1));
  box.addEventListener("blur", () => choose(-1));
  box.addEventListener("keydown", (event) => {
    const from = chosen < 0 ? slots.length : chosen;
    const to = { ArrowLeft: from - 1, ArrowRight: from + 1, Home: 0, End: slots.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    choose(Math.min(slots.length - 1, Math.max(0, to)));
  });
  new ResizeObserver(draw).observe(box);

  return (found, called) => {
    if (found.length !== slots.length) chosen = -1;
    slots = found;
    names = called;
    box.setAttribute("aria-valuemin", "1");
    box.setAttribute("aria-valuemax", String(slots.length));
    draw();
  };
}

// One that can be halved, times a power of ten.
function niceTop(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 3, 4, 6, 8, 10].map((digit) => digit * power).find((top) => top >= value * 0.999999) ?? 10 * power;
}

// As many decimals as half of the top needs.
function axisUsd(value, top) {
  if (value === 0) return "$0";
  const digits = [0, 1, 2, 3, 4, 5, 6, 7, 8].find((count) => Math.abs((top / 2) * 10 ** count - Math.round((top / 2) * 10 ** count)) < 1e-6) ?? 8;
  const shown = digits === 1 ? 2 : digits; // as money is written
  return `$${value.toLocaleString("en", { minimumFractionDigits: shown, maximumFractionDigits: shown })}`;
}
