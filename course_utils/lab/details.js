// The picture of the chosen point, in SVG: see details.py. `numbers` holds a row for each point.

const TALL = 348; // as high as two charts above each other
const LETTER = 6.1; // how wide a letter is at most, on average
const LOWEST_BAR = 15;

function drawDetail(detail, points, numbers) {
  const { svg, update, table = "" } = { histogram, bars }[detail.kind](detail);
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
  const head = make("tr", {}, make("td"), make("th", { scope: "col" }, axis));
  const table = make("details", { class: "im-table" }, make("summary", { ...KEEP_KEYS }, "The bars as a table"),
    make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows)));
  function update(row, index) {
    drawn.forEach(({ bar, value, cell }, n) => {
      bar.setAttribute("width", px(row[n]) - px(0));
      value.setAttribute("x", px(row[n]) + 5);
      value.textContent = cell.textContent = words[index][n][1];
    });
  }
  return { svg, update, table };
}
