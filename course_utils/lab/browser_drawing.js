// Where the pictures for the model come from: a strip of images, and an easel to draw on. Both give
// and take bytes, one for each pixel.

const MOVES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

function paint(canvas, bytes) {
  const colours = new ImageData(canvas.width, canvas.height);
  bytes.forEach((grey, n) => colours.data.set([grey, grey, grey, 255], 4 * n));
  canvas.getContext("2d").putImageData(colours, 0, 0);
}

function makeSlider(id, name, range, words) {
  const input = make("input", { type: "range", id: `${id}-${name}`, ...range, ...KEEP_KEYS });
  const shown = make("output", { for: input.id });
  const value = () => Number(input.value);
  const update = () => {
    shown.textContent = words(value());
    input.setAttribute("aria-valuetext", shown.textContent);
  };
  input.addEventListener("input", update);
  update();
  return { input, value, node: make("div", { class: "im-knob" }, make("label", { for: input.id }, name), input, shown) };
}

function makeButton(words, act) {
  const button = make("button", { type: "button", ...KEEP_KEYS }, words);
  button.addEventListener("click", () => button.getAttribute("aria-disabled") !== "true" && act());
  return button;
}

// Some of the images as radio buttons, so that arrow keys walk through them; `choose` gets a number.
function makeStrip(spec, id, images, choose) {
  const [count, size] = [spec.labels.length, spec.height * spec.width];
  const named = (n) => `image ${n + 1}: ${spec.classes[spec.labels[n]]}`;
  const legend = make("legend");
  let first = -1;
  const frames = [...Array(spec.strip).keys()].map((place) => {
    const input = make("input", { type: "radio", name: `${id}-image`, id: `${id}-image-${place}`, ...KEEP_KEYS });
    const canvas = make("canvas", { width: spec.width, height: spec.height });
    input.addEventListener("click", () => choose(first + place)); // arrow keys click too
    return { input, canvas, label: make("label", { for: input.id }, input, canvas) };
  });
  const [back, on] = [["Earlier images", -1], ["Later images", 1]].map(([words, way]) =>
    makeButton(words, () => choose(first + way * spec.strip)));

  function turnTo(start) {
    first = start;
    const end = Math.min(start + spec.strip, count);
    legend.textContent = `images ${start + 1} to ${end} of ${count}`;
    frames.forEach(({ input, canvas, label }, place) => {
      const n = start + place;
      label.hidden = n >= end;
      if (label.hidden) return;
      input.setAttribute("aria-label", named(n));
      label.title = named(n);
      paint(canvas, images.subarray(n * size, (n + 1) * size));
    });
    back.setAttribute("aria-disabled", start === 0);
    on.setAttribute("aria-disabled", end === count);
  }
  function set(n) { // undefined: none of them
    if (n === undefined) return frames.forEach(({ input }) => (input.checked = false));
    const start = n - (n % spec.strip);
    if (start !== first) turnTo(start);
    frames[n - start].input.checked = true;
  }
  const nodes = [
    make("fieldset", { class: "im-strip" }, legend, ...frames.map(({ label }) => label)),
    make("div", { class: "im-buttons" }, back, on),
  ];
  return { nodes, set };
}

// A canvas to draw on by pointer or keyboard. `changed` is called after a stroke, `cleared` when all
// is wiped, `moved` when only the brush has moved.
function makeEasel(spec, id, { changed, cleared, moved }) {
  const { width, height } = spec;
  const picture = new Uint8Array(width * height);
  const canvas = make("canvas", {
    width, height, class: "im-easel", tabindex: 0, role: "application",
    "aria-label": `drawing, ${width} × ${height} pixels`, "aria-describedby": `${id}-hint`, ...KEEP_KEYS,
  });
  const brush = makeSlider(id, "brush", { min: 1, max: 7, step: 1, value: 3 },
    (value) => (value === 1 ? "1 pixel" : `${value} pixels`));
  const shade = makeSlider(id, "brightness", { min: 0, max: 255, step: 15, value: 210 },
    (value) => (value ? String(value) : "0, erases"));
  const clear = makeButton("Clear", () => {
    set(new Uint8Array(picture.length));
    cleared();
  });

  const cursor = make("div", { class: "im-brush" });
  let at = [Math.floor(width / 2), Math.floor(height / 2)];
  function placeCursor() {
    const share = (part, whole) => `${(100 * part) / whole}%`;
    const wide = brush.value();
    Object.assign(cursor.style, {
      width: share(wide, width), left: share(at[0] + 0.5 - wide / 2, width),
      height: share(wide, height), top: share(at[1] + 0.5 - wide / 2, height),
    });
  }
  brush.input.addEventListener("input", placeCursor);
  placeCursor();

  function set(bytes) {
    picture.set(bytes);
    paint(canvas, picture);
  }
  function stroke([x0, y0], [x1, y1]) { // the brush has a soft edge of one pixel
    const [radius, dx, dy] = [brush.value() / 2, x1 - x0, y1 - y0];
    for (let n = 0; n < picture.length; n++) {
      const [x, y] = [(n % width) - x0, Math.floor(n / width) - y0];
      const along = dx || dy ? Math.min(1, Math.max(0, (x * dx + y * dy) / (dx * dx + dy * dy))) : 0;
      const far = Math.hypot(x - along * dx, y - along * dy);
      const cover = Math.min(1, Math.max(0, radius + 0.5 - far));
      picture[n] = Math.round(picture[n] + cover * (shade.value() - picture[n]));
    }
    paint(canvas, picture);
    changed();
  }

  function placeOf({ clientX, clientY }) {
    const box = canvas.getBoundingClientRect();
    return [((clientX - box.left) / box.width) * width - 0.5, ((clientY - box.top) / box.height) * height - 0.5];
  }
  let last = null; // where the pointer was, while it draws
  canvas.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    canvas.setPointerCapture(event.pointerId);
    last = placeOf(event);
    stroke(last, last);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!last) return;
    const moves = event.getCoalescedEvents?.() ?? []; // a quick hand moves several times a frame
    for (const to of (moves.length ? moves : [event]).map(placeOf)) {
      stroke(last, to);
      last = to;
    }
  });
  for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => (last = null));
  canvas.addEventListener("keydown", (event) => {
    const move = MOVES[event.key];
    const isPaint = [" ", "Enter"].includes(event.key);
    if (!move && !isPaint) return;
    event.preventDefault();
    const from = at;
    const inside = (place, n) => Math.min(Math.max(place, 0), [width, height][n] - 1);
    if (move) at = at.map((place, n) => inside(place + move[n], n));
    placeCursor();
    if (isPaint || event.shiftKey) stroke(from, at);
    else moved();
  });

  const hint = make("p", { class: "im-note", id: `${id}-hint` },
    "Draw with mouse, pen or finger, also over an image. By keyboard: arrows move the brush, Space paints, Shift with an arrow paints on the way.");
  const node = make("div", {}, make("div", { class: "im-frame" }, canvas, cursor),
    brush.node, shade.node, make("div", { class: "im-buttons" }, clear), hint);
  const place = () => (document.activeElement === canvas ? `row ${at[1] + 1}, column ${at[0] + 1}; ` : "");
  return { node, picture, set, place };
}
