"use strict";
// Pictures of numbers over time, and of a distribution: SVG, drawn to the width there is. Every picture says itself in words (its label),
// in a table (below it), and by a cursor that follows the pointer or the arrow keys.

const SVG = "http://www.w3.org/2000/svg";

/** An element with properties and children; text is only ever text. */
function el(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (value === null || value === undefined) continue;
    if (key in made && key !== "list" && !key.includes("-")) made[key] = value;
    else made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

function draw(name, attributes = {}, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

/** Between 3 and 6 round numbers that cover low to high. */
function ticks(low, high) {
  if (!(high > low)) high = low + (Math.abs(low) || 1);
  const rough = (high - low) / 4, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((s) => s >= rough * 0.999);
  const found = [];
  for (let at = Math.floor(low / step + 1e-9); at * step < high + step * (1 - 1e-9); at++) found.push(Number((at * step).toPrecision(12)));
  return found;
}

/** A number for reading: 1,234 · 12.3 · 0.213 · 1.2e-5. */
function shown(value, digits = 3) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  if (size !== 0 && size < 1e-4) return value.toExponential(1);
  if (size >= 100) return Math.round(value).toLocaleString("en");
  if (size === 0) return "0";
  return size >= 10 ? value.toFixed(1) : value.toFixed(digits);
}

/** A round number, for an axis. */
const compact = (value) => value.toLocaleString("en", { maximumSignificantDigits: 6 });

/** Seconds as a person says them. */
function span(seconds) {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return "–";
  if (seconds === 0) return "0";
  if (seconds < 0.0995) return `${(seconds * 1000).toFixed(0)} ms`;
  if (seconds < 9.95) return `${Number.isInteger(seconds) ? seconds : seconds.toFixed(1)} s`;
  if (seconds < 120) return `${Math.round(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  return seconds < 172800 ? `${Math.round(seconds / 3600)} h` : `${Math.round(seconds / 86400)} days`;
}

/** A clock's face as fine as the span needs. */
function clock(microseconds, spanSeconds) {
  const time = new Date(microseconds / 1000), two = (n) => String(n).padStart(2, "0");
  const day = `${time.getDate()} ${time.toLocaleString("en", { month: "short" })}`;
  const minute = `${two(time.getHours())}:${two(time.getMinutes())}`;
  if (spanSeconds > 4 * 86400) return day;
  if (spanSeconds > 20 * 3600) return `${day} ${minute}`;
  return spanSeconds > 900 ? minute : `${minute}:${two(time.getSeconds())}`;
}

/** Marks of an axis of time: about so many, at round moments. */
function moments(first, last, many) {
  const seconds = Math.max((last - first) / 1e6, 1);
  const steps = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400, 172800, 604800, 2592000];
  const step = (steps.find((s) => seconds / s <= many) || Math.ceil(seconds / many)) * 1e6;
  // Round by the local clock: whole hours where the offset of the zone is none.
  const offset = new Date(first / 1000).getTimezoneOffset() * 60e6, found = [];
  for (let at = Math.ceil((first - offset) / step) * step + offset; at <= last; at += step) found.push(at);
  return found;
}

const WIDE = { left: 46, right: 10, top: 10, bottom: 24 };

/**
 * Lines over time. `time_us`: ascending; `lines`: {name, colour, values, error?}; `marks`: moments with a dashed rule;
 * `level`: {name, value} a dashed line; `from`: the axis begins here (0) or with the values (null); `say`: a value in words.
 */
function lineChart(holder, { time_us, lines, marks = [], level = null, from = 0, height = 190, label, say = shown }) {
  const width = Math.max(holder.clientWidth, 240), { left, right, top, bottom } = WIDE;
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": label, tabindex: 0 });
  const first = time_us[0], last = time_us.length > 1 ? time_us[time_us.length - 1] : first + 1e6;
  const all = lines.flatMap((line) => line.values.flatMap((value, at) => {
    if (value === null) return [];
    const error = (line.error && line.error[at]) || 0;
    return [value - error, value + error];
  })).concat(level && level.value !== null ? [level.value] : []);
  const high = Math.max(...all, from === null ? -Infinity : from), low = Math.min(...all, from === null ? Infinity : from);
  const levels = ticks(all.length ? low : 0, all.length ? high : 1);
  const bottomValue = Math.min(levels[0], low), topValue = Math.max(levels[levels.length - 1], high);
  const x = (time) => left + ((time - first) / (last - first)) * (width - left - right);
  const y = (value) => top + (1 - (value - bottomValue) / (topValue - bottomValue)) * (height - top - bottom);
  for (const value of levels) {
    svg.append(draw("line", { class: "rule", x1: left, x2: width - right, y1: y(value), y2: y(value) }));
    svg.append(draw("text", { x: left - 8, y: y(value) + 4, "text-anchor": "end" }, say === shown ? compact(value) : say(value)));
  }
  for (const time of moments(first, last, Math.max(Math.floor((width - left) / 84), 2))) {
    // A label that would stand out over the edge is left out, rather than put where its moment is not.
    if (x(time) < width - 24) svg.append(draw("text", { x: x(time), y: height - 5, "text-anchor": "middle" }, clock(time, (last - first) / 1e6)));
  }
  if (level && level.value !== null) svg.append(draw("line", { class: "level", x1: left, x2: width - right, y1: y(level.value), y2: y(level.value) }));
  for (const time of marks) if (time >= first && time <= last) svg.append(draw("line", { class: "mark", x1: x(time), x2: x(time), y1: top, y2: height - bottom }));
  for (const line of lines) {
    for (const run of runs(line.values)) {
      const group = draw("g", { class: line.colour });
      if (line.error) {
        const upper = run.map((at) => `${x(time_us[at])},${y(line.values[at] + (line.error[at] || 0))}`);
        const lower = run.map((at) => `${x(time_us[at])},${y(line.values[at] - (line.error[at] || 0))}`).reverse();
        group.append(draw("polygon", { class: "band", points: [...upper, ...lower].join(" ") }));
      }
      const points = run.map((at) => `${x(time_us[at])},${y(line.values[at])}`);
      if (run.length === 1) group.append(draw("circle", { cx: x(time_us[run[0]]), cy: y(line.values[run[0]]), r: 2.5, fill: "currentColor" }));
      group.append(draw("polyline", { class: "line", points: points.join(" ") }));
      svg.append(group);
    }
  }
  holder.replaceChildren(svg);
  follow(holder, svg, {
    count: time_us.length,
    place: (at) => x(time_us[at]),
    tell: (at) => [clock(time_us[at], 0), ...lines.map((line) => `${line.name}: ${say(line.values[at])}`)],
    top, bottom: height - bottom, width,
  });
}

/** Runs of places that have a value: a line is broken where there is none. */
function runs(values) {
  const found = [];
  values.forEach((value, at) => {
    if (value === null) return;
    if (at > 0 && values[at - 1] !== null && found.length) found[found.length - 1].push(at);
    else found.push([at]);
  });
  return found;
}

/** A histogram over edges that grow by a factor. */
function histogram(holder, { edges, counts, height = 190, label }) {
  const width = Math.max(holder.clientWidth, 240), { left, right, top, bottom } = WIDE;
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": label, tabindex: 0 });
  const total = counts.reduce((sum, count) => sum + count, 0) || 1, levels = ticks(0, Math.max(...counts) / total);
  const low = Math.log10(edges[0]), high = Math.log10(edges[edges.length - 1]);
  const x = (value) => left + ((Math.log10(value) - low) / (high - low || 1)) * (width - left - right);
  const y = (share) => top + (1 - share / levels[levels.length - 1]) * (height - top - bottom);
  for (const value of levels) {
    svg.append(draw("line", { class: "rule", x1: left, x2: width - right, y1: y(value), y2: y(value) }));
    svg.append(draw("text", { x: left - 8, y: y(value) + 4, "text-anchor": "end" }, `${Math.round(value * 100)} %`));
  }
  for (const value of decades(edges[0], width)) svg.append(draw("text", { x: x(value), y: height - 5, "text-anchor": value >= 1 ? "end" : "middle" }, String(value)));
  const bars = counts.map((count, at) => draw("rect", {
    class: "bar", x: x(edges[at]) + 1, width: Math.max(x(edges[at + 1]) - x(edges[at]) - 2, 1), y: y(count / total),
    height: Math.max(y(0) - y(count / total), count ? 1.5 : 0), rx: 2,
  }));
  const group = draw("g", { class: "blue" });
  group.append(...bars);
  svg.append(group);
  holder.replaceChildren(svg);
  follow(holder, svg, {
    count: counts.length,
    place: (at) => (x(edges[at]) + x(edges[at + 1])) / 2,
    tell: (at) => [`${shown(edges[at])} to ${shown(edges[at + 1])}`, `${shown((100 * counts[at]) / total, 1)} % of slots (${counts[at].toLocaleString("en")})`],
    top, bottom: height - bottom, width,
  });
}

function decades(smallest, width) {
  const few = [1, 0.1, 0.01, 0.001, 1e-4, 1e-5], many = [1, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001, 1e-4, 1e-5];
  return (smallest > 0.004 && width > 300 ? many : few).filter((value) => value >= smallest);
}

/** A cursor with a small box of words, for pointers and for the arrow keys. */
function follow(holder, svg, { count, place, tell, top, bottom, width }) {
  const cursor = draw("line", { class: "cursor", y1: top, y2: bottom, visibility: "hidden" });
  const tip = el("div", { className: "tip", hidden: true, role: "status" });
  let now = count - 1;
  svg.append(cursor);
  holder.append(tip);
  const show = (at) => {
    now = Math.min(Math.max(at, 0), count - 1);
    const x = place(now), [head, ...rest] = tell(now);
    cursor.setAttribute("x1", x);
    cursor.setAttribute("x2", x);
    cursor.setAttribute("visibility", "visible");
    tip.replaceChildren(el("b", {}, head), ...rest.map((line) => el("div", {}, line)));
    tip.hidden = false;
    const room = tip.offsetWidth;
    tip.style.top = `${top}px`;
    tip.style.left = `${Math.max(0, Math.min(x + 12 + room > width ? x - room - 12 : x + 12, width - room))}px`;
  };
  const hide = () => {
    tip.hidden = true;
    cursor.setAttribute("visibility", "hidden");
  };
  svg.addEventListener("pointermove", (event) => {
    const x = ((event.clientX - svg.getBoundingClientRect().left) / svg.getBoundingClientRect().width) * width;
    let best = 0;
    for (let at = 1; at < count; at++) if (Math.abs(place(at) - x) < Math.abs(place(best) - x)) best = at;
    show(best);
  });
  svg.addEventListener("pointerleave", hide);
  svg.addEventListener("blur", hide);
  svg.addEventListener("focus", () => svg.matches(":focus-visible") && show(now));
  svg.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1, Home: -count, End: count }[event.key];
    if (step) { event.preventDefault(); show(now + step); }
    if (event.key === "Escape") hide();
  });
}
