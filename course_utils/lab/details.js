// The picture of the chosen point, in SVG: see details.py. `numbers` holds a row for each point.

const TALL = 348; // as high as two charts above each other
const LETTER = 6.1; // how wide a letter is at most, on average
const LOWEST_BAR = 15;
const LARGEST_CELL = 56;

function drawDetail(detail, points, numbers) {
  const { svg, update, table = "" } = { histogram, bars, roof, cells }[detail.kind](detail);
  const length = numbers.length / points;
  function set(index) {
    update(numbers.subarray(index * length, (index + 1) * length), index);
    svg.querySelector(".im-title").textContent = detail.titles[index];
    svg.setAttribute("aria-label", detail.said[index]);
  }
  return { svg, table, set };
}

// Counts as bars, and the levels that values can take. A row: heights, levels, two limits.
function histogram(detail) {
  const { bins, levels, low, high, most, axis, titles, ticks } = detail;
  const { svg, px, py } = frame(titles[0], TALL, { low, high, ticks, title: axis }, { low: 0, high: most * 1.05, ticks: [] });
  const bars = make("path", { class: "im-bars" });
  const marks = make("path", { class: "im-levels" });
  const shaded = make("path", { class: "im-clipped" });
  svg.append(bars, marks, shaded);
  const inside = (value) => Math.min(Math.max(value, low), high);
  const width = (px(high) - px(low)) / bins;
  function update(row) {
    let [path, lines, outside] = ["", "", ""];
    for (let bin = 0; bin < bins; bin++)
      path += `M${(px(low) + bin * width).toFixed(1)},${py(0)}V${py(row[bin]).toFixed(1)}h${width.toFixed(2)}V${py(0)}`;
    for (const level of row.subarray(bins, bins + levels))
      if (level >= low && level <= high) lines += `M${px(level).toFixed(1)},${py(0)}V${TOP}`;
    const [from, to] = [...row.subarray(bins + levels)].map((limit) => px(inside(limit)));
    for (const [start, end] of [[px(low), from], [to, px(high)]])
      if (end > start) outside += `M${start.toFixed(1)},${py(0)}V${TOP}H${end.toFixed(1)}V${py(0)}Z`;
    shaded.setAttribute("d", outside);
    bars.setAttribute("d", path);
    marks.setAttribute("d", lines);
  }
  return { svg, update };
}

// A bar for each name, from left to right, its value behind it; and the same as a table.
function bars(detail) {
  const { names, words, high, axis, titles, ticks } = detail;
  const longest = (texts) => Math.max(...texts.map((text) => text.length));
  const left = Math.max(LEFT, longest(names) * LETTER + 10);
  const right = Math.max(RIGHT, longest(words.flat().map(([, value]) => value)) * LETTER + 10);
  const height = Math.max(TALL, TOP + BOTTOM + names.length * LOWEST_BAR);
  const { svg, px, py } = frame(titles[0], height, { low: 0, high, ticks, title: axis }, { low: names.length, high: 0, ticks: [] }, left, right);
  for (const { at } of ticks)
    svg.append(make("line", { x1: px(at), x2: px(at), y1: py(0), y2: py(names.length), class: "im-grid" }));
  const drawn = names.map((name, n) => {
    const bar = make("rect", { x: px(0), y: py(n + 0.16), height: py(0.68) - py(0), class: "im-bars" });
    const value = make("text", { y: py(n + 0.5) + 4 });
    svg.append(make("text", { x: left - 6, y: py(n + 0.5) + 4, "text-anchor": "end" }, name), bar, value);
    return { bar, value, cell: make("td") };
  });
  const rows = drawn.map(({ cell }, n) => make("tr", {}, make("th", { scope: "row" }, words[0][n][0]), cell));
  const table = tableOf("The bars as a table", ["", axis], make("tbody", {}, ...rows));
  function update(row, index) {
    drawn.forEach(({ bar, value, cell }, n) => {
      bar.setAttribute("width", px(row[n]) - px(0));
      value.setAttribute("x", px(row[n]) + 5);
      value.textContent = cell.textContent = words[index][n][1];
    });
  }
  return { svg, update, table };
}

// Layers under the roof of what runs them. A row: its peak and bandwidth, then of each layer the
// operations a byte, the operations a second and its share of the time.
function roof(detail) {
  const { titles, names, lists, axis, x, y, ridges, bound, radii: [smallest, largest] } = detail;
  const left = 22 + Math.max(LEFT - 12, Math.max(...y.ticks.map(({ label }) => label.length)) * WIDE_LETTER);
  const { svg, px, py, y0 } = frame(titles[0], TALL, { ...x, title: axis }, y, left, 18);
  const middle = (TOP + y0) / 2;
  const line = make("path", { class: "im-roof" });
  const ridge = make("path", { class: "im-ridge" });
  const label = make("text", { "text-anchor": "middle", class: "im-on-curves" });
  svg.append(make("text", { x: 11, y: middle, transform: `rotate(-90 11 ${middle})`, "text-anchor": "middle" }, y.title), line, ridge);
  const dots = [...Array(Math.max(...names.map((list) => list.length)))].map(() => {
    const name = make("title");
    const dot = make("path", {}, name);
    svg.append(dot);
    return { dot, name };
  });
  svg.append(label);
  const short = (number) => Number(number.toPrecision(3)).toLocaleString("en");
  const told = (layer) => [short(layer.intensity), short(layer.rate), short(100 * layer.share), bound[Number(layer.isRight)]];
  let layers = [];
  const rows = make("tbody");
  const table = tableOf("The layers as a table", ["", axis, y.title, "% of the time", ""], rows);
  const fill = () => rows.replaceChildren(...layers.map((layer) =>
    make("tr", {}, make("th", { scope: "row" }, layer.name), ...told(layer).map((text) => make("td", {}, text)))));
  table.addEventListener("toggle", () => table.open && fill());

  function update(row, index) {
    const [peak, bandwidth] = row.subarray(0, 2);
    const [top, slope] = [Math.log10(peak), Math.log10(bandwidth)];
    const corner = top - slope;
    const isThere = Number.isFinite(corner);
    const start = Math.max(x.low, y.low - slope); // where the slope comes into the frame
    line.setAttribute("d", isThere ? `M${px(start)},${py(start + slope)}L${px(corner)},${py(top)}H${px(x.high)}` : "");
    ridge.setAttribute("d", isThere ? `M${px(corner)},${py(top)}V${y0}` : "");
    label.textContent = isThere ? `ridge: ${ridges[index]}` : "";
    const room = label.textContent.length * LETTER / 2;
    label.setAttribute("x", isThere ? Math.max(left + room, Math.min(px(corner), W - room - 2)) : 0);
    label.setAttribute("y", isThere ? py(top) - 7 : 0);
    layers = names[lists[index]].map((name, n) => {
      const [intensity, rate, share] = row.subarray(2 + 3 * n, 5 + 3 * n);
      return { name, intensity, rate, share, isRight: intensity >= peak / bandwidth };
    });
    const bySize = [...layers].sort((a, b) => b.share - a.share); // small ones stand on large ones
    dots.forEach(({ dot, name }, n) => {
      const layer = bySize[n];
      dot.setAttribute("visibility", layer ? "visible" : "hidden");
      if (!layer) return (name.textContent = "");
      const r = Math.hypot(smallest, largest * Math.sqrt(layer.share));
      const side = r * Math.sqrt(Math.PI); // of a square of the circle's area
      dot.setAttribute("d", layer.isRight ? `M${-side / 2},${-side / 2}h${side}v${side}h${-side}Z` : `M${-r},0a${r},${r} 0 1 0 ${2 * r},0a${r},${r} 0 1 0 ${-2 * r},0Z`);
      dot.setAttribute("transform", `translate(${px(Math.log10(layer.intensity))},${py(Math.log10(layer.rate))})`);
      dot.setAttribute("class", `im-${layer.isRight ? "b" : "a"} im-layer`);
      const [intensity, rate, share, binds] = told(layer);
      name.textContent = `${layer.name}: ${intensity} ${axis}, ${rate} × ${y.title}, ${share} % of the time, ${binds}`;
    });
    if (table.open) fill();
  }
  return { svg, update, table };
}

// A square for each cell of a grid, row by row: filled if it is busy, dashed if idle (NaN).
function cells(detail) {
  const { rows, columns, texts, axis, titles } = detail;
  const side = Math.min((W - 20) / columns, (TALL - TOP - BOTTOM) / rows, LARGEST_CELL);
  const margin = (W - side * columns) / 2;
  const { svg, px, py } = frame(titles[0], TOP + rows * side + BOTTOM, { low: 0, high: columns, ticks: [], title: axis },
    { low: rows, high: 0, ticks: [] }, margin, margin);
  const gap = Math.min(2, side / 10);
  const longest = Math.max(1, ...texts.flat().map((text) => text.length));
  const letters = Math.min(13, (side - 2 * gap) / (longest * 0.58)); // pixels, so that all fit
  const squares = [...Array(rows * columns).keys()].map((place) => {
    const [column, row] = [place % columns, Math.floor(place / columns)];
    const square = make("rect", { x: px(column) + gap, y: py(row) + gap, width: side - 2 * gap, height: side - 2 * gap });
    const text = make("text", { x: px(column + 0.5), y: py(row + 0.5) + letters * 0.35, "text-anchor": "middle", class: "im-on-cell" });
    text.style.fontSize = `${letters}px`;
    svg.append(square);
    if (texts.length) svg.append(text);
    return { square, text };
  });
  const fields = squares.map(() => make("td"));
  const lines = [...Array(rows).keys()].map((row) =>
    make("tr", {}, make("th", { scope: "row" }, `row ${row + 1}`), ...fields.slice(row * columns, (row + 1) * columns)));
  const head = ["", ...[...Array(columns).keys()].map((column) => `column ${column + 1}`)];
  const table = texts.length ? tableOf("The cells as a table", head, make("tbody", {}, ...lines)) : "";
  function update(row, index) {
    squares.forEach(({ square, text }, n) => {
      square.setAttribute("class", Number.isNaN(row[n]) ? "im-idle" : "im-busy");
      if (!table) return;
      text.textContent = texts[index][n];
      fields[n].textContent = texts[index][n] || "idle";
    });
  }
  return { svg, update, table };
}

function tableOf(summary, head, rows) {
  const names = head.map((name) => (name ? make("th", { scope: "col" }, name) : make("td")));
  return make("details", { class: "im-table" }, make("summary", { ...KEEP_KEYS }, summary),
    make("table", {}, make("thead", {}, make("tr", {}, ...names)), rows));
}
