// The charts of a panel, in SVG. Their scales and words come with `spec`, their numbers with
// `numbers`.

const W = 340, LEFT = 46, RIGHT = 30, TOP = 24, BOTTOM = 34;
const MOST_LETTERS = 40; // in a row under an axis; more of them stand in several
const WIDE_LETTER = 7; // how wide a letter of a tick or of a line's name is at most, on average
const KEY = 12; // room for a line's sign before its name
const LINE_OF_TEXT = 18; // pixels, with what is left free
const SHAPES = { // of the dot on a line, so that colour is never the only cue
  a: () => make("circle", { r: 5.5 }),
  b: () => make("rect", { x: -5, y: -5, width: 10, height: 10 }),
  c: () => make("path", { d: "M0,-6.5L6,5H-6Z" }),
  d: () => make("path", { d: "M0,-7L7,0L0,7L-7,0Z" }),
};

// A chart's frame: its title, its ticks, and functions from data to pixels.
function frame(title, height, x, y, left = LEFT, right = RIGHT) {
  const letters = x.ticks.reduce((sum, tick) => sum + tick.label.length + 1, 0);
  const rows = Math.max(1, Math.ceil(letters / MOST_LETTERS)); // of labels under the axis
  const below = 12 * (rows - 1);
  const [x0, x1, y0, y1] = [left, W - right, height - BOTTOM - below, TOP];
  const px = (v) => x0 + ((v - x.low) / (x.high - x.low || 1)) * (x1 - x0);
  const py = (v) => y0 + ((v - y.low) / (y.high - y.low || 1)) * (y1 - y0);
  const svg = make("svg", { viewBox: `0 0 ${W} ${height}`, role: "img", "aria-label": title });
  svg.append(make("text", { x: 2, y: 13, class: "im-title" }, title));
  for (const { at, label } of y.ticks) {
    svg.append(make("line", { x1: x0, x2: x1, y1: py(at), y2: py(at), class: "im-grid" }));
    svg.append(make("text", { x: x0 - 5, y: py(at) + 4, "text-anchor": "end" }, label));
  }
  x.ticks.forEach(({ at, label }, n) => {
    const place = { x: px(at), y: y0 + 14 + (n % rows) * 12, "text-anchor": "middle" };
    svg.append(make("text", place, label));
  });
  const axis = { x: (x0 + x1) / 2, y: y0 + 29 + below, "text-anchor": "middle" };
  svg.append(make("text", axis, x.title));
  return { svg, px, py, y0 };
}

const cross = (x, y, style) => make("path", { d: `M${x - 6},${y}h12M${x},${y - 6}v12`, class: style });

// Metrics over the first knob: one line for each, and for each choice of the other knobs; the
// chosen one is bold. `value(point, column, end)` is a number: end 0 its value, 1 and 2 its spread;
// NaN where there is none.
function lineChart(chart, spec, value, guess) {
  const [count, ...others] = spec.knobs.map((knob) => knob.values.length);
  const choices = others.reduce((a, b) => a * b, 1);
  const points = [...Array(count).keys()];
  const x = {
    low: 0, high: count - 1, title: spec.knobs[0].name,
    ticks: spec.knobs[0].values.map((label, at) => ({ at, label })),
  };
  const widest = (labels) => WIDE_LETTER * Math.max(...labels.map((label) => label.length));
  const left = Math.max(LEFT, widest(chart.ticks.map(({ label }) => label)) + 6);
  const right = Math.max(RIGHT, widest(chart.lines.map(({ label }) => label)) + KEY + 4);
  const { svg, px, py, y0 } = frame(chart.title, 172, x, chart, left, right);
  const place = (number) => {
    const y = chart.isLog ? Math.log10(Math.max(number, 1e-12)) : number;
    return py(Math.min(Math.max(y, chart.low), chart.high)); // what is off the scale stays at its edge
  };
  const cursor = make("line", { y1: TOP, y2: y0, class: "im-cursor" });
  svg.append(cursor);
  if (chart.rule) {
    const y = place(chart.rule.at);
    svg.append(make("line", { x1: left, x2: W - right, y1: y, y2: y, class: "im-limit" }));
  }
  function namesOf(choice) { // of the values of the other knobs, for a pointer over their line
    const names = [];
    for (const knob of spec.knobs.slice(1).reverse()) {
      names.unshift(knob.values[choice % knob.values.length]);
      choice = Math.floor(choice / knob.values.length);
    }
    return names;
  }
  function near(choice) { // those that are drawn with it, if there are many: it is the last then
    if (!spec.isCrowded) return [...Array(choices).keys()];
    const found = [];
    for (let k = others.length - 1, step = 1; k >= 0; step *= others[k], k--) {
      const own = Math.floor(choice / step) % others[k];
      for (let n = 0; n < others[k]; n++) if (n !== own) found.push(choice + (n - own) * step);
    }
    return [...found, choice];
  }
  function drawLine(choice, { column, style, label }) {
    const number = (i, end) => {
      const [whole, spread] = [0, end].map((which) => value(i * choices + choice, column, which));
      return Number.isFinite(spread) ? spread : whole; // an end that is not known is not drawn
    };
    const at = (end) => (i) => `${px(i).toFixed(1)},${place(number(i, end)).toFixed(1)}`;
    const runs = []; // of points without a gap
    for (const i of points.filter((i) => !Number.isNaN(number(i, 0))))
      if (runs.at(-1)?.at(-1) === i - 1) runs.at(-1).push(i);
      else runs.push([i]);
    const band = runs.map((run) => `M${[...run.map(at(1)), ...run.map(at(2)).reverse()].join("L")}Z`);
    const dash = (run) => (run.length === 1 && count > 1 ? "m-3,0h6" : ""); // a point alone is seen
    const line = runs.map((run) => `M${run.map(at(0)).join("L")}${dash(run)}`);
    return make("g", { class: `im-${style}` }, make("title", {}, [label, ...namesOf(choice)].filter(Boolean).join(", ")),
      make("path", { d: band.join(""), class: "im-band" }),
      make("path", { d: line.join(""), class: "im-line" }));
  }
  const lines = chart.lines.map(({ column, style, label }) => {
    const name = make("text", { x: W - right + KEY + 2 }, label);
    const sign = label ? SHAPES[style]() : make("path"); // two lines may end at the same place
    sign.setAttribute("class", `im-${style}`);
    svg.append(sign, name);
    return { column, style, label, groups: new Map(), drawn: [], name, sign }; // made when first seen
  });
  if (chart.rule) svg.append(nameOfRule());
  const dots = lines.map(({ style }) => {
    const shape = SHAPES[style]();
    shape.setAttribute("class", "im-dot");
    const dot = make("g", { class: `im-${style}` }, shape);
    svg.append(dot);
    return dot;
  });

  function nameOfRule() { // stands above it, or below where fewer curves pass
    const { at, label } = chart.rule;
    const y = place(at);
    const distances = [...Array(count * choices).keys()]
      .filter((point) => px(Math.floor(point / choices)) < left + WIDE_LETTER * label.length)
      .flatMap((point) => chart.lines.map(({ column }) => y - place(value(point, column, 0))));
    const curves = (low, high) => distances.filter((far) => low <= far && far <= high).length;
    const isBelow = y + LINE_OF_TEXT < y0 && curves(0, LINE_OF_TEXT) > curves(-LINE_OF_TEXT, 0);
    return make("text", { x: left + 4, y: isBelow ? y + 13 : y - 4, class: "im-on-curves" }, label);
  }
  function mark(point, number, style, title) {
    const made = cross(px(Math.floor(point / choices)), place(number), style);
    made.append(make("title", {}, title));
    svg.append(made);
    return made;
  }
  for (const { metric } of chart.lines)
    if (spec.predict && guess[metric] !== undefined)
      mark(spec.predict.point, guess[metric], "im-guess", "your prediction");
  let fresh = [];
  function freshMarks({ index, values }) {
    fresh.forEach((made) => made.remove());
    const measured = index === undefined ? [] : chart.lines.filter(({ metric }) => metric in values);
    fresh = measured.map(({ metric }) => mark(index, values[metric], "im-fresh", "measured again"));
  }
  let bold = -1;
  function set(chosen, index) {
    cursor.setAttribute("x1", px(chosen[0]));
    cursor.setAttribute("x2", px(chosen[0]));
    lines.forEach(({ column }, n) => {
      const number = value(index, column, 0);
      dots[n].setAttribute("visibility", Number.isNaN(number) ? "hidden" : "visible");
      if (!Number.isNaN(number)) dots[n].setAttribute("transform", `translate(${px(chosen[0])},${place(number)})`);
    });
    if (index % choices !== bold) setBold((bold = index % choices));
  }
  function setBold(chosen) {
    for (const line of lines) {
      line.drawn.forEach((group) => group.remove());
      line.drawn = near(chosen).map((choice) => {
        if (!line.groups.has(choice)) line.groups.set(choice, drawLine(choice, line));
        const group = line.groups.get(choice);
        group.classList.toggle("im-faint", choice !== chosen);
        return group;
      });
      line.sign.before(...line.drawn);
    }
    const ends = lines.map((line) => {
      const numbers = points.map((i) => value(i * choices + chosen, line.column, 0));
      return { ...line, end: numbers.findLast((number) => !Number.isNaN(number)) };
    });
    let above = y0 + 12; // names stand at the ends of their lines, the lowest first, none on another
    for (const { end, name, sign } of ends.sort((a, b) => a.end - b.end)) {
      for (const node of [name, sign]) node.setAttribute("visibility", end === undefined ? "hidden" : "visible");
      if (end === undefined) continue;
      above = Math.min(place(end) + 4, above - 11);
      name.setAttribute("y", above);
      sign.setAttribute("transform", `translate(${W - right + 7},${above - 4}) scale(0.7)`);
    }
  }
  return { svg, set, freshMarks };
}
