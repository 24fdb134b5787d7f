// The panel of a lab. Everything that it writes or draws comes with `spec` and `numbers`;
// a drag only looks up the point under the knobs, so it needs no kernel.

const SVG = "http://www.w3.org/2000/svg";
const W = 340, LEFT = 44, RIGHT = 24, TOP = 24, BOTTOM = 34;
const MOST_LETTERS = 40; // under an axis; more of them stand in two rows
const KEEP_KEYS = { "data-lm-suppress-shortcuts": "true" }; // else JupyterLab takes the keys

function make(tag, attributes = {}, ...children) {
  const isSvg = ["svg", "g", "path", "line", "text", "circle", "rect"].includes(tag);
  const node = isSvg ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

// A chart's frame: its title, its ticks, and functions from data to pixels.
function frame(title, height, x, y) {
  const isStaggered = x.ticks.reduce((sum, tick) => sum + tick.label.length + 1, 0) > MOST_LETTERS;
  const below = isStaggered ? 12 : 0;
  const [x0, x1, y0, y1] = [LEFT, W - RIGHT, height - BOTTOM - below, TOP];
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

function render({ model, el }) {
  const spec = model.get("spec");
  const view = model.get("numbers"); // a DataView; copied, since its offset may be odd
  const numbers = new Float32Array(view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength));
  const id = `im-panel-${Math.random().toString(36).slice(2)}`; // the page may hold several
  const sizes = spec.knobs.map((knob) => knob.values.length);
  const pointAt = (chosen) => chosen.reduce((index, value, k) => index * sizes[k] + value, 0);
  const curve = (point, metric, end) => numbers[point * 6 + metric * 3 + end];
  const hasGuess = (guess) => spec.predict && Object.keys(guess).length > 0;
  const root = make("section", { class: "im-panel", "aria-label": spec.name });
  const body = make("div");
  root.append(make("div", { class: "im-name" }, spec.name), body);
  el.append(root);

  // The prediction: nothing is shown before it is made or declined.
  function ask() {
    const { setting, known, fields } = spec.predict;
    const form = make("form", { class: "im-ask" });
    form.append(make("p", {}, make("strong", {}, `Predict: what will ${setting} give? `), known));
    const commit = make("button", { type: "submit", disabled: "", ...KEEP_KEYS }, "Commit my guess");
    const moved = new Set();
    const inputs = fields.map((field, n) => {
      const input = make("input", {
        type: "range", id: `${id}-guess-${n}`, min: 0, max: field.most, step: field.step, ...KEEP_KEYS,
      });
      const shown = make("output", { for: input.id });
      const update = () => {
        shown.textContent = `${Number(input.value).toFixed(field.digits)} ${field.unit}`;
        input.setAttribute("aria-valuetext", shown.textContent);
      };
      input.value = field.most / 2;
      input.addEventListener("input", () => {
        update();
        moved.add(n);
        commit.disabled = moved.size < fields.length; // a guess is a decision, not a default
      });
      update();
      form.append(make("div", { class: "im-knob" }, make("label", { for: input.id }, field.name), input, shown));
      return input;
    });
    const skip = make("button", { type: "button", ...KEEP_KEYS }, "Show me");
    form.append(make("div", { class: "im-buttons" }, commit, skip));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const guess = Object.fromEntries(fields.map((field, n) => [field.name, Number(inputs[n].value)]));
      model.set("guess", guess);
      model.send({ do: "guess", ...guess });
      reveal();
    });
    skip.addEventListener("click", reveal);
    body.replaceChildren(form);
  }

  function reveal() {
    const toPoint = [];
    for (let rest = spec.predict.point, k = sizes.length - 1; k >= 0; k--) {
      toPoint.unshift(rest % sizes[k]);
      rest = Math.floor(rest / sizes[k]);
    }
    model.set("chosen", toPoint);
    model.set("revealed", true);
    model.save_changes();
  }

  function show() {
    const guess = model.get("guess");
    const parts = [];
    if (hasGuess(guess)) {
      const told = spec.predict.fields.map((f) => `${guess[f.name].toFixed(f.digits)} ${f.unit}`).join(" and ");
      parts.push(make("p", { class: "im-outcome" },
        `For ${spec.predict.setting} you predicted ${told}; measured: ${spec.predict.measured}.`));
    }

    const readers = spec.knobs.map((knob, k) => (knob.isChoice ? choice : slider)(knob, k));
    parts.push(...readers.map((reader) => reader.node));

    const row = make("div", { class: "im-cards" });
    const cards = spec.points[0].cards.map(({ title }) => {
      const [value, note] = [make("div", { class: "im-value" }), make("div", { class: "im-note" })];
      row.append(make("div", { class: "im-card" }, make("div", { class: "im-note" }, title), value, note));
      return { value, note };
    });
    const charts = spec.charts.map(lineChart);
    const detail = spec.detail && histogram();
    const curves = charts.map((chart) => chart.svg); // beside each other, or above each other
    const drawn = detail ? [make("div", { class: "im-column" }, ...curves), detail.svg] : curves;
    parts.push(row, make("div", { class: "im-charts" }, ...drawn));
    const used = spec.key.filter((sign) => hasGuess(guess) || !sign.startsWith("×"));
    parts.push(make("p", { class: "im-note" }, used.join(" · ")));

    const button = make("button", { type: "button", ...KEEP_KEYS }, "Measure this point again");
    const status = make("span", { role: "status" });
    const spoken = make("span", { role: "status", class: "im-spoken" });
    let noAnswer;
    button.addEventListener("click", () => {
      if (button.getAttribute("aria-disabled") === "true") return;
      status.textContent = "Asking Python …";
      noAnswer = setTimeout(() => {
        status.textContent = "Python does not answer: it is busy, or this cell has to be run first.";
      }, 4000);
      model.send({ do: "measure" });
    });
    const answer = () => {
      const { text, busy } = model.get("again");
      clearTimeout(noAnswer);
      status.textContent = text ?? "";
      button.setAttribute("aria-disabled", busy ? "true" : "false");
      charts[1]?.freshMark(model.get("again"));
    };
    parts.push(make("div", { class: "im-buttons" }, button, status), spoken, table(),
      make("p", { class: "im-note" }, spec.provenance));
    body.replaceChildren(...parts);

    let speaking;
    function update() {
      const chosen = model.get("chosen");
      const index = pointAt(chosen);
      const point = spec.points[index];
      readers.forEach((reader, k) => reader.set(chosen[k], point.said));
      cards.forEach((card, n) => {
        card.value.textContent = point.cards[n].value;
        card.note.textContent = point.cards[n].note;
      });
      charts.forEach((chart) => chart.set(chosen, index));
      detail?.set(index);
      clearTimeout(speaking);
      speaking = setTimeout(() => (spoken.textContent = point.said), 400);
    }
    update();
    answer();
    listen("change:chosen", update);
    listen("change:again", answer);
  }

  function choose(k, value) {
    const chosen = [...model.get("chosen")];
    chosen[k] = value;
    model.set("chosen", chosen);
    model.save_changes();
  }

  function slider(knob, k) {
    const input = make("input", {
      type: "range", id: `${id}-knob-${k}`, min: 0, max: knob.values.length - 1, step: 1, ...KEEP_KEYS,
    });
    const shown = make("output", { for: input.id });
    input.addEventListener("input", () => choose(k, Number(input.value)));
    const set = (value, said) => {
      input.value = value;
      shown.textContent = knob.shown[value];
      input.setAttribute("aria-valuetext", said);
    };
    return { set, node: make("div", { class: "im-knob" }, make("label", { for: input.id }, knob.name), input, shown) };
  }

  function choice(knob, k) {
    const inputs = knob.values.map((value, n) => {
      const input = make("input", { type: "radio", name: `${id}-knob-${k}`, id: `${id}-knob-${k}-${n}`, ...KEEP_KEYS });
      input.addEventListener("change", () => choose(k, n));
      return input;
    });
    const labels = inputs.map((input, n) => make("label", { for: input.id }, input, knob.values[n]));
    const node = make("fieldset", { class: "im-knob" }, make("legend", {}, knob.name), ...labels);
    return { set: (value) => (inputs[value].checked = true), node };
  }

  // A metric over the first knob; one line for each choice of the others, the chosen one bold.
  function lineChart(scale, metric) {
    const [count, lines] = [sizes[0], sizes.slice(1).reduce((a, b) => a * b, 1)];
    const ticks = spec.knobs[0].values.map((label, at) => ({ at, label }));
    const x = { low: 0, high: count - 1, ticks, title: spec.knobs[0].name };
    const { svg, px, py, y0 } = frame(scale.title, 172, x, scale);
    const kind = metric ? "im-b" : "im-a";
    const cursor = make("line", { y1: TOP, y2: y0, class: "im-cursor" });
    svg.append(cursor);
    const groups = [...Array(lines).keys()].map((line) => {
      const at = (i, end) => `${px(i).toFixed(1)},${py(curve(i * lines + line, metric, end)).toFixed(1)}`;
      const all = [...Array(count).keys()];
      const band = [...all.map((i) => at(i, 1)), ...all.reverse().map((i) => at(i, 2))];
      const group = make("g", { class: kind },
        make("path", { d: `M${band.join("L")}Z`, class: "im-band" }),
        make("path", { d: `M${all.reverse().map((i) => at(i, 0)).join("L")}`, class: "im-line" }));
      svg.append(group);
      return group;
    });
    const dot = metric
      ? make("rect", { width: 10, height: 10, class: `${kind} im-dot` })
      : make("circle", { r: 5.5, class: `${kind} im-dot` });
    svg.append(dot);
    const inside = (value) => Math.max(TOP, py(value)); // a value above the scale stays at its edge
    const cross = (x, y, style) => make("path", { d: `M${x - 6},${y}h12M${x},${y - 6}v12`, class: style });
    const guess = model.get("guess");
    const value = guess[metric ? "latency" : "accuracy"];
    if (spec.predict && value !== undefined) {
      const mark = cross(px(Math.floor(spec.predict.point / lines)), inside(value), "im-guess");
      mark.append(make("title", {}, "your prediction"));
      svg.append(mark);
    }
    let fresh;
    function freshMark({ index, latency }) {
      fresh?.remove();
      if (index === undefined) return;
      fresh = cross(px(Math.floor(index / lines)), inside(latency), "im-fresh");
      fresh.append(make("title", {}, "measured again"));
      svg.append(fresh);
    }
    function set(chosen, index) {
      const [xAt, yAt] = [px(chosen[0]), py(curve(index, metric, 0))];
      cursor.setAttribute("x1", xAt);
      cursor.setAttribute("x2", xAt);
      dot.setAttribute(metric ? "x" : "cx", xAt - (metric ? 5 : 0));
      dot.setAttribute(metric ? "y" : "cy", yAt - (metric ? 5 : 0));
      groups.forEach((group, line) => group.classList.toggle("im-faint", line !== index % lines));
    }
    return { svg, set, freshMark };
  }

  // The picture of the chosen point: counts as bars, and the levels that values can take.
  function histogram() {
    const { bins, levels, low, high, most, axis, titles, ticks } = spec.detail;
    const height = 348;
    const x = { low, high, ticks, title: axis };
    const { svg, px, py } = frame(titles[0], height, x, { low: 0, high: most * 1.05, ticks: [] });
    const bars = make("path", { class: "im-bars" });
    const marks = make("path", { class: "im-levels" });
    const clipped = make("path", { class: "im-clipped" });
    svg.append(bars, marks, clipped);
    const firstCount = spec.points.length * 6;
    const firstLevel = firstCount + spec.points.length * bins;
    const firstLimit = firstLevel + spec.points.length * levels;
    const inside = (value) => Math.min(Math.max(value, low), high);
    const width = (px(high) - px(low)) / bins;
    function set(index) {
      let [path, lines] = ["", ""];
      for (let bin = 0; bin < bins; bin++) {
        const y = py(numbers[firstCount + index * bins + bin]);
        path += `M${(px(low) + bin * width).toFixed(1)},${py(0)}V${y.toFixed(1)}h${width.toFixed(2)}V${py(0)}`;
      }
      for (let n = 0; n < levels; n++) {
        const level = numbers[firstLevel + index * levels + n];
        if (level >= low && level <= high) lines += `M${px(level).toFixed(1)},${py(0)}V${TOP}`;
      }
      let shaded = "";
      if (!Number.isNaN(numbers[firstLimit + index * 2])) {
        const [from, to] = [0, 1].map((end) => px(inside(numbers[firstLimit + index * 2 + end])));
        for (const [start, end] of [[px(low), from], [to, px(high)]])
          if (end > start) shaded += `M${start.toFixed(1)},${py(0)}V${TOP}H${end.toFixed(1)}V${py(0)}Z`;
      }
      clipped.setAttribute("d", shaded);
      bars.setAttribute("d", path);
      marks.setAttribute("d", lines);
      svg.querySelector(".im-title").textContent = titles[index];
      svg.setAttribute("aria-label", titles[index]);
    }
    return { svg, set };
  }

  function table() {
    const row = (cells, tag) => make("tr", {}, ...cells.map((cell) => make(tag, tag === "th" ? { scope: "col" } : {}, cell)));
    return make("details", { class: "im-table" },
      make("summary", { ...KEEP_KEYS }, "All points as a table"),
      make("table", {}, make("thead", {}, row(spec.head, "th")),
        make("tbody", {}, ...spec.rows.map((cells) => row(cells, "td")))));
  }

  const heard = [];
  function listen(event, handler) {
    model.on(event, handler);
    heard.push([event, handler]);
  }
  function start() {
    if (model.get("revealed")) show();
    else ask();
  }
  start();
  listen("change:revealed", start);
  return () => heard.forEach(([event, handler]) => model.off(event, handler));
}

export default { render };
