// The charts of a panel, in SVG. Their scales and words come with `spec`, their numbers with
// `numbers`.

const W = 340, LEFT = 46, RIGHT = 30, TOP = 24, BOTTOM = 34;
const MOST_LETTERS = 40; // under an axis; more of them stand in two rows
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
  const isStaggered = x.ticks.reduce((sum, tick) => sum + tick.label.length + 1, 0) > MOST_LETTERS;
  const below = isStaggered ? 12 : 0;
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
    const place = { x: px(at), y: y0 + 14 + (n % 2) * below, "text-anchor": "middle" };
    svg.append(make("text", place, label));
  });
  const axis = { x: (x0 + x1) / 2, y: y0 + 29 + below, "text-anchor": "middle" };
  svg.append(make("text", axis, x.title));
  return { svg, px, py, y0 };
}

const cross = (x, y, style) => make("path", { d: `M${x - 6},${y}h12M${x},${y - 6}v12`, class: style });

// Metrics over the first knob: one line for each, and for each choice of the other knobs; the
// chosen one is bold. `value(point, column, end)` is a number: end 0 its value, 1 and 2 its spread.
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
  const lines = chart.lines.map(({ column, style, label }) => {
    const groups = [...Array(choices).keys()].map((choice) => {
      const number = (i, end) => {
        const [whole, spread] = [0, end].map((which) => value(i * choices + choice, column, which));
        return Number.isFinite(spread) ? spread : whole; // an end that is not known is not drawn
      };
      const at = (end) => (i) => `${px(i).toFixed(1)},${place(number(i, end)).toFixed(1)}`;
      const band = [...points.map(at(1)), ...points.map(at(2)).reverse()];
      const group = make("g", { class: `im-${style}` }, make("title", {}, [label, ...namesOf(choice)].filter(Boolean).join(", ")),
        make("path", { d: `M${band.join("L")}Z`, class: "im-band" }),
        make("path", { d: `M${points.map(at(0)).join("L")}`, class: "im-line" }));
      svg.append(group);
      return group;
    });
    const name = make("text", { x: W - right + KEY + 2 }, label);
    const sign = label ? SHAPES[style]() : make("path"); // two lines may end at the same place
    sign.setAttribute("class", `im-${style}`);
    svg.append(sign, name);
    return { column, style, groups, name, sign };
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
  function set(chosen, index) {
    cursor.setAttribute("x1", px(chosen[0]));
    cursor.setAttribute("x2", px(chosen[0]));
    lines.forEach(({ column, groups }, n) => {
      const y = place(value(index, column, 0));
      dots[n].setAttribute("transform", `translate(${px(chosen[0])},${y})`);
      groups.forEach((group, choice) => group.classList.toggle("im-faint", choice !== index % choices));
    });
    const last = (count - 1) * choices + (index % choices);
    let above = y0 + 12; // names stand at the ends of their lines, the lowest first, none on another
    for (const { column, name, sign } of [...lines].sort((a, b) => value(last, a.column, 0) - value(last, b.column, 0))) {
      above = Math.min(place(value(last, column, 0)) + 4, above - 11);
      name.setAttribute("y", above);
      sign.setAttribute("transform", `translate(${W - right + 7},${above - 4}) scale(0.7)`);
    }
  }
  return { svg, set, freshMarks };
}
